"""Plan: time, memory and disk of the work on a run, from a few measured steps of it."""

from collections.abc import Sequence

import numpy as np
import torch
import xarray as xr

from influencekit._arguments import checked, whole_number
from influencekit._bars import with_progress
from influencekit._training.plan import Plan as BatchPlan
from influencekit._training.workload import Workload
from influencekit._trajectory.trajectory import Trajectory
from influencekit._verbs.plan.advice import advice_on
from influencekit._verbs.plan.measure import Peak, free_disk, machine_memory
from influencekit._verbs.plan.recording import recording_of
from influencekit._verbs.plan.works import require_known, works_of
from influencekit._verbs.results import Windows, by_label, check_windows, require_run, windows_among
from influencekit.errors import InputError
from influencekit.interfaces import Estimator, Query, Recorder
from influencekit.recorders import Full
from influencekit.registry import label, resolve
from influencekit.windows import Removal

__all__ = ["plan"]


@with_progress
@checked
def plan(
    what: Workload | Trajectory | str,
    estimators: Estimator | str | Sequence[Estimator | str] = ("dit", "loo"),
    query: Query | str = "test-loss",
    windows: Windows = None,
    removal: Removal = "global",
    recorder: Recorder | str | None = None,
    verify_top: int | None = None,
    parts: bool = False,
) -> xr.Dataset:
    """Time, memory and disk of the work on a run, before it begins, with advice.

    `what`: a recorded run, taped or not; or what is to be recorded by `recorder` (None: `full`), a `Workload`
    or its spec. Its first steps are trained, swept over backwards and retrained, with a clock: 2 of them, or
    more where they take less than 0.3 s. What was measured counts for the whole run:

    seconds = what only the first call costs + passes x steps x (a + b x columns) + replayed steps x step

    The result has a row for each piece of `work`: `record` (of a workload), every one of `estimators`,
    `verify_top` of so many examples (with `parts`, of parts of examples) where it is given, and what can
    follow, `trust`, `lds`, `ceiling`, `curate` and `suspects` with their defaults. `seconds` [work], on this
    machine as it is now, with as many threads as torch has; `memory` [work], the most that the process will
    have in bytes, on a GPU what torch has allocated there; `disk` [work], bytes that are written, NaN where
    there are none; `trainings` [work], models that are trained, `together` [work] at once; `passes` [work]
    over the run, `replayed` [work] steps. Attrs: `advice`, sentences; `recorders`, {spec: bytes on disk}, and
    `sweep_seconds`, {spec: seconds of the first sweep}, for other recorders; `steps`, `parameters`,
    `examples`, `state` (bytes), `measured` (steps).

    Cost: about twelve steps of training and sweeping, and the start of the run on a temporary disk. Errors:
    `InputError` for an estimator that neither sweeps nor retrains, such as `if`, of which a few steps say
    nothing; those of `record` and `estimate`.

    Example:

        >>> import influencekit as ik
        >>> found = ik.plan("mnist-1v7-lr:n_train=24:epochs=2", ["dit", "loo:examples=8"])
        >>> found.work.values.tolist()[:3], int(found.trainings.sel(work="loo:examples=8"))
        (['record', 'dit', 'loo:examples=8'], 8)
    """
    made: Workload | Trajectory = resolve("workload", what) if isinstance(what, str) else what  # type: ignore
    run = made if isinstance(made, Workload) and not isinstance(made.order, BatchPlan) else require_run(made)
    if recorder is not None and isinstance(run, Trajectory):
        raise InputError("plan: the run is recorded already; leave recorder out")
    if verify_top is not None:
        whole_number("verify_top", verify_top, 1)
    asked: Query = resolve("query", query)
    methods = [*by_label("estimators", estimators).values()]
    for method in methods:
        require_known(method)
    chosen: Recorder | None = None if recorder is None else resolve("recorder", recorder)
    workload = run.workload if isinstance(run, Trajectory) else run
    peak = Peak(workload.device)
    recording = recording_of(run, chosen, peak)
    epochs = (run.plan if isinstance(run, Trajectory) else workload.plan).epoch.tolist()[: recording.steps]
    spans = windows_among(epochs, windows, removal)
    if isinstance(run, Trajectory):
        for method in methods:
            check_windows(run, method, spans)
    found = works_of(recording, asked, methods, spans, peak, verify_top, parts)
    name = run.attrs["recorder"] if isinstance(run, Trajectory) else label(chosen or Full())
    choices = found.choices(recording, name)
    free, memory = free_disk(), machine_memory()
    works = [*([] if recording.work is None else [recording.work]), *found.works]
    columns = {
        "seconds": [w.seconds for w in works],
        "memory": [np.nan if w.memory is None else float(w.memory) for w in works],
        "disk": [np.nan if w.disk is None else float(w.disk) for w in works],
        **{key: [getattr(w, key) for w in works] for key in ("trainings", "together", "passes", "replayed")},
    }
    return xr.Dataset(
        {key: ("work", values) for key, values in columns.items()},
        coords={"work": [w.name for w in works]},
        attrs={
            "workload": workload.name,
            "recorder": name,
            "steps": recording.steps,
            "parameters": workload.n_params,
            "examples": workload.n_train,
            "state": recording.limits.state,
            "measured": recording.short.last,
            "device": str(workload.device),
            "threads": torch.get_num_threads(),
            "recorders": {key: round(each.disk) for key, each in choices.items()},
            "sweep_seconds": {key: each.seconds for key, each in choices.items()},
            "advice": advice_on(works, choices if run is workload else {}, name, free, memory),
        },
    )
