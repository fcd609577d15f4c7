"""With `durable`, a loss of power at any moment leaves the last commit that was announced, or a later one."""

import random

import pytest
import zarr
from helpers_disk import Disk
from helpers_writing import STEPS, begin, go_on, never_killed
from zarr.core.buffer import default_buffer_prototype

from influencekit import StoreError
from influencekit._files import publishing
from influencekit._trajectory.store import chunks, open_group, read
from influencekit._trajectory.writing import Writer, ledger

PATH = "run.zarr"


@pytest.fixture
def disk(tmp_path, monkeypatch) -> Disk:
    monkeypatch.setattr(ledger, "_ROWS", 4)
    monkeypatch.setattr(publishing, "_renameat2", lambda: None)
    noted, commit = Disk(tmp_path, monkeypatch), ledger.Ledger.commit

    def announce(self, **attrs):
        done = commit(self, **attrs)
        if getattr(self.files, "store", "") == str(tmp_path / PATH):
            noted.said(done)
        return done

    monkeypatch.setattr(ledger.Ledger, "commit", announce)
    return noted


def record(disk: Disk, durable: bool, commits: set[int]) -> None:
    """The run, cut off once and continued."""
    writing = begin(disk.root / PATH, durable=durable)
    disk.said(0)
    go_on(writing, 5, commits=commits)
    writing.close("recording")
    writing = Writer.resume(disk.root / PATH, durable)
    go_on(writing, commits=commits)
    writing.close()


def problem(files: dict[str, bytes], said: int | None) -> str:
    """What is wrong with what is left; empty if nothing is."""
    store = {k.removeprefix(PATH + "/"): v for k, v in files.items() if k.startswith(PATH + "/")}
    if not store:
        return "" if said is None else "no store"
    buffers = {k: default_buffer_prototype().buffer.from_bytes(v) for k, v in store.items()}
    try:
        group = open_group(zarr.storage.MemoryStore(buffers))
        if said is not None and group.attrs["committed"] < said:
            return "an older commit"
        if absent := [f"{name}/{key}" for name, key, _ in chunks(group) if f"{name}/{key}" not in store]:
            return f"no chunk {absent[0]}"
        for name in group.array_keys():
            found = read(group, name)
            if found.tobytes() != never_killed()[name][tuple(slice(n) for n in found.shape)].tobytes():
                return f"other values of {name}"
    except StoreError as error:
        return str(error)
    return ""


def faults(disk: Disk, count: int, seed: int, first: int = 0) -> list[str]:
    """Of `count` losses of power: at random moments, each with everything lost, nothing lost, or anything."""
    draw, found = random.Random(seed), []
    for _ in range(count):
        moment = draw.randint(first, len(disk.log))
        for choose in (lambda xs: xs[0], lambda xs: xs[-1], draw.choice, draw.choice):
            found.append(problem(*disk.after(moment, choose)))
    return [fault for fault in found if fault]


@pytest.mark.parametrize("commits", [set(), set(range(STEPS + 1))], ids=["few commits", "many"])
def test_no_loss_of_power_loses_what_was_announced(disk, commits):
    record(disk, True, commits)
    assert len(disk.log) > 200
    assert not faults(disk, 60, seed=len(commits))
    assert not problem(*disk.after(len(disk.log), lambda xs: xs[-1]))


def test_without_it_a_loss_of_power_does(disk):
    """So that the test above can fail."""
    record(disk, False, set(range(STEPS + 1)))
    found = faults(disk, 60, seed=0)
    assert len(found) > 50 and "no store" in found


@pytest.mark.parametrize("forgotten", ["file", "array", "root", "parent"])
def test_every_sync_is_needed(disk, forgotten, monkeypatch):
    record(disk, True, set(range(STEPS + 1)))
    parent, root = disk.root.stat().st_ino, (disk.root / PATH).stat().st_ino
    folders = {p.stat().st_ino for p in (disk.root / PATH).rglob("*") if p.is_dir()}
    kinds = {"parent": {parent}, "root": {root}, "array": folders}

    def skipped(entry: tuple) -> bool:
        known = {parent, root, *folders}
        return entry[0] == "sync" and (
            entry[1] not in known if forgotten == "file" else entry[1] in kinds[forgotten]
        )

    disk.log = [entry for entry in disk.log if not skipped(entry)]
    assert faults(disk, 60, seed=1)


def test_a_run_that_was_not_durable_is_made_so_when_it_is_resumed(disk):
    writing = begin(disk.root / PATH)
    go_on(writing, 5)
    writing.close("recording")
    writing = Writer.resume(disk.root / PATH, durable=True)
    now = len(disk.log)
    go_on(writing)
    writing.close()
    assert not faults(disk, 60, seed=2, first=now)


@pytest.mark.parametrize("durable", [True, False])
def test_every_way_to_record_hands_it_on(durable, disk):
    """`record`, a tape and the command line, each also when it resumes."""
    import torch
    from click.testing import CliRunner

    import influencekit as ik
    from influencekit.cli import cli

    work = ik.make("workload", "mnist-1v7-lr:n_train=24:epochs=2")
    data = torch.utils.data.TensorDataset(torch.randn(8, 3), torch.randint(2, (8,)))
    losses, model = torch.nn.CrossEntropyLoss(reduction="none"), torch.nn.Linear(3, 2)
    optimizer = torch.optim.SGD(model.parameters(), 0.1)

    def tape(path, resume):
        with ik.Tape(
            path, model, optimizer, loss=losses, data=data, resume=resume, durable=durable
        ) as recording:
            for _ in range(1 + resume):
                for _, (x, y) in recording.batches(torch.utils.data.DataLoader(data, 4)):
                    optimizer.zero_grad()
                    losses(model(x), y).mean().backward()
                    optimizer.step()

    def command(path, _):
        words = ["record", "mnist-1v7-lr:n_train=24:epochs=2", "--store", str(path)]
        result = CliRunner().invoke(cli, words + ["--durable"] * durable, catch_exceptions=False)
        assert result.exit_code == 0

    def syncs(act, *args) -> bool:
        disk.log.clear()
        act(*args)
        return any(kind == "sync" for kind, *_ in disk.log)

    cut = disk.root / "cut.zarr"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Writer, "close", lambda self, *_, **__: self.leave())
        ik.record(work, store=cut)
    assert syncs(lambda: ik.record(work, store=cut, resume=True, durable=durable)) == durable
    assert syncs(lambda: ik.record(work, store=disk.root / "whole.zarr", durable=durable)) == durable
    assert syncs(tape, disk.root / "tape.zarr", False) == durable
    assert syncs(tape, disk.root / "tape.zarr", True) == durable
    assert syncs(command, disk.root / "command.zarr", False) == durable
