"""Suspects: what is said of wrong labels holds against slow loops and against labels that are known wrong."""

import numpy as np
import pytest
import torch
import xarray as xr
from helpers_suspects import TRUSTED, WRONG, N, margin, per_example, plain, sample, taped, training, workload
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import influencekit as ik
from influencekit._effects.labels import labels_of
from influencekit._verbs.curate.trusted import split
from influencekit._verbs.suspects.planting import Plant, confused

OPTIONS = {"repeats": 3, "folds": 3, "verify": 3}


@pytest.fixture(scope="module")
def run():
    return ik.record(workload())


@pytest.fixture(scope="module")
def found(run):
    return ik.suspects(run, **OPTIONS)


# the result -------------------------------------------------------------------------------------------------


def test_planted_and_real_wrong_labels_are_found(found):
    """Six of sixty labels are wrong, of classes that lie three deviations apart."""
    first = found["rank"].values.argsort()[: WRONG + 2]
    assert len(set(first) & set(range(WRONG))) >= WRONG - 1
    assert (found.auc > 0.8).all() and ((found.auc_low <= found.auc) & (found.auc <= found.auc_high)).all()
    assert found.issues_low <= WRONG <= found.issues_high
    marked = found.is_label_issue.values
    assert marked[:WRONG].sum() >= WRONG - 2 and marked.sum() <= WRONG + 3
    assert (found.action.values[marked] != "keep").all() and (found.action.values[~marked] == "keep").all()
    assert found.attrs["lead"] == found.by.values[found.auc.values.argmax()]
    assert found.verdict.startswith(f"about {round(found.issues.item())} of {N} labels look wrong")
    assert f"{found.attrs['lead']} finds planted wrong labels best" in found.verdict
    assert f"{int(marked.sum())} are marked" in found.verdict


def test_a_tape_of_the_same_loop_gives_the_same(found):
    again = ik.suspects(taped(sample(TRUSTED, 1)), **OPTIONS)
    for name in (
        "score", "auc", "precision", "suspicion", "expected_precision", "remove_effect", "relabel_effect",
        "remove_set", "relabel_set", "issues", "learnt",
    ):  # fmt: skip
        np.testing.assert_allclose(again[name], found[name], rtol=0, atol=1e-8, err_msg=name)
    for name in ("action", "given", "predicted", "is_label_issue"):
        assert (again[name].values == found[name].values).all()
    assert again.verdict == found.verdict


def test_effects_are_those_of_plain_loops_without_and_with_other_labels(found):
    """To 1e-12: both are float64, and sum the same batches in another order."""
    x, y = sample(TRUSTED, 1)
    _, judge = split(TRUSTED, 0)

    def loss(model):
        return per_example(model(x), y).detach()[judge].mean().item()

    before, labels = loss(plain()), training()[1]
    top = found["rank"].values.argsort()[:3]
    predicted = torch.from_numpy(found.predicted.values.astype(int))
    for rows in (*top[:, None], top):
        other = labels.clone()
        other[rows] = predicted[rows]
        removed, relabelled = loss(plain(without=rows)) - before, loss(plain(other)) - before
        if len(rows) == 1:
            one = found.isel(train=int(rows[0]))
            pairs = (one.remove_effect, removed), (one.relabel_effect, relabelled)
        else:
            one = found.sel(set="verified")
            pairs = (one.remove_set, removed), (one.relabel_set, relabelled)
            assert one.remove_set_low <= one.remove_set <= one.remove_set_high
        for value, truth in pairs:
            assert value.item() == pytest.approx(truth, abs=1e-12)
    assert found.remove_effect.notnull().sum() == 3
    assert found.sel(set="marked").set_size == found.is_label_issue.sum()


def test_what_is_learnt_when_is_that_of_loops_that_end_after_each_epoch(found):
    x, y = training()
    right = torch.stack([margin(plain(epochs=e)(x), y) > 0 for e in (1, 2, 3, 4)]).numpy()
    for j in range(N):
        epochs = [e for e in (1, 2, 3, 4) if right[e - 1 :, j].all()]
        assert np.array_equal(found.learnt.values[j], min(epochs, default=np.nan), equal_nan=True)


