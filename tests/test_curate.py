"""Curation: what to drop is chosen on one half of trusted data, retrained, and judged on the other half."""

import csv
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers_cli import fails
from helpers_cli import run as command
from torch import nn

import influencekit as ik
from influencekit._verbs.curate import cost
from influencekit._verbs.curate.sets import intervals
from influencekit._verbs.curate.trusted import split

N, TRUSTED, FLIPPED = 60, 240, 6
KS = (1, 3, 6, 12)
per_example = nn.CrossEntropyLoss(reduction="none")


def sample(n, seed):
    """Two classes that a line separates, up to noise, in float64."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(n, 3, generator=generator, dtype=torch.float64)
    noise = torch.randn(n, generator=generator, dtype=torch.float64)
    return x, (x @ torch.tensor([2.0, -1.0, 0.5], dtype=torch.float64) + 0.3 * noise > 0).long()


def training(flipped=FLIPPED):
    """The training examples, of which the first ones have the other label."""
    x, y = sample(N, 0)
    y[:flipped] = 1 - y[:flipped]
    return x, y


def linear():
    model = nn.Linear(3, 2).double()
    for p in model.parameters():
        nn.init.zeros_(p)
    return model


def workload(flipped=FLIPPED, **changes):
    given = {
        "model": linear(), "loss": per_example, "train": training(flipped), "test": sample(TRUSTED, 1),
        "optimizer": ik.SGD(lr=0.5), "epochs": 6, "batch_size": 10,
        "train_ids": [f"row, {k}" for k in range(N)],
    }  # fmt: skip
    return ik.Workload(**given | changes)


def taped(test):
    """The same training as a loop of the user's own, under a tape."""
    model, data = linear(), torch.utils.data.TensorDataset(*training())
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    order = workload().plan.indices
    with ik.Tape(None, model, optimizer, loss=per_example, data=data) as tape:
        for epoch in order.split(6):
            loader = torch.utils.data.DataLoader(data, batch_sampler=epoch.tolist())
            for _, (x, y) in tape.batches(loader):
                optimizer.zero_grad()
                per_example(model(x), y).mean().backward()
                optimizer.step()
    return tape.trajectory(test=test)


