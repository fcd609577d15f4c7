"""Label-quality scores equal slow loops; training with other labels is what training with them would be."""

import numpy as np
import pytest
import torch
from helpers_suspects import TRUSTED, N, margin, per_example, plain, sample, taped, training, workload
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import influencekit as ik
from influencekit._effects.labels import judge_all, labels_of
from influencekit._effects.out_of_fold import folds_of
from influencekit._effects.retrain import Weighting, retrained
from influencekit._training.accuracy import accuracy
from influencekit._training.batch import NewEntries, select
from influencekit._verbs.changed_data import rerun_with
from influencekit.evaluation import flipped
from influencekit.testing import parametrize_with_checks


@pytest.fixture(scope="module")
def run():
    return ik.record(workload())


def scores(run, spec):
    return torch.from_numpy(ik.estimate(run, "test-loss", spec).influence.values[0, 0].copy())


@parametrize_with_checks(["out-of-fold:folds=3:repeats=2"])  # those without options: test_conformance
def test_conformance(subject, check):
    check(subject)


# the scores -------------------------------------------------------------------------------------------------


def test_final_loss_is_that_of_a_plain_loop(run):
    """To 1e-12: both are float64."""
    x, y = training()
    torch.testing.assert_close(
        scores(run, "final-loss"), -per_example(plain()(x), y).detach(), atol=1e-12, rtol=0
    )


@pytest.mark.parametrize("recorder", ["full", "every-k:k=7", "revolve:states=3"])
def test_aum_is_the_mean_margin_of_loops_that_end_after_each_epoch(recorder):
    x, y = training()
    each = [margin(plain(epochs=e)(x).detach(), y) for e in (1, 2, 3, 4)]
    found = scores(ik.record(workload(), recorder), "aum")
    torch.testing.assert_close(found, torch.stack(each).mean(0), atol=1e-12, rtol=0)


@pytest.mark.parametrize("strategy", ["batch", "loop"])
def test_out_of_fold_is_the_margin_under_a_plain_loop_without_the_fold(run, strategy):
    x, y = training()
    found = scores(run, f"out-of-fold:folds=4:repeats=2:strategy={strategy}")
    parts, z = folds_of(run.workload, 4, 2, 0), torch.zeros(N, 3, dtype=torch.float64)
    assert torch.cat(parts).bincount().tolist() == [2] * N
    for part in parts:
        z[part] += plain(without=part.tolist())(x[part]).detach().log_softmax(1) / 2
    torch.testing.assert_close(found, margin(z, y), atol=1e-12, rtol=0)


def test_a_fold_that_no_step_holds_is_judged_by_the_recorded_model():
    run = ik.record(workload(order=torch.tensor([[0, 1], [1, 0]]), epochs=1))
    z = run.workload.outputs(run.final.theta, run.workload.train)
    unused = torch.cat([part for part in folds_of(run.workload, 6, 1, 0) if int(part.min()) > 1])
    assert len(unused) >= 40
    found = scores(run, "out-of-fold:folds=6")
    torch.testing.assert_close(found[unused], margin(z, training()[1])[unused], atol=1e-12, rtol=0)


@pytest.mark.parametrize("labels", [torch.float64, torch.int64])
def test_the_margin_of_one_logit_is_its_size_towards_the_label(labels):
    def loss(z, y):
        return nn.functional.binary_cross_entropy_with_logits(z, y.to(z), reduction="none")

    x, y = sample(N, 0, classes=2)
    model = nn.Sequential(nn.Linear(3, 1), nn.Flatten(0)).double()
    data = x, y.to(labels)
    run = ik.record(workload(model=model, loss=loss, train=data, test=data, epochs=1))
    z = run.workload.outputs(run.final.theta, data)
    torch.testing.assert_close(scores(run, "aum"), (2 * y - 1) * z, atol=1e-12, rtol=0)


def squares(outputs, target):
    return (outputs - target) ** 2


def regression(**changes):
    x, _ = sample(N, 0)
    t, _ = sample(40, 1)
    model = nn.Sequential(nn.Linear(3, 1), nn.Flatten(0)).double()
    given = {"model": model, "loss": squares, "train": (x, x.sum(1)), "test": (t, t.sum(1))}
    return workload(**given | {"optimizer": ik.SGD(lr=0.01)} | changes)


def test_a_regression_has_losses_and_aum_refuses_it_by_name():
    run = ik.record(regression())
    assert labels_of(run.workload).kind == "numbers"
    with pytest.raises(ik.InputError, match="aum needs labels that are classes.*a regression has none"):
        ik.estimate(run, "test-loss", "aum")
    found, own = scores(run, "out-of-fold"), scores(run, "final-loss")
    assert (found <= 0).all() and float(found.mean()) < float(own.mean())


