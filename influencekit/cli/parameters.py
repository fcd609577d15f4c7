"""Options that several commands share, and the two types that are our own."""

import re
from collections.abc import Callable
from typing import Any, TypeVar

import click

from influencekit._address import local, place
from influencekit.errors import InputError

__all__ = ["PATH", "STORE", "Seeds", "shared"]

_NUMBER = re.compile("[0-9]{1,18}")

F = TypeVar("F", bound=Callable[..., Any])


class _Path(click.ParamType):
    """A path, as text: `~` and file:// are expanded. `read`: what it may be; others are refused by name."""

    name = "path"

    def __init__(self, read: Callable[[Any], Any]) -> None:
        self._read = read

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        try:
            return str(self._read(value))
        except InputError as error:
            raise InputError(f"{param.opts[0] if param else 'path'}: {error}") from None


PATH = _Path(local)
STORE = _Path(place)  # of a recorded run, which may be at an address


class Seeds(click.ParamType):
    """`0-15` (both ends included), `3`, or `0-3,8`: a list of different whole numbers."""

    name = "seeds"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if not isinstance(value, str):
            return value
        found: list[int] = []
        for part in value.split(","):
            first, dash, last = part.strip().partition("-")
            if not all(_NUMBER.fullmatch(each) for each in ([first, last] if dash else [first])):
                raise InputError(
                    f"cannot read seeds '{value[:60]}'; write 0, 0-15 (16 of them) or 0-3,8, all below 10**18"
                )
            low, high = int(first), int(last or first)
            if high < low:
                raise InputError(f"seeds '{part}' are empty: the last is smaller than the first")
            if high - low >= 100_000:
                raise InputError(f"seeds '{part}' are {high - low + 1}; at most 100000 are taken")
            found += range(low, high + 1)
        if twice := [s for s in found if found.count(s) > 1] if len(found) < 1000 else []:
            raise InputError(f"seed {twice[0]} appears twice in '{value}'")
        return found


_SHARED = {
    "query": click.option(
        "--query", default="test-loss", show_default=True, metavar="SPEC",
        help="The number of the model whose change is asked for: test-loss (mean over the test set), "
        "test-losses (each test example its own), prediction:example=3, alignment, ...",
    ),
    "window": click.option(
        "--window", default="full", show_default=True, metavar="WINDOWS",
        help="When in training: full, each-epoch, epoch:3-5 (epochs 3 and 4), step:10-40. Half-open and "
        "counted from 0; several are joined by commas.",
    ),
    "removal": click.option(
        "--removal", type=click.Choice(["global", "window", "occurrence"]), default="global",
        show_default=True,
        help="What being without an example means over a window that starts later than step 0: global = "
        "absent from the start; window = absent in it, effect at its end; occurrence = absent in it, effect "
        "at the end of the run.",
    ),
    "average": click.option(
        "--average", metavar="SPEC",
        help="Ask the query of an average of the run's states, or of one of them: ema:decay=0.999, "
        "swa:start=5, after:epoch=3, ... (influencekit list averages).",
    ),
    "setting": click.option(
        "--setting", metavar="NAME",
        help="How the workload trains: trained (the default: it learns its task) or paper (the authors' "
        "learning rates, some of which hardly train).",
    ),
    "recorder": click.option(
        "--recorder", default="full", show_default=True, metavar="SPEC",
        help="Which states are kept: full; every-k:k=20 or revolve:states=64 (the others are replayed; less "
        "disk, more time); or rounded:bits=7 (less precision).",
    ),
    "device": click.option(
        "--device", type=click.Choice(["auto", "cpu", "cuda"]), default="auto", show_default=True,
        help="auto takes cuda where there is one.",
    ),
    "threads": click.option(
        "--threads", type=click.IntRange(1, 1024), default=1, show_default=True, metavar="N",
        help="CPU threads. Small models gain nothing from more, and one gives the same bits everywhere; "
        "try more for convolutions.",
    ),
    "code": click.option(
        "--code", metavar="FILE.py:NAME",
        help="For runs that were recorded in Python: a function of that file (or a value) which gives the "
        "workload, or a dict with the arguments of influencekit.open (model, loss, data, test). It is run.",
    ),
    "trusted": click.option(
        "--trusted", metavar="FILE.py:NAME",
        help="Examples with right labels that the run was not trained on: a function of that file (or a "
        "value) which gives a batch or a data set. It is run. [default: the run's own test set]",
    ),
    "executor": click.option(
        "--executor", metavar="SPEC",
        help="Who retrains: processes:4 (of this machine), dask:tcp://HOST:8786, or submitit:partition=NAME "
        "(Slurm). Needs --code for a run of your own loop.",
    ),
    "slices": click.option(
        "--slices", type=PATH, metavar="DIR",
        help="With --executor: a folder that all workers see, for the slices of the work. What is there is "
        "not done again. Beside STORE unless you say; needed for a WORKLOAD.",
    ),
    "escape-formulas": click.option(
        "--escape-formulas", is_flag=True,
        help="In CSV files, an apostrophe before ids and names that a spreadsheet would take for a formula "
        "(those that begin with = + - @): for data of people whom you do not trust.",
    ),
    "data-dir": click.option(
        "--data-dir", type=PATH, metavar="DIR",
        help="Folder with a full copy of the data, in place of the bundled sample.",
    ),
}  # fmt: skip


def shared(*names: str) -> Callable[[F], F]:
    """Add the shared options of these names to a click command, in this order, with their help.

    Names: those of influencekit's own commands, such as "device", "data-dir" or "query"; the command gets
    them as arguments of the same names.

    Example:

        >>> import click
        >>> from influencekit.extend import shared
        >>> @click.command()
        ... @shared("device")
        ... def train(device):
        ...     'Train something.'
        >>> [option.name for option in train.params]
        ['device']
    """

    def add(command: F) -> F:
        for name in reversed(names):
            command = _SHARED[name](command)
        return command

    return add
