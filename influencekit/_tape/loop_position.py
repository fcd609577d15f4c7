"""The position of a loop: epoch and batch, learning rates, schedulers, random number generators."""

from __future__ import annotations

import base64
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch.utils.data import DataLoader

from influencekit._tape.hyperparameters import HyperParameters
from influencekit._tape.optimizer import learning_rates
from influencekit._tape.reloads import Reloads
from influencekit._tape.rng import capture, restore
from influencekit.errors import InputError

__all__ = ["LoopPosition", "refuse_early_end", "refuse_nothing_new", "say_resumed"]


class LoopPosition:
    """Says where the loop is, as plain data, and puts a resumed loop there.

    An epoch begins with the global generators, and those that the loader and its samplers own, in some state;
    they decide its order and seed its workers.
    """

    def __init__(
        self, optimizer: torch.optim.Optimizer, schedulers: Sequence[Any], device: torch.device,
        settings: HyperParameters, reloads: Reloads,
    ) -> None:  # fmt: skip
        self._optimizer, self._schedulers, self._device = optimizer, schedulers, device
        self._settings, self._reloads = settings, reloads
        self._began: bytes | None = None
        self._own: list[str] = []
        self._loader, self._generators = "", list[torch.Generator]()

    def begin(self, loader: Any) -> None:
        """An epoch begins: remember the generators that decide its order and seed its workers."""
        self._began, self._loader = capture(self._device), _described(loader)
        self._generators = generators(loader)
        self._own = [_text(g) for g in self._generators]

    def noted(self, epoch: int, position: int) -> dict[str, Any]:
        """The present position as JSON, but for the states of global generators, which are bytes."""
        return {
            "epoch": epoch,
            "position": position,
            "loader": self._loader,
            "began": self._began,
            "own": self._own,
            "now": capture(self._device),
            "lrs": learning_rates(self._optimizer),
            "schedulers": [s.state_dict() for s in self._schedulers],
            **self._settings.noted(),
            "known": self._reloads.known,
        }

    def ended(self, epoch: int, position: int) -> dict[str, Any]:
        """The position after a run, as JSON: where another epoch would begin."""
        note = self.noted(epoch, position)
        began = None if self._began is None else note["now"]
        return {**note, "began": began, "own": [_text(g) for g in self._generators], "ended": True}

    def begin_again(self, note: Mapping[str, Any], loader: Any, states: Callable[[int], bytes]) -> None:
        """The epoch of a note begins again. `states` gives the bytes of a noted global state."""
        if note["began"] is None:
            raise InputError("this run was recorded through a trainer; resume it through the same one")
        if note["loader"] != _described(loader):
            if note.get("ended"):  # another loader, whose generators are the loop's own affair
                return
            raise InputError(
                f"the run that is resumed had {note['loader']}, and this is {_described(loader)}; resume "
                "it with the same loader"
            )
        if getattr(loader, "persistent_workers", False) and note["epoch"] and not note.get("ended"):
            raise InputError(
                "the loader has persistent workers, whose random states go on from epoch to epoch and are "
                "lost with them, so its run cannot be resumed exactly; record with persistent_workers=False"
            )
        restore(states(note["began"]), self._device)
        for generator, state in zip(generators(loader), note["own"], strict=True):
            generator.set_state(torch.frombuffer(bytearray(base64.b64decode(state)), dtype=torch.uint8))

    def return_to(self, note: Mapping[str, Any], states: Callable[[int], bytes]) -> None:
        """Learning rates, schedulers and global generators as they were noted.

        Errors: other schedulers than those of the run, or one that the tape was not given.
        """
        saved, mine = len(note["schedulers"]), len(self._schedulers)
        if saved != mine:
            raise InputError(
                f"the run that is resumed saved {saved} schedulers (and scalers), and the tape was given "
                f"{mine}; pass all of the loop as scheduler=, so that they go on where they were"
            )
        if not mine and any("initial_lr" in group for group in self._optimizer.param_groups):
            raise InputError(
                "a scheduler sets the learning rates, and the run that is resumed did not save it, so it "
                "cannot go on where it was; record the run with scheduler="
            )
        for group, lr in zip(self._optimizer.param_groups, note["lrs"], strict=True):
            group["lr"] = lr
        self._settings.return_to(note)
        for scheduler, state in zip(self._schedulers, note["schedulers"], strict=True):
            scheduler.load_state_dict(state)
        restore(states(note["now"]), self._device)


def say_resumed(note: Mapping[str, Any], step: int, store: Any) -> None:
    """Warn of what a loop does by itself in a resumed run, and may do wrong."""
    warnings.warn(
        f"{store} goes on at step {step}, in epoch {note['epoch']} after {note['position']} batches. Before "
        "that the loop skips its batches: what it does between epochs (validation, keeping the best weights) "
        "sees the weights of this step, and its own counters (enumerate) begin at 0; tape.steps is right",
        UserWarning,
        stacklevel=5,
    )


def refuse_early_end(note: Mapping[str, Any], epoch: int) -> None:
    """Refuse a loop that ended with this epoch, before it was where the run of a note was cut off."""
    if not note.get("ended") or epoch < note["epoch"]:
        raise InputError(
            f"the loop ended before epoch {note['epoch']}, where the run that it resumes was cut off; pass "
            "every epoch's loader to tape.batches again"
        )


def refuse_nothing_new(epochs: int, epoch: int, store: Any) -> None:
    """Refuse a loop that ended with this epoch and added nothing to a complete run of so many epochs."""
    raise InputError(
        f"{store} is complete: there is nothing to resume; it has {epochs} epochs, which are skipped, and "
        f"the loop had {epoch + 1}: loop over {epochs} and as many as you want to add, or go on with the "
        "model and the optimizer as they were at its end"
    )


def _text(generator: torch.Generator) -> str:
    return base64.b64encode(generator.get_state().numpy().tobytes()).decode()


def _described(loader: Any) -> str:
    """What decides the order and the random numbers of a loader, beside its generators."""
    if not isinstance(loader, DataLoader):
        return "pairs of positions and batches"
    samplers = [type(x).__name__ for x in (loader.sampler, loader.batch_sampler)]
    own = len(generators(loader))
    return (
        f"a loader of batch size {loader.batch_size}, {' and '.join(samplers)}, {loader.num_workers} workers"
        f", {own or 'no'} generator{'s' * (own != 1)} of its own"
    )


def generators(loader: Any) -> list[torch.Generator]:
    """The generators that a loader and its samplers own, each once."""
    found: dict[int, torch.Generator] = {}
    todo = [loader]
    while todo:
        thing = todo.pop()
        own = getattr(thing, "__dict__", {})
        for value in (own.get("generator"), own.get("sampler"), own.get("batch_sampler")):
            if isinstance(value, torch.Generator):
                found[id(value)] = value
            elif value is not None:
                todo.append(value)
    return list(found.values())
