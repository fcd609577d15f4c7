"""Calls on an executor: submitted, waited for, submitted again where a worker was lost, cancelled."""

import time
from collections import Counter
from collections.abc import Callable, Generator, Mapping
from contextlib import suppress
from typing import Any

from influencekit._arguments import short
from influencekit.errors import InfluenceKitError, InputError

__all__ = ["drive"]

_TRIES = 4  # of a call, without any other one ending well meanwhile
_LEAST, _MOST = 0.005, 0.25  # seconds between two looks at what has ended
_GRACE = 2.0  # seconds from a result that is there to the end of its call

Call = tuple[Callable[..., Any], tuple[Any, ...]]


def drive(
    executor: Any, calls: Mapping[str, Call], kept: str, there: Callable[[str], bool] | None = None
) -> Generator[tuple[str, Any], None, None]:
    """(name, what the call gave), as they end. `calls`: {name: (function, arguments)}, and behind the
    arguments comes the number of the attempt, by which dask tells two calls apart; `kept`: where the results
    that are there stay, for messages. `there(name)`: whether the result of a call is there already, by
    whomever; then the end of the call is not waited for, and its value is None.

    The functions give their own errors as values: whatever the executor raises is a worker that was lost, and
    the call is submitted again. What is left early is cancelled. Errors: `InputError` for what is no executor
    and for what cannot be pickled; `InfluenceKitError` for a call that loses its worker four times, or an
    executor that is broken.

    Example:

        >>> from concurrent.futures import ThreadPoolExecutor
        >>> from influencekit.extend import drive
        >>> with ThreadPoolExecutor(1) as executor:
        ...     dict(drive(executor, {"a": (max, (3,)), "b": (max, (5,))}, "nothing is kept"))
        {'a': 3, 'b': 5}
    """
    running, lost, tries, pause = dict[str, Any](), Counter[str](), Counter[str](), _LEAST
    since = dict[str, float]()  # when a result was seen whose call had not ended
    try:
        for name, call in calls.items():
            running[name] = _submitted(executor, call, 0, kept)
        while running:
            now = time.monotonic()
            seen = [name for name in running if there is not None and there(name)]
            known = {name for name in seen if now - since.setdefault(name, now) > _GRACE}
            ended = [name for name, future in running.items() if name in known or future.done()]
            pause = _LEAST if ended else min(2 * pause, _MOST)
            if not ended:
                time.sleep(pause)
            for name in ended:
                future = running.pop(name)
                if name in known and not future.done():
                    lost.clear()
                    yield name, None
                    continue
                try:
                    value = future.result()
                except Exception as error:  # every executor has its own
                    _refuse_unpicklable(error)
                    lost[name] += 1
                    tries[name] += 1
                    if lost[name] >= _TRIES:
                        raise InfluenceKitError(
                            f"{_TRIES} workers in a row were lost ({_line(error)}; for their memory?); {kept}"
                        ) from error
                    running[name] = _submitted(executor, calls[name], tries[name], kept)
                else:
                    lost.clear()
                    yield name, value
    finally:
        for future in running.values():
            _cancel(future)


def _cancel(future: Any) -> None:
    with suppress(Exception):  # every executor has its own
        future.cancel()


def _submitted(executor: Any, call: Call, attempt: int, kept: str) -> Any:
    function, arguments = call
    try:
        future = executor.submit(function, *arguments, attempt)
    except InfluenceKitError:
        raise
    except Exception as error:
        _refuse_unpicklable(error)
        raise InfluenceKitError(
            f"the executor takes no more work ({_line(error)}); {kept}: call again with a new executor"
        ) from error
    if not all(hasattr(future, name) for name in ("done", "result", "cancel")):
        raise InputError(
            f"executor: submit must give a future (done, result, cancel), got {short(future)}; wrap it in one"
        )
    return future


def _refuse_unpicklable(error: Exception) -> None:
    """Errors: `InputError`, where it says that something cannot be pickled."""
    said = _line(error)
    if "pickl" in said.lower() or "serializ" in said.lower() or type(error).__name__ == "PicklingError":
        raise InputError(
            f"a worker is sent the model, loss and data, and something there cannot be pickled ({said}): "
            "define it at the top of a module, or say how a worker makes them: "
            "influencekit.Workers(executor, opens=...), --code FILE.py:NAME"
        ) from error


def _line(error: BaseException) -> str:
    text = " ".join(str(error).split())[:160]
    return f"{type(error).__name__}: {text}" if text else type(error).__name__
