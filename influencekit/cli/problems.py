"""From what the user typed, or from what a store says of itself, to a workload on a device."""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from influencekit.errors import InputError

if TYPE_CHECKING:
    import xarray as xr

    from influencekit._training.workload import Workload
    from influencekit._trajectory.trajectory import Trajectory

__all__ = [
    "RunSource",
    "WorkloadSource",
    "from_attrs",
    "is_store",
    "reopen",
    "tell_unsent",
    "use_device",
    "workers",
]


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
    if any(pair.startswith("data_dir=") for pair in info["spec"].split(":")):
        raise InputError(f"{where} names a folder of data, which no store does; record again")
    if info.get("data_source") == "data_dir" and data_dir is None:
        raise InputError(f"{where} was made from data in a folder of yours; name it with --data-dir DIR")
    return WorkloadSource(info["spec"], data_dir=data_dir, device=device)(int(info["draw_seed"]))


def is_store(text: str, code: str | None = None) -> bool:
    """Whether what was typed is the store of a run, and not the name of a workload."""
    if code is not None or text.endswith(".zarr") or "://" in text:
        return True
    return os.path.isfile(os.path.join(os.path.expanduser(text), "zarr.json"))


@dataclass(frozen=True)
class RunSource:
    """What the run in a store was made of: built again from the store's attrs, or by the user's `code`."""

    store: str
    data_dir: str | None
    device: str = "cpu"
    code: str | None = None

    def __call__(self) -> Any:
        """A workload, or a dict of the arguments of `open`."""
        from influencekit._trajectory.store import open_group
        from influencekit.cli.user_code import from_code

        attrs = dict(open_group(self.store).attrs)
        if self.code is not None:
            found = from_code(self.code)
            if isinstance(found, dict):
                model: Any = found.get("model")
                return {**found, "model": model.to(self.device) if hasattr(model, "to") else model}
            return found.to(self.device)
        if "tape" in attrs:
            raise InputError(
                f"{self.store} is a taped run; say where its model, loss and data are made: --code "
                "train.py:parts, a function that returns dict(model=..., loss=..., data=..., test=...)"
            )
        info: Any = attrs["info"]
        return from_attrs(info, self.store, self.data_dir, self.device)

    def absolute(self) -> RunSource:
        """The same for a worker, which may be in another folder."""
        places = {n: os.path.abspath(v) for n in ("store", "data_dir") if (v := getattr(self, n)) is not None}
        if self.code is not None:
            file, _, name = self.code.rpartition(":")
            places["code"] = f"{os.path.abspath(os.path.expanduser(file))}:{name}"
        return replace(self, **places)


def reopen(store: str, data_dir: str | None, device: str = "cpu", code: str | None = None) -> Trajectory:
    """A recorded run with what made it."""
    found = RunSource(store, data_dir, device, code)()
    return _quietly(store, **found) if isinstance(found, dict) else _quietly(store, found)


def workers(executor: str | None, slices: str | None, source: RunSource | None = None) -> Any:
    """What `--executor` and `--slices` mean; None where neither is typed. Errors: slices alone."""
    if executor is None:
        if slices is not None:
            raise InputError("--slices keeps what an executor does; say which with --executor processes:4")
        return None
    from influencekit._executors.session import Workers

    return Workers(executor, slices, source and source.absolute())


def tell_unsent(executor: str | None, *results: xr.Dataset | None) -> None:
    """Say on stderr that `--executor` had nothing to do, where no result was retrained by it."""
    if executor is None or any("retrained_on" in one.attrs for one in results if one is not None):
        return
    from influencekit.cli.console import complain

    complain(
        f"--executor {executor}: nothing was sent: what was asked is not cut into slices, and was computed "
        "here; docs/executors.md says what is cut"
    )


def _quietly(store: str, *made: Any, **parts: Any) -> Trajectory:
    """The run, opened. That it has not ended is told with the results."""
    import warnings

    from influencekit._verbs.open import open

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        return open(store, *made, **parts)
