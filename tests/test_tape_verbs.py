"""From the tape to the picture: verbs, plots and commands take a taped run, and call things by names."""

import io
import json
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from helpers_cli import fails
from helpers_cli import run as command
from helpers_tape import LOOPS, Examples, N, alone, held_out, losses_at, network, per_example, taped, untraced
from torch.utils.data import Subset

import influencekit as ik
from influencekit import _bars, plot
from influencekit._tape.open_taped import _named_classes
from influencekit.evaluation import detection
from influencekit.progress import listen

LOOP = LOOPS["AdamW, clipped"]
NAMES, CLASSES = [f"img{k:02d}" for k in range(N)], ["bar", "cross", "dot"]
BY_NAME = [CLASSES[y] for y in Examples().y.tolist()]


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    path = tmp_path_factory.mktemp("taped") / "run.zarr"
    taped(LOOP, path, ids=NAMES)
    return path


@pytest.fixture(scope="module", params=["tape", "store"])
def run(request, store):
    with untraced():
        if request.param == "tape":
            yield taped(LOOP, ids=NAMES).open(class_names=CLASSES)
        else:
            parts = {"model": network(), "loss": per_example, "data": Examples(), "test": held_out()}
            yield ik.open(store, **parts, class_names=CLASSES)


def retrained():
    """Effects [N] on the mean test loss of a plain loop without each example."""
    full = losses_at(alone(LOOP)[-1]).mean()
    return np.array(
        [
            float(losses_at(alone(LOOP, lambda _, j=j: (torch.arange(N) != j).double())[-1]).mean() - full)
            for j in range(N)
        ]
    )


# verbs ------------------------------------------------------------------------------------------------------


def test_compare_takes_the_run_as_it_is(run):
    """`loo` is that of a plain loop to 1e-9, and what the estimates are compared with."""
    found = ik.compare(run, ["dit"])
    loo, dit = (found.influence.sel(estimator=n).values.ravel() for n in ("loo", "dit"))
    np.testing.assert_allclose(loo, retrained(), rtol=0, atol=1e-9)
    pearson = found.agreement.sel(estimator="dit", metric="pearson").item()
    assert pearson == pytest.approx(np.corrcoef(dit, loo)[0, 1])
    assert found.train.values.tolist() == NAMES and "example" not in found.coords
    assert found.label.values.tolist() == [BY_NAME] and np.isnan(found.training_seconds).all()
    assert found.accuracy.item() == run.attrs["accuracy"]


VERBS = {
    "estimate": lambda run: ik.estimate(run, windows="each-epoch"),
    "contributions": lambda run: ik.contributions(run),
    "remove": lambda run: ik.remove(run, ids=NAMES[2:5]),
    "verify_top": lambda run: ik.verify_top(run, top=3),
    "trust": lambda run: ik.trust(run, examples=4, method="retrain"),
}


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_names_examples_alike(run, verb):
    found = VERBS[verb](run)
    ids = found.train.values.tolist()
    assert set(ids) <= set(NAMES)
    assert found.label.values.tolist() == [BY_NAME[NAMES.index(each)] for each in ids]


def test_verify_takes_a_run_or_a_store(run, store):
    found = ik.verify(run)
    assert (found.steps, found.gap) == (9, 0.0)
    parts = {"model": network(), "loss": per_example, "data": Examples()}
    with untraced():
        assert ik.verify(store, 2, **parts).steps == 2
    with pytest.raises(ik.InputError, match="verify: loss= is for a store that is opened"):
        ik.verify(run, loss=per_example)


