"""Open a recorded run together with what made it."""

import warnings
from pathlib import Path
from typing import Any

from influencekit._address import place
from influencekit._arguments import checked, short
from influencekit._bars import with_progress
from influencekit._tape import open_taped
from influencekit._training.plan import Plan
from influencekit._training.workload import Workload
from influencekit._trajectory.fingerprint import check_match
from influencekit._trajectory.replay_check import check_losses
from influencekit._trajectory.store import open_group
from influencekit._trajectory.trajectory import Trajectory
from influencekit._trajectory.unfinished import describe_unfinished
from influencekit.errors import InputError, StoreError

__all__ = ["open"]


@with_progress
@checked
def open(
    store: str | Path, workload: Workload | None = None, *, model: Any = None, loss: Any = None,
    data: Any = None, test: Any = None, **more: Any,
) -> Trajectory:  # fmt: skip
    """Open a recorded run together with what made it: a `workload`, or for a taped run its model, loss, data.

    store: a path, or an address: s3://bucket/run.zarr, gs://bucket/run.zarr, https://host/run.zarr
    (docs/store.md, Stores elsewhere).
    model: built as it was for the run (its parameters do not matter, frozen ones do, and are shared with the
    run: do not change them afterwards); loss(outputs, target) -> [n], or loss(outputs, target, batch) -> [n];
    data: the same data set (none where the store keeps the examples); test: a batch, a data set or a
    DataLoader for queries on test examples. And, where the tape was given them, `collate`, `forward` and
    `penalty`; `test_ids`; `class_names`, a list, where the data set has no attribute `classes`. Nothing is
    unpickled. A run that was stopped (diverged) opens too. So does one
    that is still being written, or was cut off: it ends with what was committed, and a warning and the
    results' `caution` say so.
    Errors: not a store of ours, nothing committed yet, another schema version, or not this workload's run:
    the parameters, data, order, learning rates and optimizer are compared, and one step's losses are computed
    again. All training examples are compared where they are rows of tensors; of examples that are fetched, as
    many as recording could fetch in two seconds; `attrs["examples_compared"]` of the run says how many. A
    test set that is not that of the recording is told by a warning, and in the results' `caution`. Cost: one
    traced step, and about a second for a gigabyte of data.

    Example:

        >>> import influencekit as ik
        >>> from tempfile import mkdtemp
        >>> work, store = ik.make("workload", "mnist-1v7-lr:n_train=24:epochs=2"), mkdtemp() + "/run.zarr"
        >>> _ = ik.record(work, store=store)
        >>> ik.open(store, work).steps
        2
    """
    store = place(store) if isinstance(store, str | Path) else store
    group = open_group(store)
    if said := describe_unfinished(group, store):
        warnings.warn(said, UserWarning, stacklevel=4)  # past what is around this verb
    if "tape" in group.attrs:
        about: Any = group.attrs["fingerprint"]
        if model is None or loss is None or (data is None and about["training examples"] is not None):
            raise InputError(
                f"{store} is a taped run; open it with the model, loss and data that were recorded: "
                "open(store, model=..., loss=..., data=..., test=...)"
            )
        if odd := set(more) - {"collate", "forward", "penalty", "test_ids", "class_names"}:
            raise InputError(
                f"open: no option {sorted(odd)[0]!r}; it takes collate, forward, penalty, test_ids and "
                "class_names"
            )
        return open_taped(group, str(store), model=model, loss=loss, data=data, test=test, **more)
    if workload is None:
        raise InputError(f"{store} was made by record(); open it with its workload: open(store, workload)")
    if not isinstance(workload, Workload) or isinstance(workload.order, Plan):
        raise InputError(f"open: workload must be the Workload that was recorded, got {short(workload)}")
    known = check_match(group, workload, str(store))
    trajectory = Trajectory(group, workload)
    trajectory.unchanged.known = known.contents
    if not trajectory.stored_states:
        raise StoreError(
            f"{store} holds no state yet: its recording was cut off before the first was committed; record "
            "again, or resume it"
        )
    check_losses(trajectory, str(store))
    trajectory.unchanged.settle()
    trajectory.attrs = {**trajectory.attrs, "examples_compared": known.examples}
    if known.test:
        said = f"the test set is not that of the recording: {known.test} differ"
        warnings.warn(f"{store}: {said}", UserWarning, stacklevel=4)
        trajectory.attrs = with_test(trajectory, said)
    return trajectory


def with_test(trajectory: Trajectory, said: str) -> dict[str, Any]:
    """The attributes of a run whose test set is another than at its recording, which they say."""
    attrs, first = dict(trajectory.attrs), trajectory.attrs.get("caution")
    if "accuracy" in attrs:
        attrs.pop("accuracy_note", None)
        end = trajectory.evaluated(trajectory.steps)
        attrs |= trajectory.workload_at(trajectory.steps).judge(end.theta).attrs()
    return {**attrs, "caution": f"{first}; {said}" if first else said}
