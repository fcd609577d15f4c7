"""A short digest that tells one run from another: how it begins, where it ends, and what it was tested on."""

from __future__ import annotations

from weakref import WeakKeyDictionary

from influencekit._trajectory.contents import digest_tensors
from influencekit._trajectory.fingerprint import digest, named
from influencekit._trajectory.trajectory import Trajectory
from influencekit.errors import StoreError

__all__ = ["identity"]

_BEGINNING = ("initial parameters", "order of batches", "learning rates", "l2")  # of what `record` trains
_UNKNOWN = "?"
_KNOWN: WeakKeyDictionary[Trajectory, tuple[str, str, str]] = WeakKeyDictionary()


def identity(trajectory: Trajectory, tested: bool = True) -> str:
    """`beginning-end-test`, 8 hexadecimal digits each; `?` for what is not known.

    The beginning is that of the settings which `record` trains by, or the first state of a taped run. The end
    is not known where the recording does not reach it. The test set counts where it is `tested`. A run that
    is recorded again bit for bit, or opened again, has the same digest, whatever the recorder and the path.
    Cost: reading two states, and hashing them and the test set, once for each opened run.
    """
    if trajectory not in _KNOWN:
        test = trajectory.workload.test
        _KNOWN[trajectory] = (
            _beginning(trajectory),
            _state(trajectory, trajectory.steps),
            _UNKNOWN if test is None else digest_tensors(dict(sorted(named(test).items())))[:8],
        )
    *run, test_set = _KNOWN[trajectory]
    return "-".join([*run, test_set if tested else _UNKNOWN])


def _beginning(trajectory: Trajectory) -> str:
    known = trajectory.attrs.get("fingerprint", {})
    if all(name in known for name in _BEGINNING):
        return digest([known[name] for name in _BEGINNING])[:8]
    return _state(trajectory, 0)


def _state(trajectory: Trajectory, t: int) -> str:
    if not trajectory.first <= t <= trajectory.last:
        return _UNKNOWN
    try:
        return digest([trajectory.state(t).theta])[:8]
    except StoreError:  # the scores themselves may need no such state
        return _UNKNOWN
