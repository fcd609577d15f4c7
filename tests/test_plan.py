"""`plan`: what is predicted from a few steps is near what the work takes.

Times have wide limits, because a test may run on a busy machine: `python -m benchmarks plan` has the figures.
Counts (states, replayed steps, trainings, bytes) are exact, or compared with what was really written.
"""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from helpers_step import tiny_workload
from hypothesis import given, settings
from hypothesis import strategies as st

import influencekit as ik
from influencekit._effects.pace import Pace
from influencekit._trajectory.blocks import Limits, blocks_of, replayed
from influencekit._verbs.plan.advice import Choice, advice_on
from influencekit._verbs.plan.measure import Line, line_of
from influencekit._verbs.plan.retraining import Retraining
from influencekit._verbs.plan.work import Work
from influencekit.cli.app import cli

SPEC = "mnist-1v7-lr:n_train=32:epochs=6"


@pytest.fixture(scope="module")
def found():
    return ik.plan(SPEC, ["dit", "loo:examples=8"], recorder="every-k:k=2")


@settings(max_examples=8, deadline=None)
@given(k=st.integers(1, 9), held=st.integers(2, 5), states=st.integers(2, 9), start=st.integers(0, 3))
def test_replayed_steps_are_those_that_a_sweep_takes(k, held, states, start):
    """Counted with a step that counts its calls, for stored states far and near, in any memory."""
    from influencekit._trajectory import blocks as sizes

    workload = tiny_workload()
    each = workload.theta0.nbytes * (1 + len(workload.optimizer.slots))
    for recorder in (f"every-k:k={k}", f"revolve:states={states}"):
        run = ik.record(workload, recorder)
        calls, advance = [], run.step.advance
        run.step.advance = lambda state, calls=calls, advance=advance: calls.append(1) or advance(state)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(sizes, "_BLOCK", each)
            patch.setattr(sizes, "_HELD", held * each)
            for _ in run.blocks(start, run.steps):
                pass
            limits = Limits(each, run.group["theta"].chunks[0], run.max_states)
            blocks = list(blocks_of(run.stored_states, start, run.steps, limits))
        counted = replayed(run.stored_states, blocks, limits)
        assert counted == len(calls)


def test_a_line_is_found_in_work_that_is_one():
    """Spins for 0.2 s once and 2 ms a step, by the processor's clock."""
    import time

    first = [True]

    def work(steps):
        end = time.process_time() + (0.2 if first[0] else 0.0) + 0.002 * steps
        first[0] = False
        while time.process_time() < end:
            pass

    line = line_of(work, 1000, torch.device("cpu"))
    assert line.timed > 2 and line.seconds(0) / line.step == pytest.approx(100, rel=0.3)
    assert (
        line_of(lambda steps: None, 1, torch.device("cpu")).timed == 1 and Line(1.0, 2.0, 3).seconds(4) == 9
    )


def test_disk_is_within_a_tenth_of_what_is_written(found, tmp_path):
    run = ik.record(ik.make("workload", SPEC), "every-k:k=2", tmp_path / "run.zarr")
    written = sum(file.stat().st_size for file in Path(tmp_path).rglob("*") if file.is_file())
    assert float(found.disk.sel(work="record")) == pytest.approx(written, rel=0.1)
    again = ik.plan(run, "dit")
    assert "record" not in again.work.values and again.recorders["every-k:k=2"] == pytest.approx(
        written, rel=0.1
    )


def test_trainings_and_replays_are_counted(found):
    row = found.sel(work="loo:examples=8")
    assert (int(row.trainings), int(row.together)) == (8, 8)
    run = ik.record(ik.make("workload", SPEC))
    limits = Limits(found.state, 1, None)
    stored = ik.make("recorder", "every-k:k=2").stored_states(0, run.steps)
    again = replayed(stored, list(blocks_of(stored, 0, run.steps, limits)), limits)
    assert int(found.replayed.sel(work="dit")) == again == 6  # one between each pair, and one to compare
    assert int(found.trainings.sel(work="ceiling:runs=8")) == 8 * 32 + 7


def test_a_loop_over_models_is_planned_as_one():
    found = ik.plan(SPEC, ["loo", "loo:strategy=loop"])
    batch, loop = (found.sel(work=work) for work in ("loo", "loo:strategy=loop"))
    assert (int(batch.together), int(loop.together)) == (32, 1)
    assert int(batch.trainings) == int(loop.trainings) == 32
    work = Retraining(10, 32, Pace(1.0, 0.0, None), Pace(4.0, 0.0, None), 0.0, None)
    assert (work.work("", [0] * 32).seconds, work.alone().work("", [0] * 32).seconds) == (40, 320)