def test_scores_are_those_of_estimate_on_the_half_that_is_asked(run, found):
    choose, _ = split(TRUSTED, 0)
    x, y = sample(TRUSTED, 1)
    half = ik.record(workload(test=(x[choose], y[choose])))
    for name in ("final-loss", "aum", "out-of-fold", "dit"):
        one = ik.estimate(half, "test-loss", name).influence.values.ravel()
        np.testing.assert_allclose(found.score.sel(by=name), one, rtol=1e-9, atol=1e-12)


def test_precision_falls_with_k_and_suspicion_is_what_one_more_adds(found):
    precision, order = found.expected_precision.values, found["rank"].values.argsort()
    assert (np.diff(precision) <= 1e-12).all() and 0 <= precision.min() and precision.max() <= 1
    assert ((found.expected_low <= found.expected_precision) & (precision <= found.expected_high)).all()
    sums = np.cumsum(found.suspicion.values[order])
    np.testing.assert_allclose(sums, precision * found.k.values, atol=1e-9)


def test_the_seed_decides_everything(run, found):
    again = ik.suspects(run, **OPTIONS)
    xr.testing.assert_identical(again, found)
    other = ik.suspects(run, **OPTIONS, seed=1)
    assert (other.auc != found.auc).any()


def test_without_trusted_data_it_gives_a_bound_and_marks_nothing():
    """A bound is no estimate: what is not known is NaN, and nothing is to be done."""
    one = ik.suspects(taped(None), **OPTIONS)
    assert "dit" not in one.by.values and "remove_effect" not in one and one.issues_low == 0
    assert one.verdict.startswith(f"at most about {round(one.issues_high.item())} of {N} labels are wrong")
    assert "none is marked: only trusted data would say how many" in one.verdict
    assert "should be wrong" not in one.verdict and "upper bounds" in one.caution
    assert not one.is_label_issue.any() and set(one.action.values) == {"keep"}
    assert one.suspicion.isnull().all() and one.expected_precision.isnull().all() and one.issues.isnull()
    assert one.issues_high >= WRONG / 2 and (one.expected_low == 0).all()
    first = one["rank"].values.argsort()[: WRONG + 2]
    true = np.isin(first, np.arange(WRONG)).cumsum() / np.arange(1, WRONG + 3)
    assert len(set(first) & set(range(WRONG))) >= WRONG - 1 and (true <= one.expected_high[: WRONG + 2]).all()


def test_of_a_loop_that_loads_its_best_weights_again_aum_is_not_asked():
    """The other scores are of the weights that were loaded."""
    run = taped(sample(TRUSTED, 1), best=1)
    one = ik.suspects(run, **OPTIONS | {"verify": 0})
    assert one.by.values.tolist() == ["final-loss", "out-of-fold", "dit", "combined"]
    assert "aum, which looks at all epochs, cannot be asked of reloaded and was left out" in one.caution
    x, y = training()
    np.testing.assert_allclose(one.score.sel(by="final-loss"), -per_example(plain(epochs=2)(x), y).detach())
    with pytest.raises(ik.InputError, match="aum cannot be asked of reloaded, .*; leave aum out of scores"):
        ik.suspects(run, scores="final-loss,aum".split(","), **OPTIONS)


def test_a_clean_run_marks_hardly_anything():
    one = ik.suspects(ik.record(workload(wrong=0)), **OPTIONS)
    assert one.issues_low == 0 and one.is_label_issue.sum() <= 3
    assert f"{TRUSTED} trusted examples are too few to rule out that no label is wrong (p = " in one.caution
    assert (one.expected_low == 0).all()


