"""What the file of a cell may hold: its entries, and the range of every number in them."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from influencekit.metrics import METRICS
from influencekit.windows import REMOVALS
from influencekit_paper.patterns import PATTERNS
from influencekit_paper.stages import STAGES

__all__ = ["misfit"]


@dataclass(frozen=True)
class Number:
    """A number of this range; `nan`: or no number; `whole`: without a fraction."""

    low: float
    high: float
    nan: bool = False
    whole: bool = False

    def __call__(self, value: Any) -> bool:
        if type(value) is not int and (type(value) is not float or self.whole):
            return False
        return self.nan if value != value else self.low <= value <= self.high

    def __str__(self) -> str:
        return f"{'a whole number' if self.whole else 'a number'} from {self.low:g} to {self.high:g}"


@dataclass(frozen=True)
class Word:
    """A text that can be printed; one of `of`, if there are some."""

    of: tuple[str, ...] = ()

    def __call__(self, value: Any) -> bool:
        return isinstance(value, str) and value.isprintable() and (not self.of or value in self.of)

    def __str__(self) -> str:
        return f"one of {', '.join(self.of)}" if self.of else "a text"


Form = Number | Word | list["Form"] | Mapping[str, "Form"]  # a name that ends in ? may be absent

_MANY = 1e15
_FRACTION, _AGREES = Number(0, 1), Number(-1.000001, 1.000001, nan=True)
_COUNT, _SOME = Number(0, 1e9, whole=True), Number(1, 1e9, whole=True)
_JUDGED: Form = {"found": Number(0, 1e9), "auc": Number(0, 1, nan=True)}
_METRICS: Form = dict.fromkeys(METRICS, _AGREES)
_BOTH: Form = {"dit": _METRICS, "if": _METRICS}
_ITSELF: dict[str, Form] = {"again": _METRICS, "ceiling": _METRICS}
_STAGES = (*STAGES, "full")
_PAIRS: Form = {f"{a}-{b}": _AGREES for j, b in enumerate(_STAGES) for a in _STAGES[:j]}
_MAYBE = [f"{kind}?" for kind in PATTERNS]

_FOUND: Mapping[str, dict[str, Form]] = {
    "patterns": {
        "share": dict.fromkeys(PATTERNS, _FRACTION), "share_by_p": dict.fromkeys(PATTERNS, _FRACTION),
        "settled": [_AGREES], "ids": [Word()], "pattern": [Word(tuple(kind[0] for kind in PATTERNS))],
        "full": [Number(-_MANY, _MANY)],
    },
    "agreement": {"agreement": _BOTH},
    "ceiling": _ITSELF, "ceiling-by-pattern": {"patterns": dict.fromkeys(_MAYBE, _ITSELF)},
    "by-pattern": {
        "agreement": dict.fromkeys(_MAYBE, _BOTH), "examples": dict.fromkeys(PATTERNS, _COUNT),
        "ties": dict.fromkeys(_MAYBE, {"dit": _COUNT, "if": _COUNT}),
    },
    "stages": {"failed?": Word(), "start?": [_COUNT], "tau?": dict.fromkeys(REMOVALS, _PAIRS)},
    "detection": {
        "flipped": _COUNT, "epochs": [_COUNT], "each": dict.fromkeys(REMOVALS, [_JUDGED]),
        "found": dict.fromkeys(["full", "tracin", "gradient-norm", "if?", "loo?"], _JUDGED),
        "failed?": {"if?": Word(), "loo?": Word()},
    },
    "retraining": {
        "flipped": _COUNT, "examples": _SOME, "flipped_here": _SOME, "agreement": _METRICS,
        "found": {"loo": _JUDGED, "full": _JUDGED},
    },
    "fine-tuning": {
        "frozen_accuracy": _FRACTION, "examples": _SOME, "pool": _SOME, "flipped": _SOME, "parameters": _SOME,
        "found": dict.fromkeys(["dit", "final-loss", "frozen"], _JUDGED),
    },
}  # fmt: skip

_LENGTHS: Mapping[str, Callable[[Any], list[list[Any]]]] = {  # of lists that belong together
    "patterns": lambda found: [found["ids"], found["pattern"], found["full"]],
    "detection": lambda found: [found["epochs"], *found["each"].values()],
}


def misfit(experiment: str, content: Mapping[str, Any]) -> str | None:
    """In which way the content of a cell's file is none of this experiment's; None if it is one.

    Of `made_with` only the names are looked at: it is compared with what is asked for.
    """
    form: Form = {
        "seconds": Number(0, _MANY),
        "machine": Word(),
        "found": {"accuracy": _FRACTION, **_FOUND[experiment]},
    }
    rest = {name: value for name, value in content.items() if name not in ("schema", "made_with")}
    if wrong := _misfit(rest, form, ""):
        return wrong
    if experiment in _LENGTHS and len({len(each) for each in _LENGTHS[experiment](content["found"])}) > 1:
        return "'found' has lists of different lengths"
    return None


def _misfit(value: Any, form: Form, where: str) -> str | None:
    if isinstance(form, Number | Word):
        return None if form(value) else f"{where} is not {form}"
    if isinstance(form, list):
        if not isinstance(value, list) or not value:
            return f"{where} is not a list with something in it"
        return next((w for k, x in enumerate(value) if (w := _misfit(x, form[0], f"{where} {k}"))), None)
    if not isinstance(value, dict):
        return f"{where} has no names and values"
    names = {name.rstrip("?"): each for name, each in form.items()}
    if missing := [n for n in form if not n.endswith("?") and n not in value]:
        return f"{_below(where, missing[0])} is missing"
    if more := [n for n in value if n not in names]:
        return f"{_below(where, more[0])} does not belong there"
    return next((w for n, x in value.items() if (w := _misfit(x, names[n], _below(where, n)))), None)


def _below(where: str, name: str) -> str:
    return f"{where[:-1]}.{name}'" if where.endswith("'") else f"{where}'{ascii(name)[1:-1][:60]}'"
