"""Learning-rate schedules as data: a factor for every step, so a run can be replayed from any of them."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from math import cos, pi, sqrt

from influencekit._arguments import check_options, real_number, whole_number
from influencekit.errors import InputError

__all__ = ["Constant", "Cosine", "Factors", "InverseSqrt", "Schedule"]


class Schedule(ABC):
    """Maps a run of `steps` updates to `steps` factors; the learning rate of step t is lr * factor[t].

    Example:

        >>> import influencekit as ik
        >>> from dataclasses import dataclass
        >>> @dataclass(frozen=True)
        ... class Halved(ik.Schedule):
        ...     def factors(self, steps):
        ...         return tuple(1.0 if t < steps / 2 else 0.5 for t in range(steps))
        >>> Halved().factors(4)
        (1.0, 1.0, 0.5, 0.5)
    """

    __post_init__ = check_options  # of subclasses that are dataclasses: their options are what they say

    @abstractmethod
    def factors(self, steps: int) -> tuple[float, ...]:
        """The factor of every step, t = 0 ... steps - 1."""


@dataclass(frozen=True)
class Constant(Schedule):
    """No decay: every factor is 1.

    Example:

        >>> import influencekit as ik
        >>> ik.Constant().factors(3)
        (1.0, 1.0, 1.0)
    """

    def factors(self, steps: int) -> tuple[float, ...]:
        return (1.0,) * steps


@dataclass(frozen=True)
class InverseSqrt(Schedule):
    """1 / sqrt(t + 1): the papers' decay, there lr *= sqrt(c / (c + 1)) after step c = 1, 2, ...

    Example:

        >>> import influencekit as ik
        >>> [round(x, 3) for x in ik.InverseSqrt().factors(3)]
        [1.0, 0.707, 0.577]
    """

    def factors(self, steps: int) -> tuple[float, ...]:
        return tuple(1.0 / sqrt(t + 1) for t in range(steps))


@dataclass(frozen=True)
class Cosine(Schedule):
    """Half a cosine from 1 down to `final`, after `warmup` steps of linear growth.

    Example:

        >>> import influencekit as ik
        >>> [round(x, 3) for x in ik.Cosine(warmup=1).factors(4)]
        [0.5, 1.0, 0.75, 0.25]
    """

    warmup: int = 0
    final: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        whole_number("Cosine: warmup", self.warmup, 0)
        real_number("Cosine: final", self.final)

    def factors(self, steps: int) -> tuple[float, ...]:
        down = max(steps - self.warmup, 1)
        rise = [(t + 1) / (self.warmup + 1) for t in range(min(self.warmup, steps))]
        fall = [
            self.final + (1 - self.final) * (1 + cos(pi * t / down)) / 2 for t in range(steps - len(rise))
        ]
        return tuple(rise + fall)


@dataclass(frozen=True)
class Factors(Schedule):
    """Explicit factors, one a step: whatever schedule was really used.

    Example:

        >>> import influencekit as ik
        >>> ik.Factors((1.0, 0.5)).factors(2)
        (1.0, 0.5)
    """

    values: tuple[float, ...]

    def factors(self, steps: int) -> tuple[float, ...]:
        if len(self.values) != steps:
            raise InputError(f"the schedule lists {len(self.values)} factors, but the run has {steps} steps")
        return tuple(float(v) for v in self.values)