def one_logit(weight):
    def loss(z, y):
        by = torch.tensor(float(weight), dtype=z.dtype)
        return nn.functional.binary_cross_entropy_with_logits(z, y.to(z), reduction="none", pos_weight=by)

    x, y = sample(N, 0, classes=2)
    x = x / 3  # the model errs now and then
    model = nn.Sequential(nn.Linear(3, 1), nn.Flatten(0)).double()
    test = sample(TRUSTED, 1, classes=2)
    data = {"train": (x, y), "test": (test[0] / 3, test[1])}
    return ik.record(workload(model=model, loss=loss, optimizer=ik.SGD(lr=0.1), **data)), x, y


@pytest.mark.parametrize("weight", [1, 10, 0.1])
def test_what_the_model_says_is_its_output_whatever_the_loss_weighs(weight):
    """The sign of the logit, as for accuracy; and the weighted loss does not say which label is likelier."""
    run, x, y = one_logit(weight)
    labels = labels_of(run.workload)
    assert labels.kind == "two" and labels.middle == 0
    z = run.workload.outputs(run.final.theta, run.workload.train)
    evidence = judge_all(run.workload, run.final.theta, labels).evidence
    assert torch.equal(labels.numbers[evidence.argmax(1)], (z > 0).long())
    right = (labels.margins(evidence) > 0).double().mean().item()
    assert right == pytest.approx(accuracy(z, y, run.workload.calls.loss).value)
    ends = [run.workload.outputs(run.state(t).theta, run.workload.train) for t in (6, 12, 18, 24)]
    torch.testing.assert_close(scores(run, "aum"), (2 * y - 1) * torch.stack(ends).mean(0))
    found = ik.suspects(run, scores="aum", repeats=2, folds=2, verify=0)
    out = torch.zeros(N, dtype=torch.float64)
    parts = folds_of(run.workload, 2, 1, 0)
    for models in retrained(run, [Weighting(part) for part in parts], (0, run.steps), [run.steps]):
        for row, k in enumerate(models.members):
            out[parts[k]] = run.workload.outputs(models.one(row)[0], run.workload.train)[parts[k]]
    assert found.predicted.values.astype(int).tolist() == (out > 0).long().tolist()
    learnt = found.learnt.notnull().values
    assert learnt.tolist() == ((z > 0).long() == y).tolist()


def test_ignored_targets_are_left_out_and_the_rest_are_classes():
    x, y = training()
    run = ik.record(workload(train=(x, y.index_fill(0, torch.tensor([20, 41]), -100))))
    labels = labels_of(run.workload)
    assert labels.kind == "classes" and labels.ignored.nonzero().ravel().tolist() == [20, 41]
    assert scores(run, "aum").isnan().nonzero().ravel().tolist() == [20, 41]
    found = ik.suspects(run, repeats=2, folds=2, verify=2)
    assert "the loss ignores the targets of 2 training examples" in found.caution
    gone, rest = found.isel(train=[20, 41]), found.drop_isel(train=[20, 41])
    assert (
        gone["rank"].isnull().all()
        and gone.suspicion.isnull().all()
        and not gone.is_label_issue.any()
        and gone.learnt.isnull().all()
    )
    assert sorted(rest["rank"].values) == list(range(1, N - 1)) and "aum" in found.by.values
    assert rest.suspicion.notnull().all() and rest.is_label_issue.any()


def gaussian(z, y):
    return (z[:, 0] - y) ** 2 * torch.exp(-z[:, 1]) + z[:, 1]


