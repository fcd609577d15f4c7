"""What results of all verbs share: their windows, coordinates and attributes."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

import torch
import xarray as xr

from influencekit import __version__
from influencekit._arguments import short
from influencekit._direction import better_of, sign, written
from influencekit._training.plan import Plan
from influencekit._training.workload import Workload
from influencekit._trajectory.checkpoints import only_weights
from influencekit._trajectory.identity import identity
from influencekit._trajectory.trajectory import Trajectory
from influencekit._verbs.averaging import asked as average_asked
from influencekit._verbs.averaging import check_average
from influencekit.errors import InputError, StoreError
from influencekit.interfaces import Claim, Estimator, Query
from influencekit.queries import FixedVector, Parameter
from influencekit.registry import label, listed, resolve
from influencekit.windows import Removal, Window, parse_windows

__all__ = [
    "Windows", "about", "by_label", "check_windows", "class_labels", "class_name", "class_names",
    "example_coords", "examples",
    "require_run", "require_windows", "run_of", "window_coords", "windows_among", "windows_of",
]  # fmt: skip

Windows = str | Sequence[Window] | None

_BATCH = 256  # examples that are fetched at once, for their classes
_MOST = 10_000  # examples that are fetched for their classes
_LABELS: WeakKeyDictionary[Workload, list[str] | None] = WeakKeyDictionary()


def by_label(name: str, estimators: Any) -> dict[str, Estimator]:
    """{label: estimator} of what an argument `name` holds: objects, specs. Errors: none; the same twice."""
    found: dict[str, Estimator] = {}
    for one in listed(name, estimators):
        method = resolve("estimator", one)
        if label(method) in found:
            raise InputError(f"{name}: {label(method)} stands twice; name it once")
        found[label(method)] = method
    return found


def require_run(run: Any) -> Any:
    """`run` itself, if it is a recorded run. Errors: anything else that a user may take for one; data that
    were changed in place since."""
    if isinstance(run, Trajectory):
        run.unchanged.check()
        return run
    what, then = f"got {type(run).__name__}", "record it with record(...)"
    if isinstance(run, Workload) and not isinstance(run.order, Plan):
        what = "got a workload, which was not trained"
    elif isinstance(run, Workload):
        what, then = "got the workload of a run that a tape recorded", "pass the run that it belongs to"
    elif isinstance(run, str | Path):
        what, then = f"got {str(run)!r}", "open it with open(store, ...)"
    elif hasattr(run, "trajectory"):
        what, then = "got the tape", "take tape.trajectory(test=...) once it is closed"
    raise InputError(only_weights(run) or f"expected a recorded run, {what}; {then}")


def windows_among(epochs: Sequence[int], windows: Windows, removal: Removal) -> list[Window]:
    """The windows that are meant, of a run whose steps have these epochs. Errors: outside the run, none."""
    if windows is None or isinstance(windows, str):
        return parse_windows("full" if windows is None else windows, epochs, removal)
    return [w.check(len(epochs)) for w in require_windows(windows)]


def require_windows(windows: Any) -> list[Window]:
    """Windows in a list. Errors: no list, none in it, or what is no window."""
    if not isinstance(windows, Iterable) or isinstance(windows, bytes):
        raise InputError(f"windows: expected a list of Window(start, stop), or text, got {short(windows)}")
    if not (found := list(windows)):
        raise InputError("windows: expected at least one, got none")
    if wrong := [w for w in found if not isinstance(w, Window)]:
        raise InputError(f"windows: expected Window(start, stop), got {short(wrong[0])}")
    return found


def check_windows(trajectory: Trajectory, estimator: Estimator, windows: Sequence[Window]) -> None:
    """Refuse windows that the estimator cannot do, or that reach beyond what the run has recorded."""
    check_average(trajectory, estimator, windows)
    steps = trajectory.steps
    for window in windows:
        whole = window.removal == "global" and (window.start, window.stop) == (0, steps)
        if Claim.WINDOWED not in estimator.claims and not whole:
            raise InputError(
                f"{label(estimator)} cannot do window {window} with {window.removal} removal: it knows "
                f"only the whole run, [0, {steps}) with global removal; use dit or loo"
            )
        read = {s for t in window.evaluations(steps) for part in trajectory.weights(t) for s in part}
        needs = min(window.absent()[0], *read), max(read)
        if needs[0] < trajectory.first or needs[1] > trajectory.last:
            raise StoreError(
                f"window {window} with {window.removal} removal needs the states {needs[0]} to {needs[1]}, "
                f"and the recording holds {trajectory.first} to {trajectory.last}; record the whole run"
                + (
                    " (`influencekit record ... --resume`)"
                    if trajectory.attrs["status"] == "recording"
                    else ""
                )
            )


def windows_of(scores: xr.Dataset) -> list[Window]:
    """The windows of a result: the inverse of `window_coords`."""
    columns = (scores[name].values.tolist() for name in ("start", "stop", "removal"))
    return [Window(*row) for row in zip(*columns, strict=True)]


def window_coords(windows: Sequence[Window]) -> dict[str, Any]:
    """Coordinates of the dimension `window`: its first step, the step after its last, and the removal."""
    return {
        "start": ("window", [w.start for w in windows]),
        "stop": ("window", [w.stop for w in windows]),
        "removal": ("window", [w.removal for w in windows]),
    }


def intercept_of(scores: xr.Dataset) -> xr.DataArray:
    """What is added to a sum of scores, without the dimension `train`: 0 where the result has none.

    Errors: scores for sets, whose sums are wrong without it, that have lost theirs.
    """
    if "intercept" in scores:
        return scores.intercept
    names = scores["estimator"].values.tolist() if "estimator" in scores.dims else []
    names = [str(name) for name in names or [scores.attrs.get("estimator", "")]]
    if lost := [name for name in names if "centre" in (pair.partition("=")[0] for pair in name.split(":"))]:
        raise InputError(
            f"scores of {lost[0]} are for sets and need their intercept, which these have lost; pass the "
            'whole result of estimate or compare, not result[["influence"]]'
        )
    return 0 * scores.influence.isel(train=0, drop=True).fillna(0)


def examples(workload: Workload) -> list[Any]:
    """The training examples' own ids, in their order."""
    return list(workload.train_ids or range(workload.n_train))


