"""From what the user typed, or from what a store says of itself, to a workload on a device."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from influencekit.errors import InfluenceKitError, InputError

if TYPE_CHECKING:
    from influencekit._training.workload import Workload
    from influencekit._trajectory.trajectory import Trajectory

__all__ = ["WorkloadSource", "from_attrs", "is_store", "reopen", "use_device"]


@dataclass(frozen=True)
class WorkloadSource:
    """A workload function with all options but the seed; what it builds says how to build it again."""

    spec: str
    setting: str | None = None
    data_dir: str | None = None
    device: str = "cpu"

    def __call__(self, seed: int) -> Workload:
        """The workload of this seed. Errors: whatever the spec or the data have wrong."""
        from influencekit._specs import options_of
        from influencekit._training.workload import Workload
        from influencekit.registry import load, make

        name, *pairs = self.spec.split(":")
        known = options_of(load("workload", name))
        given = {pair.partition("=")[0]: pair for pair in pairs}
        if "seed" in given:
            raise InputError(f"workload '{self.spec}': give the seed with --seed or --seeds")
        options: dict[str, Any] = {}
        if self.setting is not None:
            options["setting"] = self.setting
        elif "setting" in known and "setting" not in given:
            options["setting"] = "trained"
        if self.data_dir is not None:
            options["data_dir"] = self.data_dir
        if "seed" in known:
            options["seed"] = seed
        workload = make("workload", self.spec, **options)
        if not isinstance(workload, Workload):
            raise InputError(f"workload '{name}' gave a {type(workload).__name__}, expected a Workload")
        if "seed" not in known:
            workload = replace(workload, seed=seed)
        # a path of this machine is not written to the store
        if "setting" in options:
            given["setting"] = f"setting={options['setting']}"
        given.pop("data_dir", None)
        rebuild = {"spec": ":".join([name, *given.values()]), "draw_seed": seed}
        return replace(workload, info={**workload.info, **rebuild}).to(self.device)


def use_device(device: str, threads: int) -> str:
    """The device for `auto`, `cpu` or `cuda`, after torch was given so many threads.

    Errors: `InputError` for cuda where torch sees none; it says why.

    Example:

        >>> from influencekit.extend import use_device
        >>> use_device("cpu", threads=1)
        'cpu'
    """
    import torch

    torch.set_num_threads(threads)
    there = torch.cuda.is_available()
    if device == "cuda" and not there:
        built = torch.version.cuda
        why = f"torch {torch.__version__} is built for CUDA {built}, but sees no device" if built else (
            f"torch {torch.__version__} is built without CUDA"
        )  # fmt: skip
        raise InputError(f"--device cuda: {why}; use --device cpu")
    return "cuda" if there and device != "cpu" else "cpu"


def from_attrs(info: dict[str, Any], where: str, data_dir: str | None, device: str = "cpu") -> Workload:
    """The workload that a store's or result's `info` describes."""
    if "spec" not in info or "draw_seed" not in info:
        raise InputError(
            f"{where} does not say how to build its workload again, because it was made in Python; "
            "say where it is made with --code FILE.py:NAME, or open it there: influencekit.open(store, "
            "workload)"
        )
    if info.get("data_source") == "data_dir" and data_dir is None:
        raise InputError(f"{where} was made from data in a folder of yours; name it with --data-dir DIR")
    return WorkloadSource(info["spec"], data_dir=data_dir, device=device)(int(info["draw_seed"]))


def is_store(text: str, code: str | None = None) -> bool:
    """Whether what was typed is the store of a run, and not the name of a workload."""
    return code is not None or text.endswith(".zarr") or (Path(text) / "zarr.json").is_file()


def reopen(store: str, data_dir: str | None, device: str = "cpu", code: str | None = None) -> Trajectory:
    """A recorded run with what made it: built again from the store's attrs, or by the user's `code`."""
    from influencekit._trajectory.store import open_group

    attrs = dict(open_group(store).attrs)
    if code is not None:
        found = _from_code(code)
        if isinstance(found, dict):
            model = found.get("model")
            return _quietly(store, **{**found, "model": model.to(device) if model is not None else None})
        return _quietly(store, found.to(device))
    if "tape" in attrs:
        raise InputError(
            f"{store} is a taped run; say where its model, loss and data are made: --code train.py:parts, "
            "a function that returns dict(model=..., loss=..., data=..., test=...)"
        )
    info: Any = attrs["info"]
    return _quietly(store, from_attrs(info, store, data_dir, device))


def _quietly(store: str, *made: Any, **parts: Any) -> Trajectory:
    """The run, opened. That it has not ended is told with the results."""
    import warnings

    from influencekit._verbs.open import open

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        return open(store, *made, **parts)


def _from_code(code: str) -> Any:
    """What the named function of a file of the user's returns, or the named value."""
    import runpy

    from influencekit._code import running
    from influencekit._training.workload import Workload

    file, _, name = code.rpartition(":")
    if not file or not name.isidentifier():
        raise InputError(f"--code {code}: expected a file and a name in it, such as train.py:parts")
    if not Path(file).is_file():
        raise InputError(f"--code {code}: there is no file {file}")
    with _script(code, Path(file)):
        with running(
            f"--code {code}: {file} trains when it is imported; put the training under `if __name__ == "
            f"'__main__':`, so that {name} can be had without it"
        ):
            names = runpy.run_path(file, run_name="influencekit_code")
        if name not in names:
            raise InputError(f"--code {code}: {file} defines no {name}")
        with running(f"--code {code}: {name} records a run; let it only make the model, loss and data"):
            found = names[name]() if callable(names[name]) else names[name]
    if not isinstance(found, dict | Workload):
        raise InputError(
            f"--code {code}: expected a Workload, or a dict of the arguments of influencekit.open (model, "
            f"loss, data, test), got {type(found).__name__}"
        )
    return found


@contextmanager
def _script(code: str, file: Path) -> Iterator[None]:
    """Around code of the user's, as for `python FILE.py`: its folder, its arguments; errors in one line."""
    path, argv = sys.path[:], sys.argv
    sys.path.insert(0, str(file.absolute().parent))
    sys.argv = [str(file)]
    try:
        yield
    except InfluenceKitError:
        raise
    except SystemExit as error:
        raise InputError(
            f"--code {code}: {file} ends the program when it is imported (SystemExit: {error}); put what "
            "reads arguments or runs under `if __name__ == '__main__':`"
        ) from error
    except Exception as error:
        line = (str(error).splitlines() or [""])[0]
        raise InputError(f"--code {code}: running it failed with {type(error).__name__}: {line}") from error
    finally:
        sys.path[:], sys.argv = path, argv