WRONG = {
    "a store": (lambda run, store: ik.estimate(str(store)), "got '.*run.zarr'; open it with open"),
    "the tape": (lambda run, store: ik.trust(taped(LOOP).tape), "got the tape; take tape.trajectory"),
    "its workload": (lambda run, store: ik.contributions(run.workload), "pass the run that it belongs to"),
    "untrained": (
        lambda run, store: ik.remove(ik.make("workload", "mnist-1v7-lr")),
        "not trained; record it",
    ),
    "seeds": (lambda run, store: ik.compare(run, seeds=(0, 1)), "seeds= is for workloads"),
    "recorder": (lambda run, store: ik.compare(run, recorder="full"), "recorder= is for workloads"),
    "to train": (lambda run, store: ik.record(run.workload), "this run is recorded already"),
    "to compare": (lambda run, store: ik.compare(run.workload), "this run is recorded already"),
    "nothing": (lambda run, store: ik.compare(None), "expected a recorded run, got NoneType"),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_is_no_run_is_told_in_one_line(run, store, case):
    call, words = WRONG[case]
    with pytest.raises(ik.InputError, match=words) as caught:
        call(run, store)
    assert "\n" not in str(caught.value)


# plots ------------------------------------------------------------------------------------------------------


def timeline(run):
    return plot.timeline(ik.estimate(run, windows="each-epoch").influence[0], ids=[NAMES[7], NAMES[2]])


def extremes(run):
    pictures = np.random.default_rng(0).random((N, 5, 5))
    return plot.extremes(ik.estimate(run).influence[0, 0], pictures, count=3)


PLOTS = {
    "agreement": lambda run: plot.agreement(ik.compare(run, ["dit"])),
    "scatter": lambda run: plot.scatter(ik.compare(run, ["dit"]), "dit"),
    "timeline": timeline,
    "extremes": extremes,
    "predicted": lambda run: plot.predicted(ik.evaluate(run, "lds:m=3")["lds:m=3"]),
    "detection": lambda run: plot.detection(detection(ik.estimate(run).influence[0, 0], np.arange(N) < 3)),
    "precision_recall": lambda run: plot.precision_recall(
        detection(ik.estimate(run).influence[0, 0], np.arange(N) < 3)
    ),
}


@pytest.mark.parametrize("name", PLOTS)
def test_every_plot_takes_what_verbs_give(run, name, tmp_path):
    axes = PLOTS[name](run)
    first = axes[0] if isinstance(axes, list) else axes
    first.figure.savefig(tmp_path / "plot.png")
    if name in ("agreement", "scatter"):
        assert [t.get_text() for t in first.get_legend().get_texts()] == CLASSES
    if name == "timeline":
        lines = [line.get_label() for line in first.lines if line.get_label().startswith("img")]
        assert [label.split(",")[0] for label in lines] == [f"{NAMES[k]} ({BY_NAME[k]}" for k in (7, 2)]
    if name == "extremes":
        for ax in axes:
            example, label, _ = ax.get_xlabel().split("\n")
            assert label == f"class {BY_NAME[NAMES.index(example)]}"


def test_timeline_of_an_id_that_no_example_has(run):
    scores = ik.estimate(run, windows="each-epoch").influence[0]
    with pytest.raises(ik.InputError, match="no training example 'img3'; did you mean 'img03'"):
        plot.timeline(scores, ids=["img3"])
    with pytest.raises(ik.InputError, match="expected a list of example ids, got 'img03'"):
        plot.timeline(scores, ids="img03")


# names of classes -------------------------------------------------------------------------------------------


def named(model=None, data=None, given=None):
    return _named_classes(model or torch.nn.Linear(1, 1), data, "labels", given).get("classes")


def test_classes_are_called_as_data_set_or_model_call_them():
    data = Examples()
    assert named(data=data) is None
    data.classes = CLASSES
    assert named(data=data) == named(data=Subset(data, [0, 1])) == CLASSES
    assert named(data=data, given=["a", "b", "c"]) == ["a", "b", "c"]
    features = {"label": SimpleNamespace(names=["no", "yes"]), "text": SimpleNamespace()}
    assert named(data=SimpleNamespace(features=features)) == ["no", "yes"]
    assert named(model=SimpleNamespace(config=SimpleNamespace(id2label={0: "no", 1: "yes"}))) == ["no", "yes"]
    unnamed = {0: "LABEL_0", 1: "LABEL_1"}
    assert named(model=SimpleNamespace(config=SimpleNamespace(id2label=unnamed))) is None


# the command line -------------------------------------------------------------------------------------------

SCRIPT = """
import sys
sys.path.insert(0, {tests!r})
from helpers_tape import *
from torch.utils.data import DataLoader

data = Examples()
data.classes = ["bar", "cross", "dot"]

def parts():
    return dict(model=network(), loss=per_example, data=data, test=held_out())
"""
TRAIN = """
model = network()
optimizer = adamw(model)
with ik.Tape({store}, model, optimizer, loss=per_example, data=data, resume={resume}) as tape:
    for ids, (x, y) in tape.batches(DataLoader(data, batch_size=4)):
        per_example(model(x), y).mean().backward()
        optimizer.step()
"""
BAD = {
    "the store is there": (
        TRAIN.format(store="'run.zarr'", resume=False),
        "script.py trains when it is imported; put the",
    ),
    "in memory": (
        TRAIN.format(store="None", resume=False),
        "put the training under `if __name__ == '__main__':`",
    ),
    "resumed": (TRAIN.format(store="'run.zarr'", resume=True), "trains when it is imported"),
    "by record": (
        "ik.record(ik.make('workload', 'mnist-1v7-lr'), store='x.zarr')",
        "trains when it is imported",
    ),
    "arguments": ("assert sys.argv == ['script.py']\nsys.exit('no data')", "ends the program when"),
    "parts that train": (
        "def parts():\n" + TRAIN.format(store="None", resume=False).replace("\n", "\n    "),
        "parts records a run; let it only make",
    ),
}


@pytest.fixture
def script(tmp_path, monkeypatch, store):
    """`run.zarr` and `script.py` in the working directory."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "run.zarr").symlink_to(store)

    def write(more=""):
        tests = str(Path(__file__).parent)
        (tmp_path / "script.py").write_text(SCRIPT.format(tests=tests) + more)
        return "--code", "script.py:parts"

    with untraced():
        yield write


def test_the_commands_take_a_store_and_code(script):
    code = script()
    assert "bit for bit" in command("verify", "run.zarr", *code).stdout
    command("compare", "run.zarr", *code, "--estimators", "dit", "--json", "c.json", "--out", "out")
    found = json.loads(Path("c.json").read_text())
    again = ik.compare(ik.open("run.zarr", **_parts()), ["dit"])
    assert found["estimators"]["dit"]["pearson"]["mean"] == pytest.approx(
        again.agreement.sel(estimator="dit", metric="pearson").item()
    )
    printed = command("estimate", "run.zarr", *code, "--verify-top", 2, "--out", "s.zarr").stdout
    assert printed.startswith("run.zarr: influence on test-loss\n")
    row = next(line.split() for line in printed.splitlines() if line.startswith("img"))
    assert row[1] == BY_NAME[NAMES.index(row[0])]
    Path("ids.txt").write_text("img03\nimg04\n")
    assert "without all 2 examples" in command("estimate", "run.zarr", *code, "--remove", "ids.txt").stdout
    assert "agreement.png" in command("plot", "out", "--out", "p1").stdout
    assert "timeline-dit.png in p2" in command("plot", "run.zarr", *code, "--out", "p2").stdout
    evaluated = command("compare", "run.zarr", *code, "--estimators", "dit", "--evaluate", "lds:m=3").stdout
    assert evaluated.startswith("run.zarr\n9 steps, recorded earlier") and "m=50" in evaluated


def _parts():
    return {"model": network(), "loss": per_example, "data": Examples(), "test": held_out()}


@pytest.mark.parametrize("case", BAD)
def test_a_script_that_trains_when_it_is_imported_is_the_cause(script, case):
    more, words = BAD[case]
    code = script(more)
    for line in (
        fails("compare", "run.zarr", *code, code=2),
        fails("verify", "run.zarr", *code, code=2),
    ):
        assert words in line and "delete" not in line


def test_options_of_training_are_refused_for_a_run(script):
    code = script()
    for option in (("--seeds", "0-1"), ("--setting", "paper"), ("--recorder", "full")):
        line = fails("compare", "run.zarr", *code, *option, code=2)
        assert f"{option[0]} is for workloads, which are trained anew, and run.zarr is a recorded run" in line
    assert "--code train.py:parts" in fails("compare", "run.zarr", code=2)
    assert "--code train.py:parts" in fails("plot", "run.zarr", code=2)


# progress ---------------------------------------------------------------------------------------------------


class Screen(io.StringIO):
    def isatty(self):
        return True


@pytest.fixture
def drawn(monkeypatch):
    """The streams that were drawn on."""
    streams = []
    monkeypatch.setattr(_bars, "_draw", lambda loops, stream, after, done: streams.append(stream))
    return streams


def test_a_verb_draws_one_bar_on_a_terminal(run, drawn, monkeypatch):
    monkeypatch.setattr(sys, "stderr", Screen())
    ik.compare(run, ["dit"])  # which calls estimate, which draws none of its own
    assert drawn == [sys.stderr]
    with listen(lambda *news: None):
        ik.estimate(run)
    monkeypatch.setenv("INFLUENCEKIT_PROGRESS", "0")
    ik.estimate(run)
    monkeypatch.delenv("INFLUENCEKIT_PROGRESS")
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    ik.estimate(run)
    assert len(drawn) == 1


def test_no_bar_beside_one_of_tqdm(run, drawn, monkeypatch):
    """Its bars are known by the class's own register, `_instances`."""
    monkeypatch.setattr(sys, "stderr", Screen())
    standing = SimpleNamespace(disable=False)
    monkeypatch.setitem(sys.modules, "tqdm", SimpleNamespace(tqdm=SimpleNamespace(_instances=[standing])))
    ik.estimate(run)
    assert drawn == []
    standing.disable = True
    ik.estimate(run)
    assert len(drawn) == 1


def test_a_notebook_has_a_line_that_is_written_over(monkeypatch):
    class ZMQInteractiveShell:
        pass

    monkeypatch.setitem(sys.modules, "IPython", SimpleNamespace(get_ipython=ZMQInteractiveShell))
    stream = io.StringIO()
    with _bars.progress(stream, after=0.0):
        time.sleep(0.7)
    assert stream.getvalue().startswith("\r0 s: working") and stream.getvalue().endswith(" \r")
    assert "\n" not in stream.getvalue()
