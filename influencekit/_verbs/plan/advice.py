"""What a plan advises: which recorder, how many columns at once, how many machines, what to leave out."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from influencekit._bars import clock
from influencekit._verbs.plan.work import Work

__all__ = ["Choice", "advice_on", "size"]

_LONG = 8 * 3600  # seconds that somebody waits for: a night
_SOME = 20  # examples whose scores are looked at first
_DEAR = 20  # times as much


class Choice(NamedTuple):
    """A recorder: bytes on disk, seconds and peak bytes of a sweep."""

    disk: float
    seconds: float
    memory: int | None


def advice_on(
    works: Sequence[Work], choices: Mapping[str, Choice], chosen: str, free: int, memory: int | None
) -> list[str]:
    """Sentences about these pieces of work. `choices`: recorders; `free` bytes of disk, `memory` of the
    machine."""
    found = _recorder(choices, chosen, free, memory)
    for work in works:
        if work.passes > 1:
            found.append(
                f"{work.name}: the columns (one for each value of query and window) do not fit into 1 GB, "
                f"so the run is gone through {work.passes} times; ask for fewer windows or values"
            )
        if memory is not None and work.memory is not None and work.memory > 0.9 * memory:
            found.append(
                f"{work.name}: {size(work.memory)} of memory are more than this machine has to give "
                f"({size(memory)}); take smaller batches, or a larger machine"
            )
        if work.seconds > _LONG:
            many = -(-int(work.seconds) // _LONG)
            found.append(
                f"{work.name}: {clock(work.seconds)} by itself; on {many} machines, each with its part of "
                f"the {work.trainings or work.passes} trainings, it takes a night"
            )
    sweeps = [w for w in works if not w.trainings]
    dear = [w for w in works if w.trainings > _SOME and sweeps and w.seconds > _DEAR * sweeps[0].seconds]
    if dear:
        some = _SOME * dear[0].seconds / dear[0].trainings
        found.append(
            f"leave out {', '.join(w.name for w in dear)} at first: {sweeps[0].name} takes "
            f"{clock(sweeps[0].seconds)}, and retraining without its top {_SOME} about {clock(some)}"
        )
    return found


def _recorder(choices: Mapping[str, Choice], chosen: str, free: int, memory: int | None) -> list[str]:
    """Which recorder, if another one is better: the fastest sweep that fits half of disk and memory."""
    fits = {
        name: each
        for name, each in choices.items()
        if each.disk <= free / 2 and (memory is None or each.memory is None or each.memory <= memory / 2)
    }
    if not fits or not choices:
        return []
    mine, best = choices.get(chosen), min(fits, key=lambda name: (fits[name].seconds, fits[name].disk))
    if mine is None or chosen == best or (chosen in fits and fits[best].seconds > 0.9 * mine.seconds):
        return []
    why = "does not fit half of what is free here" if chosen not in fits else "sweeps more slowly"
    return [
        f"record with {best}: {size(fits[best].disk)} on disk, the first sweep {clock(fits[best].seconds)}; "
        f"{chosen} ({size(mine.disk)}, {clock(mine.seconds)}) {why}"
    ]


def size(number: float) -> str:
    """Bytes, in words: `1.5 GB`."""
    for unit in ("B", "kB", "MB", "GB", "TB"):
        if number < 999.5:
            return f"{number:.3g} {unit}"
        number /= 1000
    return f"{number:.3g} PB"
