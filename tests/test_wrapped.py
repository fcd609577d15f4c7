"""Models, optimizers and loaders as compilers, launchers and bars wrap them, and other usual forms."""

import numpy as np
import pytest
import torch
from helpers_tape import Examples, held_out, network, per_example, seed, untraced, vector
from helpers_wrapped import loader_of, record, right, setup

import influencekit as ik
from influencekit import InputError


@pytest.mark.parametrize("backend", ["eager", "aot_eager"])
def test_a_compiled_model_is_the_module_behind_it(backend):
    tape = record(lambda m, o, loader: (torch.compile(m, backend=backend), o, loader))
    run = tape.trajectory(test=held_out())
    assert run.attrs["replay"].endswith("bit for bit")
    assert not any("_orig_mod" in name for name in run.workload.layout.names)
    right(run)


def test_a_compiled_model_that_forward_calls():
    """Hooks on what is inside are not compiled into it."""
    model, optimizer = setup()
    compiled, data = torch.compile(model, backend="aot_eager"), Examples()
    batches, parts = loader_of(data), {"loss": per_example, "data": data}
    compiled(data.x)  # compiled before the tape listens
    forward = lambda model, batch: model(2 * batch[0] / 2)  # noqa: E731
    with ik.Tape(None, compiled, optimizer, **parts, forward=forward, check=1.0) as tape:
        for _ in range(2):
            for _, batch in tape.batches(batches):
                optimizer.zero_grad()
                per_example(forward(compiled, batch), batch[1]).mean().backward()
                optimizer.step()
    right(tape.trajectory(test=held_out()))


def test_a_model_compiled_in_place_stays_so():
    def make(model, optimizer, loader):
        model.compile(backend="eager")
        make.before, make.model = model._compiled_call_impl, model
        return model, optimizer, loader

    right(record(make).trajectory(test=held_out()))
    assert make.model._compiled_call_impl is make.before


def test_a_compiled_model_reopens_its_store(tmp_path):
    model, optimizer = setup()
    compiled, data = torch.compile(model, backend="eager"), Examples()
    loader = loader_of(data)
    with ik.Tape(tmp_path / "run.zarr", compiled, optimizer, loss=per_example, data=data) as tape:
        for _ in range(2):
            for _, (x, y) in tape.batches(loader):
                optimizer.zero_grad()
                per_example(compiled(x), y).mean().backward()
                optimizer.step()
    for again in (network(), torch.compile(network(), backend="eager")):
        right(ik.open(tmp_path / "run.zarr", model=again, loss=per_example, data=data, test=held_out()))


def accelerated(**options):
    accelerate = pytest.importorskip("accelerate")
    accelerate.state.AcceleratorState._reset_state(True)
    return accelerate.Accelerator(cpu=True, **options)


def test_what_accelerate_prepares():
    accelerator = accelerated()

    def make(*things):
        return *accelerator.prepare(*things), accelerator.backward

    right(record(make).trajectory(test=held_out()))


def test_accelerates_accumulation_knows_the_end_of_an_epoch():
    """Three batches an epoch in groups of two: the last step of each epoch has one."""
    accelerator = accelerated(gradient_accumulation_steps=2)
    data = Examples()
    model, optimizer = setup()
    scheduler = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.9)
    model, optimizer, loader, scheduler = accelerator.prepare(model, optimizer, loader_of(data), scheduler)
    with ik.Tape(
        None, model, optimizer, loss=per_example, data=data, accumulate=2, clip_norm=0.5, scheduler=scheduler,
        check=1.0,
    ) as tape:  # fmt: skip
        for _ in range(2):
            for _, (x, y) in tape.batches(loader):
                with accelerator.accumulate(model):
                    accelerator.backward(per_example(model(x), y).mean())
                    if accelerator.sync_gradients:
                        accelerator.clip_grad_norm_(model.parameters(), 0.5)
                    optimizer.step()
                    scheduler.step()
                    optimizer.zero_grad()
    run = tape.trajectory()
    assert run.steps == 4 and [len(run.plan.batch(t)) for t in range(4)] == [8, 4, 8, 4]
    np.testing.assert_allclose(run.plan.lr[:, 0], 0.3 * 0.9 ** np.arange(4))


def test_accelerates_autocast_is_seen():
    accelerator, data = accelerated(mixed_precision="bf16"), Examples(torch.float32)
    seed()
    model = network(torch.float32)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.3)
    model, optimizer, loader = accelerator.prepare(model, optimizer, loader_of(data))
    with ik.Tape(None, model, optimizer, loss=per_example, data=data, check=1.0) as tape:
        for _, (x, y) in tape.batches(loader):
            optimizer.zero_grad()
            accelerator.backward(per_example(model(x), y).mean())
            optimizer.step()
    run = tape.trajectory(test=held_out(torch.float32))
    assert not torch.is_autocast_enabled("cpu")
    assert run.attrs["tape"]["autocast"] == "bfloat16" and torch.equal(run.final.theta, vector(model))
    with untraced():
        assert np.isfinite(ik.estimate(run).influence).all()


def test_a_refusal_leaves_no_autocast_behind():
    accelerator, data = accelerated(mixed_precision="bf16"), Examples(torch.float32)
    model = network(torch.float32)
    model, optimizer = accelerator.prepare(model, torch.optim.SGD(model.parameters(), lr=0.3))
    with pytest.raises(InputError), ik.Tape(None, model, optimizer, loss=per_example, data=data):
        model(data.x)
    assert not torch.is_autocast_enabled("cpu")


def test_what_fabric_sets_up():
    fabric = pytest.importorskip("lightning.fabric").Fabric(accelerator="cpu", devices=1)

    def make(model, optimizer, loader):
        model, optimizer = fabric.setup(model, optimizer)
        return model, optimizer, fabric.setup_dataloaders(loader), fabric.backward

    right(record(make).trajectory(test=held_out()))