def losses_without(gone):
    """Losses [trusted] after a plain loop on the same batches, with the examples `gone` masked."""
    model, (x, y), test = linear(), training(), sample(TRUSTED, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    stays = torch.ones(N, dtype=torch.float64)
    stays[list(gone)] = 0
    for batch in workload().plan.indices:
        optimizer.zero_grad()
        ((stays[batch] * per_example(model(x[batch]), y[batch])).sum() / len(batch)).backward()
        optimizer.step()
    with torch.no_grad():
        return per_example(model(test[0]), test[1]).numpy()


@dataclass(frozen=True)
class Chance(ik.Estimator):
    """Scores that mean nothing."""

    seed: int = 0

    @property
    def claims(self):
        return frozenset({ik.Claim.WINDOWED})

    def scores(self, trajectory, query, windows):
        generator = torch.Generator().manual_seed(self.seed)
        n = len(query.labels(trajectory.workload)), len(windows), trajectory.workload.n_train
        return torch.randn(*n, generator=generator, dtype=torch.float64)


@pytest.fixture(scope="module")
def run():
    return ik.record(workload())


@pytest.fixture(scope="module")
def found(run):
    return ik.curate(run, choosers=["dit", "if"], k=KS, draws=3)


def test_the_effects_are_those_of_a_plain_loop_without_each_set(found):
    """To 1e-12: both are float64, and sum the same batches in another order."""
    full, judge = losses_without([]), found.held_out.values
    for name in found.chooser.values:
        for k in KS:
            gone = found.removed.sel(chooser=name, k=k).values.nonzero()[0]
            change = losses_without(gone) - full
            one = found.sel(chooser=name, k=k)
            np.testing.assert_allclose(one.effect, change[judge].mean(), rtol=0, atol=1e-12)
            np.testing.assert_allclose(one.choosing_effect, change[~judge].mean(), rtol=0, atol=1e-12)
            assert one.low < one.effect < one.high
    assert found.loss_held_out == pytest.approx(full[judge].mean(), abs=1e-12)


def test_a_tape_of_the_same_loop_gives_the_same(run, found):
    """Trusted examples come as a data set here, and as the run's own test set there."""
    trusted = torch.utils.data.TensorDataset(*sample(TRUSTED, 1))
    again = ik.curate(taped(None), trusted, choosers=["dit", "if"], k=KS, draws=3)
    for name in ("effect", "low", "high", "choosing_effect", "predicted", "random", "influence"):
        np.testing.assert_allclose(again[name], found[name], rtol=0, atol=1e-9, err_msg=name)
    assert again.attrs["recommendation"] == found.recommendation


def test_sets_are_nested_and_the_lowest_scores_on_the_half_that_chose(run, found):
    x, y = sample(TRUSTED, 1)
    chose = torch.from_numpy(~found.held_out.values)
    alone = ik.record(workload(test=(x[chose], y[chose])))
    for name in found.chooser.values.tolist():
        scores = ik.estimate(alone, "test-loss", name).influence.values.ravel()
        masks = found.removed.sel(chooser=name).values
        for mask, k in zip(masks, KS, strict=True):
            assert set(mask.nonzero()[0]) == set(np.argsort(scores)[:k])
        assert all((small <= large).all() for small, large in zip(masks, masks[1:], strict=False))
        sums = [np.sort(scores)[:k].sum() for k in KS]
        np.testing.assert_allclose(found.predicted.sel(chooser=name), sums, rtol=1e-9)


@pytest.mark.parametrize("count", [20, 33])
def test_the_split_is_disjoint_seeded_and_covers(count):
    choose, judge = split(count, 5)
    assert sorted([*choose, *judge]) == list(range(count)) and len(judge) - len(choose) == count % 2
    assert (split(count, 5)[0] == choose).all() and (split(count, 6)[0] != choose).any()


def test_the_seed_says_who_judges(run, found):
    other = ik.curate(run, k=KS, draws=3, seed=1)
    assert (other.held_out != found.held_out).any() and other.held_out.sum() == TRUSTED // 2


def test_planted_wrong_labels_are_found_and_the_verdict_says_so(found):
    """Six of sixty labels are wrong; of six random examples four such would be among them once in 3,000
    times. Leaving them out helps on data that nobody chose on."""
    best = found.sel(chooser=found.attrs["chooser"], k=found.attrs["size"])
    assert best.choosing_effect == found.choosing_effect.min() and best.high < 0
    dropped = found.is_influence_issue.values
    assert dropped.sum() == found.attrs["size"] and dropped[:FLIPPED].sum() >= FLIPPED - 2
    assert (dropped == best.removed.values).all()
    assert found.recommendation == f"drop the {dropped.sum()} most harmful by {found.attrs['chooser']}"
    assert found.verdict.startswith(f"{found.recommendation}: the mean loss of {TRUSTED // 2} examples")
    for number in (best.effect, best.low, best.high, best.random.mean()):
        assert f"{float(number):+.2g}" in found.verdict
    assert best.effect < best.random.min() and "no better than" not in found.verdict
    scores = found.influence_score.values
    assert scores[dropped].max() <= scores[~dropped].min() and (scores[dropped] < 0.5).all()
    assert 0 <= scores.min() and scores.max() <= 1 and np.abs(scores - 0.5).max() == 0.5


def test_random_scores_drop_nothing():
    """On a problem without wrong labels. What they choose is no better than chance, so of six choices at 95
    % nearly all end in nothing."""
    run = ik.record(workload(flipped=0))
    found = [ik.curate(run, choosers=Chance(s), k=(6, 12), draws=1, seed=s) for s in range(6)]
    nothing = [one for one in found if one.recommendation == "drop nothing"]
    assert len(nothing) >= 5
    for one in nothing:
        assert not one.is_influence_issue.any() and one.verdict.startswith("drop nothing: ")
        best = one.sel(chooser=one.attrs["chooser"], k=one.attrs["size"])
        assert best.high >= 0 or best.choosing_effect >= 0
        assert ("none of the 2 sets" in one.verdict) == bool(best.choosing_effect >= 0)


def test_the_interval_is_that_of_a_plain_bootstrap():
    """Ends of 2,000 resamples of 50 examples lie within a tenth of the interval's width of those of another
    2,000."""
    values = np.random.default_rng(0).exponential(size=50)
    low, high = intervals(values[:, None], 0.9, 2000, 0)
    generator = np.random.default_rng(1)
    means = [generator.choice(values, len(values)).mean() for _ in range(2000)]
    np.testing.assert_allclose(
        [low[0], high[0]], np.quantile(means, [0.05, 0.95]), rtol=0, atol=(high[0] - low[0]) / 10
    )


def test_scores_for_sets_come_with_their_intercept(run):
    """And what such scores cache of a run is that of the half that chose."""
    x, y = sample(TRUSTED, 1)
    found = ik.curate(run, choosers="dit:centre=0.9", k=(2,), draws=1)
    chose = torch.from_numpy(~found.held_out.values)
    scores = ik.estimate(ik.record(workload(test=(x[chose], y[chose]))), "test-loss", "dit:centre=0.9")
    total = np.sort(scores.influence.values.ravel())[:2].sum() + scores.intercept.item()
    assert found.predicted.item() == pytest.approx(total, rel=1e-9)


def test_examples_that_no_step_holds_are_in_no_set():
    order = torch.arange(N)[:40].reshape(4, 10)
    found = ik.curate(ik.record(workload(order=order, epochs=1)), k=(5, 39), draws=4)
    assert not found.removed.values[..., 40:].any() and np.isfinite(found.random).all()


# what is refused --------------------------------------------------------------------------------------------


def few(n):
    x, y = sample(TRUSTED, 1)
    return x[:n], y[:n]


def mixed(copies):
    """Trusted examples of which some are training examples."""
    return tuple(torch.cat([a[:copies], b[copies:]]) for a, b in zip(training(), few(TRUSTED), strict=True))


def other_classes():
    x, y = few(TRUSTED)
    return x, torch.where(torch.arange(TRUSTED) < 3, 7, y)


@pytest.mark.parametrize(("options", "said"), [
    ({"trusted": few(19)}, "trusted: expected at least 20 examples, got 19; half of them choose"),
    ({"trusted": mixed(30)}, "trusted: 30 of 240 examples are also trained on .* first '0'"),
    ({"trusted": other_classes()}, r"3 of 240 examples have labels that no training example has \(7\)"),
    ({"trusted": few(30)[:1]}, "trusted: expected the entries of a training example, 0, 1; got 0"),
    ({"trusted": np.zeros((30, 3))}, "trusted: "),
    ({"trusted": 3}, "trusted: expected a batch of tensors, as in trusted=.x, y., or a data set, got int"),
    ({"k": (0, 3)}, "k must be different whole numbers from 1 to 59"),
    ({"k": (N,)}, "k must be different whole numbers from 1 to 59"),
    ({"choosers": "loo:examples=5"}, "examples=5.* scored 5 examples, and the largest set has 12; let it"),
    ({"choosers": []}, "choosers"),
    ({"draws": 0}, "draws must be at least 1"),
    ({"level": 1}, "level must be above 0"),
    ({"seed": 0.5}, "seed must be"),
])  # fmt: skip
def test_bad_input_is_refused_in_one_line(run, options, said):
    with pytest.raises(ik.InputError, match=said) as error:
        ik.curate(run, **options)
    assert "\n" not in str(error.value)


def test_without_trusted_data_it_says_what_they_are():
    with pytest.raises(ik.InputError, match=r"trusted data: examples with right labels that the run was not"):
        ik.curate(taped(None))
    with pytest.raises(ik.InputError, match="expected a recorded run"):
        ik.curate(workload())


def test_a_few_copies_are_left_out_and_it_says_so(run):
    found = ik.curate(run, mixed(3), k=(2,), draws=1)
    assert found.trusted.values.tolist() == list(range(3, TRUSTED))
    assert "3 trusted examples are also trained on, and were left out" in found.caution
    with pytest.raises(ik.InputError, match="got 19 once 2 that are also trained on are left out"):
        ik.curate(run, tuple(x[:21] for x in mixed(2)))


def test_whole_numbers_of_a_regression_are_no_classes():
    def squares(outputs, target):
        return (outputs[:, 0] - target) ** 2

    x, _ = sample(TRUSTED, 1)
    train, test = (sample(N, 0)[0], torch.arange(N).double() / 10), (x, torch.arange(TRUSTED).double())
    train = train[0], train[1].round()
    run = ik.record(workload(train=train, test=test, loss=squares, optimizer=ik.SGD(lr=0.01)))
    assert ik.curate(run, k=(1,), draws=1).sizes["trusted"] == TRUSTED


# cost, files, commands --------------------------------------------------------------------------------------


def test_a_plan_is_said_before_what_takes_long(run, monkeypatch, capsys):
    ik.curate(run, k=(2,), draws=1)
    assert capsys.readouterr().err == ""
    monkeypatch.setattr(cost, "_LONG", 0)
    ik.curate(run, k=(2,), draws=1)
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("curate: 2 sets are retrained, 2 at a time: about 0 s")
    monkeypatch.setenv("INFLUENCEKIT_PROGRESS", "0")
    ik.curate(run, k=(2,), draws=1)
    assert capsys.readouterr().err == ""


CODE = """
import sys
sys.path.insert(0, {tests!r})
from test_curate import few, sample, workload

trusted = sample(50, 2)

def parts():
    return workload()

def small():
    return few(10)
"""


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("curated")
    ik.record(workload(), store=folder / "run.zarr")
    (folder / "train.py").write_text(CODE.format(tests=str(Path(__file__).parent)), encoding="utf-8")
    return folder


def test_the_command_says_what_python_says_and_its_list_is_read_back(files, run, found, tmp_path):
    store, code, path = files / "run.zarr", files / "train.py", tmp_path / "drop.csv"
    options = ["--code", f"{code}:parts", "--choosers", "dit,if", "--k", "1,3,6,12", "--draws", "3"]
    shown = command("curate", store, *options, "--out", path).stdout
    assert found.verdict in shown.splitlines() and f"saved in {path}" in shown
    for name in found.chooser.values:
        for k in KS:
            one = found.sel(chooser=name, k=k)
            assert f"{float(one.effect):+.3e}  {float(one.low):+.3e} to {float(one.high):+.3e}" in shown
    with path.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [*rows[0]] == ["id", "label", "influence_score", "is_influence_issue"] and len(rows) == N
    dropped = {row["id"] for row in rows if row["is_influence_issue"] == "True"}
    assert dropped == set(found.train.values[found.is_influence_issue.values])
    values = [float(row["influence_score"]) for row in rows]
    assert values == sorted(values)
    again = ik.remove(run, ids=path, parts=1)
    assert set(again.train.values) == dropped
    best = found.sel(chooser=found.attrs["chooser"], k=found.attrs["size"])
    mean = (float(best.effect) + float(best.choosing_effect)) / 2  # the halves are of one size
    assert again.retrained.item() == pytest.approx(mean, abs=1e-12)
    said = command("estimate", store, "--code", f"{code}:parts", "--remove", path, "--trust", "none").stdout
    assert f"without all {len(dropped)} examples of the set" in said


def test_the_command_takes_trusted_data_from_a_file(files, run, tmp_path):
    code, out = files / "train.py", tmp_path / "found.zarr"
    options = ["--code", f"{code}:parts", "--trusted", f"{code}:trusted", "--k", "2", "--seed", "3"]
    command("curate", files / "run.zarr", *options, "--out", out)
    import xarray as xr

    saved, mine = xr.open_zarr(out), ik.curate(run, sample(50, 2), k=(2,), seed=3)
    np.testing.assert_array_equal(saved.effect, mine.effect)
    assert saved.attrs["verdict"] == mine.verdict


def test_the_command_refuses_in_one_line(files, tmp_path):
    store, code = files / "run.zarr", files / "train.py"
    base = ["curate", store, "--code", f"{code}:parts"]
    assert "--k 2,x: expected whole numbers" in fails(*base, "--k", "2,x", code=2)
    assert "--out here.txt: expected a name" in fails(*base, "--out", "here.txt", code=2)
    assert f"--trusted {code}:none: " in fails(*base, "--trusted", f"{code}:none", code=2)
    assert "got 10; half of them" in fails(*base, "--trusted", f"{code}:small", code=2)
    path = tmp_path / "list.csv"
    for text, said in (
        ("id,is_influence_issue\r\na,False\r\n", "marks no example"),
        ("id,is_influence_issue\r\na\r\n", "fewer cells than the head"),
        ("\n", "holds no example id"),
    ):
        path.write_text(text, encoding="utf-8")
        assert said in fails("estimate", store, "--code", f"{code}:parts", "--remove", path, code=2)
