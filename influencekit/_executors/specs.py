"""Executors by their names: `processes:4`, `dask:ADDRESS`, `submitit:partition=...`; or what has `submit`."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any

from influencekit._arguments import short, whole_number
from influencekit._executors.processes import Processes
from influencekit._specs import unknown
from influencekit.errors import InfluenceKitError, InputError

__all__ = ["begun_executor", "check_executor"]


def check_executor(executor: Any) -> None:
    """Refuse what is neither a spec nor has `submit`; also a spec that is not one, or lacks its package.

    Example:

        >>> from influencekit.extend import check_executor
        >>> check_executor("processes:4")
    """
    if isinstance(executor, str):
        _named(executor)
    elif isinstance(executor, type) or not callable(getattr(executor, "submit", None)):
        raise InputError(
            "executor: expected processes:4, dask:ADDRESS, submitit:partition=NAME, or an object with "
            f"submit, got {short(executor)}"
        )


def begun_executor(executor: Any, folder: Path) -> AbstractContextManager[Any]:
    """A block with the executor that is meant: one named by a spec is closed at its end, one of the user's
    is left as it is. `folder`: where submitit keeps its files.

    Example:

        >>> from pathlib import Path
        >>> from influencekit.extend import begun_executor
        >>> with begun_executor("processes:1", Path(".")) as executor:
        ...     executor.submit(int, "7").result()
        7
    """
    check_executor(executor)
    return _named(executor)(folder) if isinstance(executor, str) else nullcontext(executor)


def _named(spec: str) -> Callable[[Path], AbstractContextManager[Any]]:
    name, _, words = spec.partition(":")
    kinds = {"processes": _processes, "dask": _dask, "submitit": _submitit}
    if name not in kinds:
        raise unknown("executor", name, {n: f"{n}:{e}" for n, e in _EXAMPLES.items()}, "write one of")
    return kinds[name](spec, words)


# what submitit calls alike on every cluster; the rest is Slurm's
_SHARED = {
    "name", "timeout_min", "mem_gb", "nodes", "cpus_per_task", "gpus_per_node", "tasks_per_node",
    "stderr_to_stdout",
}  # fmt: skip
_EXAMPLES = {"processes": "4", "dask": "tcp://HOST:8786", "submitit": "partition=NAME"}


def _processes(spec: str, words: str) -> Callable[[Path], AbstractContextManager[Any]]:
    if words and not words.isdecimal():
        raise InputError(f"executor '{spec}': expected a number of processes, such as processes:4")
    count = whole_number("executor: processes", int(words or os.cpu_count() or 1), 1, 4096)
    return lambda folder: Processes(count)


def _dask(spec: str, words: str) -> Callable[[Path], AbstractContextManager[Any]]:
    if not words:
        raise InputError(
            "executor 'dask' needs the address of a scheduler, dask:tcp://HOST:8786, or the file that it "
            "wrote, dask:scheduler.json"
        )
    _require("distributed", spec, "influencekit[dask]")
    if words.endswith(".json") and not Path(words).is_file():  # which dask would wait for
        raise InputError(
            f"executor '{spec}': there is no file {words}; "
            f"`dask scheduler --scheduler-file {words}` writes it"
        )

    @contextmanager
    def connected(folder: Path) -> Iterator[Any]:
        from distributed import Client

        where = {"scheduler_file": words} if words.endswith(".json") else {"address": words}
        try:
            client = Client(**where, timeout="10s")
        except (OSError, ValueError) as error:  # of which a timeout is one
            line = (str(error).splitlines() or [type(error).__name__])[0]
            raise InfluenceKitError(
                f"no dask scheduler at {words} ({line}); start one, or correct it"
            ) from error
        with client:
            # another worker may take over what was begun; the same call twice is two calls
            yield client.get_executor(pure=False, retries=3)

    return connected


def _submitit(spec: str, words: str) -> Callable[[Path], AbstractContextManager[Any]]:
    options: dict[str, Any] = {}
    for pair in words.split(":") if words else ():
        key, equals, value = pair.partition("=")
        if not (key.isidentifier() and equals and value):
            raise InputError(f"executor '{spec}': expected submitit:KEY=VALUE:KEY=VALUE, got '{pair}'")
        options[key] = int(value) if value.isdecimal() else value
    _require("submitit", spec, "influencekit[submitit]")
    cluster, files = options.pop("cluster", None), options.pop("folder", None)
    options = {k if k in _SHARED or k.startswith("slurm_") else f"slurm_{k}": v for k, v in options.items()}

    def made(folder: Path) -> AbstractContextManager[Any]:
        import submitit

        try:
            executor = submitit.AutoExecutor(folder=files or folder / "submitit", cluster=cluster)
            executor.update_parameters(**options)
        except Exception as error:  # submitit has its own, and asserts
            line = (str(error).splitlines() or [type(error).__name__])[0]
            raise InputError(f"executor '{spec}': {line}") from error
        return nullcontext(executor)

    return made


def _require(package: str, spec: str, extra: str) -> None:
    from importlib.util import find_spec

    if find_spec(package) is None:
        raise InputError(f"executor '{spec}' needs the package {package}: pip install '{extra}'")