def test_whole_numbers_are_classes_only_where_the_loss_takes_them_for_classes():
    x, y = sample(N, 0, classes=2)
    one = nn.Sequential(nn.Linear(3, 1), nn.Flatten(0)).double()
    for loss, model, target, kind in (
        (gaussian, nn.Linear(3, 2).double(), y, "other"),
        (squares, one, torch.tensor([3.0, 8.0]).double()[y], "numbers"),
        (squares, one, torch.tensor([-3, 8])[y], "numbers"),
        (squares, one, y.double(), "two"),  # a threshold of a half, as accuracy has it
        (per_example, nn.Linear(3, 2).double(), y, "classes"),
        (per_example, nn.Linear(3, 5).double(), y + 3, "classes"),
        (nn.CrossEntropyLoss(torch.tensor([1.0, 50.0]).double(), reduction="none"), nn.Linear(3, 2).double(),
         y, "classes"),
        (nn.CrossEntropyLoss(label_smoothing=0.2, reduction="none"), nn.Linear(3, 2).double(), y, "classes"),
        (nn.SoftMarginLoss(reduction="none"), one, (2 * y - 1).double(), "two"),
        (nn.BCELoss(reduction="none"), nn.Sequential(one, nn.Sigmoid()), y.double(), "two"),
    ):  # fmt: skip
        data = {"train": (x, target), "test": (x, target)}
        work = workload(model=model, loss=loss, optimizer=ik.SGD(lr=1e-3), epochs=1, **data)
        assert labels_of(work).kind == kind, (loss, kind)
        if not labels_of(work).classify:
            with pytest.raises(ik.InputError, match="aum needs labels that are classes"):
                ik.estimate(ik.record(work), "test-loss", "aum")


def test_a_query_of_which_higher_is_better_turns_the_scores_round(run):
    query = ik.make("query", "prediction:example=0")
    assert query.better is None
    for spec in ("final-loss", "aum"):
        same = ik.estimate(run, query, spec).influence.values.ravel()
        np.testing.assert_array_equal(same, scores(run, spec).numpy())


def test_repeated_options_are_refused_in_one_line(run):
    for spec, said in (
        ("out-of-fold:folds=1", "folds must be at least 2"),
        ("out-of-fold:folds=61", "folds must be"),
    ):
        with pytest.raises(ik.InputError, match=said):
            ik.estimate(run, "test-loss", spec)


# training with other labels ---------------------------------------------------------------------------------


@settings(max_examples=12, deadline=None)
@given(st.dictionaries(st.integers(0, N - 1), st.integers(0, 2), max_size=8))
def test_a_run_with_other_labels_is_the_recorded_run_of_that_data(flips):
    """Bit for bit, for a workload and for a taped loop of the same batches."""
    x, y = training()
    for row, label in flips.items():
        y[row] = label
    changed = NewEntries(
        torch.tensor(list(flips), dtype=torch.int64),
        {1: torch.tensor(list(flips.values()), dtype=torch.int64)},
    )
    expected = ik.record(workload(train=(x, y)))
    again = rerun_with(ik.record(workload()), changed)
    for t in (1, 7, expected.steps):
        assert torch.equal(again.state(t).theta, expected.state(t).theta)
    own = rerun_with(taped(None), changed)
    torch.testing.assert_close(own.final.theta, taped(None, (x, y)).final.theta, atol=0, rtol=0)


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_new_entries_are_written_where_their_examples_are(data):
    n = data.draw(st.integers(1, 9))
    x, y = torch.randn(n, 2), torch.arange(n)
    rows = data.draw(st.lists(st.integers(0, n - 1), min_size=1, max_size=12))
    positions = torch.tensor(
        data.draw(st.lists(st.integers(0, n - 1), unique=True, max_size=n)), dtype=torch.int64
    )
    whole = y.clone()
    whole[positions] = -1 - positions
    batch, before = select((x, y), torch.tensor(rows)), y.clone()
    found = NewEntries(positions, {1: -1 - positions}).within(batch, torch.tensor(rows))
    assert torch.equal(found[1], whole[rows]) and torch.equal(found[0], x[rows]) and torch.equal(y, before)


def test_scores_of_a_run_with_other_labels_are_those_of_that_data(run):
    wrong, mask = flipped(run.workload, 0.2, 3)
    rows = torch.from_numpy(mask.nonzero()[0])
    again = rerun_with(run, NewEntries(rows, {1: wrong.train[1][rows]}))
    for spec in ("final-loss", "aum", "out-of-fold", "dit", "if"):
        torch.testing.assert_close(scores(again, spec), scores(ik.record(wrong), spec), atol=1e-12, rtol=1e-9)


def test_mislabel_auc_of_a_tape_is_that_of_the_recorded_run(run):
    methods = ["dit", "final-loss", "aum", "out-of-fold"]
    one, two = (
        ik.evaluate(each, "mislabel-auc:fraction=0.1", estimators=methods)["mislabel-auc:fraction=0.1"]
        for each in (run, taped(sample(120, 1)))
    )
    assert (one.flipped.values == two.flipped.values).all()
    for name in ("auc", "average_precision", "found", "control_auc", "accuracy"):
        np.testing.assert_allclose(one[name], two[name], atol=1e-9, err_msg=name)
    assert one.auc.sel(estimator="final-loss").item() == pytest.approx(one.control_auc.item())
