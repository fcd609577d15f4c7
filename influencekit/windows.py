"""Windows of training: which steps, and what being without an example over them means."""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from influencekit._arguments import check_options, checked, short, whole_number
from influencekit.errors import InputError

__all__ = ["REMOVALS", "Removal", "Window", "parse_windows"]

Removal = Literal["global", "window", "occurrence"]
"""The type of one of `REMOVALS`, for annotations of options."""
REMOVALS: tuple[Removal, ...] = ("global", "window", "occurrence")
"""The three meanings of removal; `Window` says what each is."""
_NUMBER = re.compile("[0-9]{1,18}")


@dataclass(frozen=True)
class Window:
    """The steps start <= t < stop, counted from 0, and the meaning of removal over them.

    - `global` (Def. 5): the example is absent from step 0 on; q's effect at `stop` minus that at `start`.
    - `window` (Sec. V-B): it is absent in these steps only; q's effect at `stop`.
    - `occurrence` (trajectory-specific leave-one-out, for windows that hold one occurrence): it is absent
      in these steps only; q's effect at the end of the run.

    State t is the state before update t, so `stop` is also the state after the last update of the window.

    Example:

        >>> import influencekit as ik
        >>> ik.Window(10, 40).evaluations(100)
        {40: 1, 10: -1}
        >>> ik.Window(10, 40, "window").absent()
        (10, 40)
    """

    start: int
    stop: int
    removal: Removal = "global"

    def __post_init__(self) -> None:
        check_options(self, "window")
        if self.start < 0:
            raise InputError(f"window {self}: steps are counted from 0")
        if self.stop <= self.start:
            raise InputError(f"window {self} is empty: it must stop after it starts")

    def __str__(self) -> str:
        return f"[{self.start}, {self.stop})"

    def check(self, steps: int) -> "Window":
        """Itself, or an error when it reaches beyond a run of `steps` steps."""
        if self.stop > whole_number("steps", steps, 0):
            raise InputError(f"window {self} reaches outside the run, which has steps [0, {steps})")
        return self

    def absent(self) -> tuple[int, int]:
        """The steps in which the example is left out."""
        return (0 if self.removal == "global" else self.start), self.stop

    def evaluations(self, steps: int) -> dict[int, int]:
        """{state: sign}: the effect is the signed sum of q's effects at these states."""
        if self.removal == "occurrence":
            return {steps: 1}
        if self.removal == "global" and self.start:
            return {self.stop: 1, self.start: -1}
        return {self.stop: 1}


@checked
def parse_windows(spec: str, epochs: Sequence[int], removal: Removal = "global") -> list[Window]:
    """Windows from text: `full`, `each-epoch`, `epoch:3` (one), `epoch:3-5` (3 and 4), `step:10-40`.

    `epochs` holds the epoch of every step. All ranges are half-open and counted from 0; several specs may be
    joined by commas.

    Errors: `InputError` for a text that is none of these, an empty window, or one outside of the run.

    Example:

        >>> from influencekit.windows import parse_windows
        >>> [str(window) for window in parse_windows("each-epoch, step:1-3", [0, 0, 1, 1])]
        ['[0, 2)', '[2, 4)', '[1, 3)']
    """
    epochs = _whole_numbers(epochs)
    last, steps = epochs[-1] + 1, len(epochs)
    windows: list[Window] = []
    for part in spec.split(","):
        kind, _, span = part.strip().partition(":")
        if kind == "full" and not span:
            windows.append(Window(0, steps, removal))
        elif kind == "each-epoch" and not span:
            windows += [_epochs(epochs, e, e + 1, removal) for e in sorted(set(epochs))]
        elif kind in ("epoch", "step") and span:
            start, stop = _span(part, span, single=kind == "epoch")
            limit = last if kind == "epoch" else steps
            if not start < stop:
                raise InputError(f"window {part!r} is empty: ranges are half-open, so the end must be larger")
            if stop > limit:
                raise InputError(f"window {part!r} reaches outside the run, which is {kind}:0-{limit}")
            windows.append(
                _epochs(epochs, start, stop, removal) if kind == "epoch" else Window(start, stop, removal)
            )
        else:
            raise InputError(
                f"cannot read window {part!r}; write full, each-epoch, epoch:3, epoch:3-5 or step:10-40 "
                "(half-open, counted from 0)"
            )
    return windows


def _whole_numbers(epochs: Any) -> list[int]:
    if not isinstance(epochs, Iterable) or not (found := list(epochs)):
        raise InputError(f"epochs: expected the epoch of every step, got {short(epochs)}")
    return [each if type(each) is int else whole_number("epochs", each) for each in found]


def _span(part: str, span: str, single: bool) -> tuple[int, int]:
    numbers = span.split("-")
    right = len(numbers) == 2 or (len(numbers) == 1 and single)
    if not right or not all(_NUMBER.fullmatch(n) for n in numbers):
        raise InputError(
            f"cannot read window {part!r}; expected whole numbers such as {part.split(':')[0]}:3-5"
        )
    start = int(numbers[0])
    return start, int(numbers[1]) if len(numbers) == 2 else start + 1


def _epochs(epochs: Sequence[int], start: int, stop: int, removal: Removal) -> Window:
    return Window(len([e for e in epochs if e < start]), len([e for e in epochs if e < stop]), removal)
