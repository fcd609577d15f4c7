"""`--code FILE.py:NAME` and the like: a script of the user's that is run for what it defines."""

from __future__ import annotations

import os
import sys
import tokenize
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from typing import Any

from influencekit._address import local
from influencekit.errors import InfluenceKitError, InputError

__all__ = ["from_code", "trusted_from", "value_from"]

_DATA = {".csv", ".json", ".npz", ".tsv"}  # whose text may read as Python, too


def from_code(code: str) -> Any:
    """What the named function of a file of the user's returns, or the named value: a Workload, or a dict.

    Errors: `InputError` for no such file or name, for code that fails in whatever way, ends the program,
    trains, or gives something else.
    """
    from influencekit._training.workload import Workload

    found = value_from(code)
    if not isinstance(found, dict | Workload):
        raise InputError(
            f"--code {code}: expected a Workload, or a dict of the arguments of influencekit.open (model, "
            f"loss, data, test), got {type(found).__name__}"
        )
    if isinstance(found, dict) and (
        odd := [key for key in found if key in ("store", "workload") or not isinstance(key, str)]
    ):
        raise InputError(
            f"--code {code}: the dict has {odd[0]!r}, which is no argument for it to give; leave it out"
        )
    return found


def trusted_from(trusted: str | None) -> Any:
    """The trusted examples of `--trusted`; None where it was not given. Errors: as `value_from`; code that
    gives None, since the test set would judge in their place."""
    if trusted is None:
        return None
    found = value_from(trusted, "--trusted", "trusted")
    if found is None:
        raise InputError(
            f"--trusted {trusted}: expected a batch or a data set, got None; a function must return it"
        )
    return found


def value_from(code: str, option: str = "--code", example: str = "parts", call: bool = True) -> Any:
    """What the named function of a file of the user's returns, or the named value; not to `call` a function
    gives it itself. Errors: as `from_code`, of this option."""
    import runpy

    from influencekit._code import running

    text, _, name = code.rpartition(":")
    if not text or not name.isidentifier():
        raise InputError(f"{option} {code}: expected a file and a name in it, such as train.py:{example}")
    file, asked = local(text), f"{option} {code}"
    if not file.is_file():
        raise InputError(f"{asked}: there is no file {file}{', but a folder' if file.is_dir() else ''}")
    if file.suffix in _DATA or (file.suffix != ".py" and not _is_python(file)):
        raise InputError(
            f"{asked}: {file} is no Python file; expected a script and a name in it, such as "
            f"train.py:{example}"
        )
    with _script(asked, file):
        with running(
            f"{asked}: {file} trains when it is imported; put the training under `if __name__ == "
            f"'__main__':`, so that {name} can be had without it"
        ):
            names = runpy.run_path(str(file), run_name="influencekit_code")
        if name not in names:
            raise InputError(f"{asked}: {file} defines no {name}")
        with running(f"{asked}: {name} records a run; let it only make the model, loss and data"):
            return names[name]() if call and callable(names[name]) else names[name]


def _is_python(file: Path) -> bool:
    """Whether a file can be read as Python: data with a colon behind its name cannot."""
    try:
        with tokenize.open(file) as text:
            compile(text.read(), file, "exec")
    except (SyntaxError, ValueError):  # which a wrong encoding is, too
        return False
    return True


@contextmanager
def _script(asked: str, file: Path) -> Iterator[None]:
    """Around code of the user's, as for `python FILE.py`: its folder, its arguments; errors in one line.

    What it prints goes to stderr, and it has nothing to read: stdout is the command's, and nobody is asked.
    """
    path, argv, stdin = sys.path[:], sys.argv, sys.stdin
    sys.path.insert(0, str(file.absolute().parent))
    sys.argv = [str(file)]
    try:
        with open(os.devnull, encoding="utf-8") as nothing, redirect_stdout(sys.stderr):
            sys.stdin = nothing
            yield
    except (InfluenceKitError, KeyboardInterrupt):
        raise
    except SystemExit as error:
        raise InputError(
            f"{asked}: {file} ends the program when it is imported (SystemExit: {error}); put what "
            "reads arguments or runs under `if __name__ == '__main__':`"
        ) from error
    except BaseException as error:
        line = (str(error).splitlines() or [""])[0]
        raise InputError(f"{asked}: running it failed with {type(error).__name__}: {line}") from error
    finally:
        sys.path[:], sys.argv, sys.stdin = path, argv, stdin
