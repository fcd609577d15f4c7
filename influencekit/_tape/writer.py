"""Write a taped run: rows of steps, stored states, and what is needed to resume."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Hashable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from influencekit import __version__
from influencekit._tape.optimizer import UpdateRule
from influencekit._tape.replica import Micro
from influencekit._tape.stream import STREAM, StreamExamples
from influencekit._training.buffers import packed
from influencekit._training.state import State
from influencekit._trajectory.store import open_group, read
from influencekit._trajectory.writing import COLUMNS, Column, Writer
from influencekit.errors import InputError
from influencekit.interfaces import Recorder
from influencekit.registry import label

__all__ = ["TapeWriter"]

_COLUMNS = {
    **COLUMNS,
    "fetch_rng": Column(("step", "micro"), "i8", -1),
    "forward_rng": Column(("step", "micro"), "i8", -1),
    "rng": Column(("generators", "byte"), "u1"),
    "settings": Column(("change", "setting"), "f8", np.nan),
}


class TapeWriter:
    """The store of a taped run, from its first step on."""

    def __init__(self, store: str | Path | None, recorder: Recorder, durable: bool) -> None:
        problem = "must know the length of the run, which a tape does not"
        if recorder.open_ended:
            problem = "is not lossless, and a tape returns to the states that it keeps"
        if not (recorder.open_ended and recorder.lossless):
            raise InputError(f"recorder {label(recorder)} {problem}; use every-k:k=50")
        self.store, self._recorder, self._durable = store, recorder, durable
        self.writer: Writer | None = None
        self._created = False  # by this recording
        self._numbers: dict[bytes, int] = {}
        self._last = b"", -1  # mostly the same state comes again and again
        self._horizon, self._kept = 0, frozenset[int]()

    @property
    def opened(self) -> Writer:
        """The writer of the store. Errors: no step was recorded yet."""
        if self.writer is None:
            raise InputError("the tape has recorded nothing yet")
        return self.writer

    @property
    def untouched(self) -> bool:
        """Whether this recording was resumed, and has recorded no step since."""
        writer = self.writer
        return writer is not None and writer.resumed is not None and writer.steps == writer.resumed.number

    def begin(
        self, rule: UpdateRule, first: State, ids: Sequence[Hashable] | StreamExamples,
        about: Mapping[str, Any],
    ) -> None:  # fmt: skip
        """Create the store. `ids`: the names of the examples, or the examples that it is to keep; `about`:
        further attributes."""
        stream, fixed = isinstance(ids, StreamExamples), dict[str, Any]()
        if not isinstance(ids, StreamExamples):
            names = np.array(list(ids))
            if names.dtype.kind not in "iu":
                names = np.array([str(i) for i in ids], dtype=np.dtypes.StringDType())
            fixed = {"train": (("train",), names)}
        changing = {"buffers": Column(("kept", "buffer"), "f8")} if first.buffers else {}
        self._created = True
        self.writer = Writer.create(
            self.store,
            size=rule.layout.size,
            dtype=str(first.theta.dtype).removeprefix("torch."),
            slots=list(rule.optimizer.slots),
            columns={**_COLUMNS, **changing, **(STREAM if stream else {})},
            fixed=fixed,
            attrs={
                "recorder": label(self._recorder),
                "optimizer": repr(rule.optimizer),
                "device": str(first.theta.device),
                "threads": torch.get_num_threads(),
                "influencekit_version": __version__,
                "torch_version": torch.__version__,
                "buffers": [[n, list(b.shape)] for n, b in first.buffers.items()],
                **about,
            },
            durable=self._durable,
        )

    def leave_off(self) -> None:
        """End without completing: what was recorded stays, and may be resumed. No store stays of nothing."""
        writer = self.opened
        if self._created and not writer.steps and self.store is not None:
            writer.remove()
        else:
            writer.close("recording")

    def reopen(self) -> dict[str, Any]:
        """Continue the store of a run that was interrupted. Returns its attributes."""
        assert self.store is not None
        attrs = open_group(self.store).attrs
        if "tape" not in attrs:
            raise InputError(f"{self.store} is not a taped run; resume it with record(..., resume=True)")
        tape: Any = attrs["tape"]
        if ranks := tape.get("ranks"):
            raise InputError(
                f"{self.store} was recorded by {ranks} ranks; a run of several ranks cannot be resumed: "
                "record into a new store"
            )
        if attrs["recorder"] != label(self._recorder):
            raise InputError(
                f"{self.store} was recorded by {attrs['recorder']}, not by {label(self._recorder)}; resume "
                f"it with recorder={attrs['recorder']!r}"
            )
        self.writer = Writer.resume(self.store, self._durable)
        return dict(self.writer.group.attrs)  # another process may have finished it until it was held

    def generators(self, number: int) -> bytes:
        """A row of the table of generator states."""
        return read(self.opened.group, "rng", slice(number, number + 1))[0].tobytes()

    def remember_generators(self) -> None:
        """After `reopen`: the table as it was when the state was kept, so that it grows in the same way."""
        if count := self.opened.placed("rng"):
            table = read(self.opened.group, "rng", slice(0, count))
            self._numbers = {_digest(row.tobytes()): number for number, row in enumerate(table)}

    def number(self, state: bytes | None) -> int:
        """The row of the table that holds a generator state; -1 for None."""
        if state is None:
            return -1
        if state != self._last[0]:
            key = _digest(state)
            if key not in self._numbers:
                self._numbers[key] = self.opened.rows("rng", np.frombuffer(state, np.uint8)[None])
            self._last = state, self._numbers[key]
        return self._last[1]

    def keeps(self, step: int) -> bool:
        """Whether the recorder keeps this state. Since the end is unknown, it is asked for a longer run."""
        while step >= self._horizon:
            self._horizon = max(1024, 2 * self._horizon)
            self._kept = frozenset(list(self._recorder.stored_states(0, self._horizon))[:-1])
        return step in self._kept

    def state(self, state: State, snapshot: Mapping[str, Any]) -> None:
        """Keep a state, with what a resumed loop needs."""
        tensors = {"theta": state.theta, **state.slots}
        arrays = {name: x.detach().cpu().numpy() for name, x in tensors.items()}
        if state.buffers:
            arrays["buffers"] = packed(state.buffers)
        said = {k: self.number(v) if isinstance(v, bytes) else v for k, v in snapshot.items()}
        try:
            json.dumps(said)
        except TypeError as error:
            raise InputError(f"scheduler: its state cannot be saved as plain data ({error})") from error
        self.opened.state(state.step, arrays, said)

    def settings(self, row: np.ndarray) -> None:
        """The hyper-parameters change: the first step with the new ones, and all that are numbers."""
        self.opened.rows("settings", row[None])

    def step(
        self, micros: Sequence[Micro], coefficients: np.ndarray, losses: np.ndarray, lrs: list[float],
        epoch: int, stream: StreamExamples | None = None,
    ) -> None:  # fmt: skip
        """The row of a step that was done."""
        kept = {}
        if stream is not None:
            stream.hand_over(self.opened)
            kept["row"] = np.concatenate([_slots(m, m.rows or []) for m in micros])
        self.opened.step(
            {
                **kept,
                "batch": np.concatenate([_slots(m, m.indices) for m in micros]),
                "part": np.repeat(np.arange(len(micros)), [m.slots.stop - m.slots.start for m in micros]),
                "coefficient": coefficients,
                "loss": losses,
                "lr": lrs,
                "epoch": epoch,
                "fetch_rng": [self.number(m.fetch_rng) for m in micros],
                "forward_rng": [self.number(m.forward_rng) for m in micros],
            }
        )


def _slots(micro: Micro, values: list[int]) -> np.ndarray:
    """Values of a micro-batch's slots: -1 for that of the penalty, which is no example's."""
    found = np.full(micro.slots.stop - micro.slots.start, -1)
    found[: len(values)] = values
    return found


def _digest(state: bytes) -> bytes:
    return hashlib.blake2b(state, digest_size=16).digest()