def example_coords(workload: Workload) -> dict[str, Any]:
    """Coordinates of the dimension `train`: the examples' own ids, and their classes, if they have some."""
    labels = class_labels(workload)
    return {"train": examples(workload)} | ({} if labels is None else {"label": ("train", labels)})


def class_labels(workload: Workload) -> list[str] | None:
    """The class of every training example in words, by its name where it has one; None where there is none.

    Names are those in `info`: `classes`, a list, or `class_0`, `class_1`, ... A target that is no whole
    number is written as it is. There is no class where the target is not one number an example, or cannot be
    had, or where more than 10,000 examples would have to be fetched.
    Cost: of a taped run, every example is fetched, once for each opened run.
    """
    if workload not in _LABELS:
        _LABELS[workload] = _class_labels(workload)
    return _LABELS[workload]


def _class_labels(workload: Workload) -> list[str] | None:
    if workload.fetches and workload.n_train > _MOST:
        return None
    values: list[float] = []
    for rows in torch.arange(workload.n_train, device=workload.device).split(_BATCH):
        try:
            target = workload.target(workload.examples(rows))
        except Exception:  # the user's own data set, on examples that no batch may have held
            return None
        if not isinstance(target, torch.Tensor) or target.numel() != len(rows) or target.is_complex():
            return None
        values += target.detach().cpu().reshape(-1).tolist()
    return class_names(values, workload.info)


def class_names(values: Sequence[float], info: Mapping[str, Any]) -> list[str]:
    """Classes in words, by the names that `info` has; numbers as they are if one of them is no whole one."""
    if not all(float(v).is_integer() for v in values):
        return [f"{v:g}" for v in values]
    return [class_name(int(v), info) for v in values]


def class_name(number: int, info: Mapping[str, Any]) -> str:
    """A class by its name, where `info` has one, or its number."""
    names = info.get("classes", ())
    return str(names[number] if 0 <= number < len(names) else info.get(f"class_{number}", number))


def run_of(trajectory: Trajectory, query: Query) -> str:
    """The attribute `run`: which run scores are of, and which test set, where the query reads it."""
    return identity(trajectory, tested=not isinstance(query, Parameter | FixedVector))


def about(
    trajectory: Trajectory, query: Query, estimator: Estimator, asked: Trajectory | None = None
) -> dict[str, Any]:
    """What scores say of where they come from: the attrs of every result. `asked`: the run that the estimator
    was given, where its examples are parts."""
    workload, better = trajectory.workload, better_of(query)
    caution = "; ".join(filter(None, (trajectory.caution, estimator.caution(trajectory))))
    return {
        "sign": sign(better),
        **written(better),
        "estimator": label(estimator),
        "query": label(query),
        "workload": workload.name,
        "seed": workload.seed,
        "run": run_of(trajectory, query),
        **average_asked(trajectory),
        "accuracy": trajectory.attrs.get("accuracy", float("nan")),
        **{k: v for k, v in trajectory.attrs.items() if k == "accuracy_note"},
        "optimizer": repr(workload.optimizer),
        "influencekit_version": __version__,
        **({"caution": caution} if caution else {}),
        **{f"note_{k}": v for k, v in estimator.notes(asked or trajectory).items()},
    }