def test_verifying_the_top_is_planned_where_it_is_asked(tmp_path):
    """It is `loo` of so many examples; of parts, a training more. As many as there are, at most."""
    run = ik.record(ik.make("workload", SPEC), store=tmp_path / "run.zarr")
    assert not any(str(work).startswith("verify_top") for work in ik.plan(run, "dit").work.values)
    for parts, trainings in ((False, 8), (True, 9)):
        found = ik.plan(run, ["dit", "loo:examples=8"], verify_top=8, parts=parts)
        loo, verified = (found.sel(work=work) for work in ("loo:examples=8", "verify_top:top=8"))
        assert (int(verified.trainings), int(verified.together)) == (trainings, int(loo.together))
        more = float(verified.seconds - loo.seconds)
        assert more > 0 if parts else more == 0
    assert int(ik.plan(run, "dit", verify_top=99).trainings.sel(work="verify_top:top=99")) == 32
    with pytest.raises(ik.InputError, match="verify_top must be at least 1"):
        ik.plan(run, "dit", verify_top=0)
    command = ("estimate", str(tmp_path / "run.zarr"), "--verify-top", "3", "--dry-run")
    shown = CliRunner().invoke(cli, [*command, "--code", _code(tmp_path)], catch_exceptions=False).stdout
    assert next(line for line in shown.splitlines() if "verify_top:top=3" in line).split()[-1] == "3"
    refused = CliRunner().invoke(cli, [*command, "--out", str(tmp_path / "x.csv")])
    assert isinstance(refused.exception, ik.InputError) or refused.exit_code == 2
    said = refused.output + str(refused.exception)
    assert "--dry-run only says what it would take, and writes no file; leave out --out" in said
    assert not (tmp_path / "x.csv").exists()


@pytest.mark.parametrize("windows", [None, "each-epoch"])
@pytest.mark.parametrize("removal", ["global", "occurrence"])
def test_trust_is_planned_as_it_is_asked(windows, removal):
    run = ik.record(ik.make("workload", SPEC))
    planned = ik.plan(run, "dit", windows=windows, removal=removal).sel(work="trust")
    found = ik.trust(run, windows=windows, removal=removal)
    assert 0 < found.trainings <= int(planned.trainings) <= 1.5 * found.trainings
    assert planned.seconds > 0


def test_memory_and_time_are_of_the_right_size(found):
    """A factor of two in memory; in time ten, on whatever machine runs this."""
    import resource
    import time

    run = ik.record(ik.make("workload", SPEC), "every-k:k=2")
    began = time.perf_counter()
    ik.estimate(run)
    spent = time.perf_counter() - began
    assert spent / 10 < float(found.seconds.sel(work="dit")) < 10 * spent + 1
    peak = 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert peak / 2 < float(found.memory.sel(work="dit")) < 2 * peak


def test_many_windows_cost_more_than_one():
    many = ik.plan(SPEC, "dit", "test-losses", "each-epoch")
    assert many.sizes["work"] == 7 and float(many.seconds.sel(work="dit")) > 0
    assert np.isfinite(many.seconds).all()


def test_what_a_few_steps_do_not_tell_is_refused():
    with pytest.raises(ik.InputError, match="plan: a few steps say nothing about if; name dit"):
        ik.plan(SPEC, "if")
    with pytest.raises(ik.InputError, match="leave recorder out"):
        ik.plan(ik.record(ik.make("workload", SPEC)), recorder="full")


def test_advice_names_what_is_dear():
    night = Work("loo", 9e4, 1 << 30, trainings=1000)
    choices = {"full": Choice(9e12, 1.0, 1 << 30), "every-k:k=50": Choice(1e9, 2.0, 1 << 30)}
    works = [Work("dit", 10.0, 20 << 30, passes=3), night]
    recorder, passes, memory, machines, out = advice_on(works, choices, "full", 10**12, 16 << 30)
    assert recorder.startswith("record with every-k:k=50: 1 GB on disk") and "does not fit" in recorder
    assert "3 times" in passes and "21.5 GB" in memory and "on 4 machines" in machines
    assert out.startswith(
        "leave out loo at first: dit takes 10 s, and retraining without its top 20 about 30 min"
    )
    assert advice_on([Work("dit", 1.0, 1)], {}, "full", 1, 16 << 30) == []


def test_the_command_prints_a_table_or_json(tmp_path):
    store = str(tmp_path / "run.zarr")
    ik.record(ik.make("workload", SPEC), "full", store)
    shown = CliRunner().invoke(cli, ["plan", SPEC, "--json", "-"], catch_exceptions=False)
    rows = json.loads(shown.stdout)["work"]
    assert [row["work"] for row in rows][:3] == ["record", "dit", "loo"] and rows[0]["disk"] > 1000
    table = CliRunner().invoke(cli, ["estimate", store, "--code", _code(tmp_path), "--dry-run"])
    assert table.exit_code == 0 and "steps measured on cpu" in table.stdout and "lds:m=100" in table.stdout
    refused = CliRunner().invoke(cli, ["plan", store, "--seed", "1", "--code", _code(tmp_path)])
    assert refused.exit_code == 2 and "--seed is for a workload" in refused.stderr


def _code(folder):
    file = folder / "made.py"
    file.write_text(f"import influencekit as ik\nwork = ik.make('workload', {SPEC!r})\n")
    return f"{file}:work"


def test_an_estimator_that_is_named_twice_is_refused():
    with pytest.raises(ik.InputError, match="estimators: dit stands twice; name it once"):
        ik.plan("mnist-1v7-lr:n_train=24:epochs=2", ["dit", "loo", "dit"])