def test_labels_that_are_coins_cannot_be_told():
    def coins(n, seed):
        generator = torch.Generator().manual_seed(seed + 100)
        return sample(n, seed)[0], torch.randint(0, 3, (n,), generator=generator)

    run = ik.record(workload(train=coins(N, 5), test=coins(TRUSTED, 6)))
    one = ik.suspects(run, scores=["final-loss", "out-of-fold"], repeats=3, folds=3, verify=0)
    assert one.auc_low.sel(by=one.attrs["lead"]) <= 0.5 and not one.is_label_issue.any()
    assert one.verdict.startswith("no score finds planted wrong labels better than chance in these data")
    assert one.issues_high - one.issues_low > N / 4


def squares(outputs, target):
    return (outputs - target) ** 2


def test_a_regression_with_swapped_targets():
    x, t = sample(100, 0)[0], sample(60, 1)[0]
    y, swapped = x.sum(1), torch.arange(8)
    wrong = y.clone()
    wrong[swapped] = y[swapped.roll(1)]
    model = nn.Sequential(nn.Linear(3, 1), nn.Flatten(0)).double()
    given = {"model": model, "loss": squares, "train": (x, wrong), "test": (t, t.sum(1))}
    one = ik.suspects(ik.record(workload(**given, optimizer=ik.SGD(lr=0.05), epochs=6)), **OPTIONS)
    assert "aum" not in one.by.values and one.learnt.isnull().all()
    far = ((wrong - y).abs() > y.std()).nonzero().ravel().tolist()  # a swap between near targets is none
    assert len(far) >= 3 and set(far) <= set(one["rank"].values.argsort()[:10].tolist())
    assert one.relabel_effect.notnull().sum() == 3 and "relabel" not in one.action.values
    assert one.predicted.dtype.kind == one.given.dtype.kind == "f"


def plant(run):
    labels = labels_of(run.workload)
    evidence = torch.zeros(N, 3, dtype=torch.float64)
    evidence[:, 2] = 5
    return Plant(labels, confused(labels, evidence))


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 1000), st.floats(0.05, 0.5))
def test_planted_labels_are_others_of_used_examples(seed, fraction):
    run = ik.record(workload(order=torch.arange(40).reshape(4, 10), epochs=1))
    changed, mask = plant(run).planted(run.workload, np.arange(40), fraction, np.random.default_rng(seed))
    rows, y = changed.positions, run.workload.train[1]
    assert rows.tolist() == mask.nonzero()[0].tolist() and mask.sum() == max(round(fraction * 40), 4)
    assert not mask[40:].any() and (changed.values[1] != y[rows]).all() and (changed.values[1] < 3).all()


def test_flips_go_where_models_err_and_anywhere(run):
    """Half of them by confusion, which here is class 2 all over, half of them to any other class."""
    towards = plant(run).towards
    np.testing.assert_allclose(towards.sum(1), 1)
    assert (towards.diagonal() == 0).all()
    np.testing.assert_allclose(towards[0], [0, 0.25, 0.75], atol=0.01)
    np.testing.assert_allclose(towards[2], [0.5, 0.5, 0], atol=0.01)


class Text(nn.Module):
    """What follows a token, of 13."""

    def __init__(self):
        super().__init__()
        self.e = nn.Embedding(13, 13, dtype=torch.float64)
        nn.init.zeros_(self.e.weight)

    def forward(self, input_ids, attention_mask=None):
        return self.e(input_ids)


def next_token(z, y):
    return nn.functional.cross_entropy(z[:, :-1].mT, y[:, 1:], reduction="none").mean(1)


def text(train, test, **changes):
    given = {"model": Text(), "loss": next_token, "optimizer": ik.SGD(lr=3.0), "batch_size": 10, "epochs": 5}
    return ik.Workload(train=train, test=test, **given | changes)


