"""What a store of a tape may be resumed with: nothing is written before it has shown to be the run's own."""

from contextlib import nullcontext

import pytest
import torch
from helpers_tape import Examples, network, per_example
from torch.utils.data import DataLoader, default_collate

import influencekit as ik
from influencekit._files import Folder


def on(
    store, loss=per_example, change=lambda model: None, epochs=1, stop=None, collate=None, recorder="full"
):
    """A run that is resumed if it is there: its loss and its model may be others, and so may the loader's
    collation."""
    torch.manual_seed(1)
    model, data = network(), Examples()
    change(model)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    loader, step = DataLoader(data, batch_size=4, collate_fn=collate), 0
    with ik.Tape(store, model, optimizer, loss=loss, data=data, recorder=recorder, resume=True) as tape:
        for _ in range(epochs):
            for _, (x, y) in tape.batches(loader):
                if step == stop:
                    raise KeyboardInterrupt
                step += 1
                optimizer.zero_grad()
                loss(model(x), y).mean().backward()
                optimizer.step()
    return tape


def files(store):
    return {str(p): (p.stat().st_mtime_ns, p.read_bytes()) for p in store.rglob("*") if p.is_file()}


def relu(model):
    for name, module in list(model.named_children()):
        if not list(module.parameters()):
            setattr(model, name, torch.nn.ReLU())


@pytest.mark.parametrize("stop", [None, 2], ids=["complete", "interrupted"])
@pytest.mark.parametrize(
    "other",
    [
        {"loss": lambda outputs, y: 3 * per_example(outputs, y)},
        {"loss": torch.nn.CrossEntropyLoss(reduction="none", label_smoothing=0.2)},
        {"change": relu},
        {"change": lambda model: setattr(model[2], "p", 0.5)},
        {"collate": lambda items: [2 * x if x.ndim > 1 else x for x in default_collate(items)]},
    ],
    ids=["factor", "smoothing", "relu", "dropout", "collation"],
)
def test_with_another_loss_or_model_nothing_is_written(tmp_path, other, stop):
    store = tmp_path / "run.zarr"
    if stop is None:
        on(store)
    else:
        with pytest.raises(KeyboardInterrupt):
            on(store, stop=stop)
    before = files(store)
    with pytest.raises(ik.StoreError, match="is not a run of this model, loss and data: the mean") as info:
        on(store, epochs=2, **other)
    assert "\n" not in str(info.value) and files(store) == before
    assert on(store, epochs=2).steps == 6


@pytest.mark.parametrize("stop", [None, 2], ids=["complete", "interrupted"])
@pytest.mark.parametrize(
    ("change", "around", "said"),
    [
        (
            lambda model: model.eval(),
            nullcontext,
            "the model was in training mode when the run was recorded",
        ),
        (
            lambda model: model.append(torch.nn.Dropout(0.0)),
            nullcontext,
            "module 4 is in training mode, and was not when the run was recorded",
        ),
        (
            lambda model: None,
            lambda: torch.autocast("cpu", dtype=torch.bfloat16),
            "autocast to None, and this is with autocast to bfloat16",
        ),
    ],
    ids=["evaluation", "another module", "autocast"],
)
def test_in_another_mode_nothing_is_written(tmp_path, change, around, said, stop):
    store = tmp_path / "run.zarr"
    with pytest.raises(KeyboardInterrupt) if stop else nullcontext():
        on(store, stop=stop)
    before = files(store)
    with pytest.raises(ik.StoreError, match=said) as info, around():
        on(store, epochs=2, change=change)
    assert "\n" not in str(info.value) and files(store) == before
    assert on(store, epochs=2).steps == 6


def test_the_check_of_a_resumed_run_leaves_the_loop_as_it_was(tmp_path):
    store, seen = tmp_path / "run.zarr", []
    on(store)
    model, data = network(), Examples()
    model.eval()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)

    def state():
        return torch.get_rng_state(), torch.cat([p.detach().reshape(-1) for p in model.parameters()])

    with ik.Tape(store, model, optimizer, loss=per_example, data=data, recorder="full", resume=True) as tape:
        check = tape._recording._unchecked.check

        def watched(call):
            before = state()
            check(call)
            seen.append(all(map(torch.equal, before, state())))
            assert all(p.grad is None for p in model.parameters()) and not model.training

        tape._recording._unchecked.check = watched
        for _ in range(2):
            for _, (x, y) in tape.batches(DataLoader(data, batch_size=4)):
                optimizer.zero_grad()
                model.train()
                per_example(model(x), y).mean().backward()
                optimizer.step()
    assert seen == [True]


def test_a_resumed_run_that_ends_at_once_stays(tmp_path):
    store = tmp_path / "run.zarr"
    on(store)
    before = files(store)
    with pytest.raises(ik.InputError, match="is complete: there is nothing to resume"):
        on(store, epochs=0)
    assert files(store) == before


def test_a_run_that_another_process_finishes_meanwhile_is_complete(tmp_path, monkeypatch):
    store, hold, finished = tmp_path / "run.zarr", Folder.hold, []

    def again(**options):
        on(store, recorder="every-k:k=2", **options)

    def late(folder):
        monkeypatch.undo()
        again()
        finished.append(files(store))
        hold(folder)

    with pytest.raises(KeyboardInterrupt):
        again(stop=2)
    monkeypatch.setattr(Folder, "hold", late)
    with pytest.raises(ik.InputError, match="is complete: there is nothing to resume"):
        again()
    assert finished == [files(store)]


@pytest.mark.parametrize("recorder", ["full", "every-k:k=2", "every-k:k=3"])
def test_a_loop_that_adds_nothing_to_a_complete_run_is_told_so(tmp_path, recorder):
    """Whether or not the recorder keeps the last state by itself."""
    store = tmp_path / "run.zarr"
    on(store, recorder=recorder)
    before = files(store)
    with pytest.raises(ik.InputError, match="nothing to resume; it has 1 epochs, which are skipped"):
        on(store, recorder=recorder)
    assert files(store) == before
    assert on(store, epochs=2, recorder=recorder).steps == 6