def test_documents_keep_their_tokens_and_padding():
    ids = torch.tensor([[5, 6, 7, 0, 0], [8, 9, 10, 11, 12]])
    mask = (ids > 0).long()
    batch = {"input_ids": ids, "attention_mask": mask, "labels": torch.where(mask > 0, ids, -100)}
    found = Plant(labels_of(text(batch, batch, batch_size=2)), None).of_batch(batch, np.random.default_rng(1))
    assert (found["attention_mask"] == mask).all() and (found["input_ids"][0, 3:] == 0).all()
    for k in (0, 1):
        assert sorted(found["input_ids"][k].tolist()) == sorted(ids[k].tolist())
    assert (torch.where(mask > 0, found["input_ids"], -100) == found["labels"]).all()
    assert (found["input_ids"] != ids).any()


def test_shuffled_documents_of_a_language_model_are_found():
    """Documents that count upwards by ones and twos, of which the first five are in random order."""
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(1, 3, (80, 12), generator=generator).cumsum(1) % 13
    for k in range(5):
        ids[k] = ids[k, torch.randperm(12, generator=generator)]
    parts = [{"input_ids": x, "labels": x.clone()} for x in (ids[:50], ids[50:])]
    one = ik.suspects(ik.record(text(*parts)), scores=["final-loss", "dit"], repeats=2, folds=2, verify=2)
    assert set(one["rank"].values.argsort()[:5]) == set(range(5))
    assert one.is_label_issue.values[:5].sum() >= 4 and set(one.action.values) == {"drop", "keep"}
    assert "relabel_effect" not in one and "given" not in one and one.learnt.isnull().all()
    assert one.remove_effect.notnull().sum() == 2 and one.auc.min() > 0.9
    with pytest.raises(ik.InputError, match="aum needs labels that are classes"):
        ik.suspects(ik.record(text(*parts)), scores="aum")


# what is refused --------------------------------------------------------------------------------------------


def few(n):
    x, y = sample(TRUSTED, 1)
    return x[:n], y[:n]


@pytest.mark.parametrize(("options", "said"), [
    ({"trusted": few(19)}, "trusted: expected at least 20 examples, got 19"),
    ({"trusted": 3}, "trusted: expected a batch of tensors"),
    ({"scores": "loo:examples=5"}, "suspects: loo:examples=5 scored 5 of 60 examples; let it score all"),
    ({"scores": []}, "scores: expected at least one, got none"),
    ({"scores": "nothing"}, "nothing"),
    ({"fraction": 0}, "fraction must be above 0"),
    ({"fraction": 0.6}, "fraction must be above 0.0 and at most 0.5"),
    ({"repeats": 1}, "repeats must be at least 2"),
    ({"folds": 1}, "folds must be at least 2"),
    ({"folds": N + 1}, "folds must be from 2 to the number of examples, 60; got 61"),
    ({"verify": -1}, "verify must be at least 0"),
    ({"level": 1}, "level must be above 0"),
    ({"seed": 0.5}, "seed must be"),
])  # fmt: skip
def test_bad_input_is_refused_in_one_line(run, options, said):
    with pytest.raises(ik.InputError, match=said) as error:
        ik.suspects(run, **options)
    assert "\n" not in str(error.value)


def test_what_cannot_be_wrong_is_refused():
    x, y = training()
    with pytest.raises(ik.InputError, match="all training examples have the same label"):
        ik.suspects(ik.record(workload(train=(x, torch.zeros_like(y)), test=(x + 1, torch.zeros_like(y)))))
    with pytest.raises(ik.InputError, match="dit asks trusted examples, and there are none; pass trusted="):
        ik.suspects(taped(None), scores="dit")
    with pytest.raises(ik.InputError, match="expected a recorded run"):
        ik.suspects(workload())
    with pytest.raises(ik.InputError, match="aum needs labels that are classes"):
        model = nn.Sequential(nn.Linear(3, 1), nn.Flatten(0)).double()
        given = {"model": model, "loss": squares, "train": (x, x.sum(1)), "test": (x + 1, x.sum(1))}
        ik.suspects(ik.record(workload(**given, optimizer=ik.SGD(lr=0.01))), scores="aum")
