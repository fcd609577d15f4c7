"""Loops with a GradScaler, in float16 on the CPU: skipped steps are none, and the scale is recorded."""

import pytest
import torch
from helpers_tape import Examples, held_out, network, order, per_example, seed, vector
from torch import nn
from torch.utils.data import DataLoader

import influencekit as ik

FLOAT = torch.float32


def model_of(norm):
    """The tiny network, with batch norm between its layers or without."""
    model = network(FLOAT)
    return nn.Sequential(model[0], nn.BatchNorm1d(5), *model[1:]).to(FLOAT) if norm else model


def loop(
    store=None,
    *,
    told=True,
    zero_first=True,
    norm=False,
    fused=False,
    tape=True,
    stop=None,
    weights=None,
    every=1,
    **options,
):
    """Batches of 4 for three epochs; the scale overflows at first, and again whenever it has grown.

    Returns the tape, the model, and the numbers of updates and batches.
    """
    seed()
    data, model = Examples(FLOAT), model_of(norm)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.02, eps=0.01, fused=fused)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**19, growth_interval=2)
    options |= {"recorder": "every-k:k=2", "check": 1.0} | ({"scaler": scaler} if told else {})
    roll = ik.Tape(store, model, optimizer, loss=per_example, data=data, **options) if tape else None
    done, count = [], 0
    optimizer.register_step_pre_hook(lambda *event: done.append(True))

    def step(x, y, w=None):
        nonlocal count
        if zero_first and count % every == 0:
            optimizer.zero_grad()
        with torch.autocast("cpu", dtype=torch.float16):
            losses = per_example(model(x), y)
            loss = losses.mean() if w is None else (losses * w).mean()
        scaler.scale(loss / every).backward()
        count += 1
        if count % every == 0:
            scaler.step(optimizer)
            scaler.update()
            if not zero_first:
                optimizer.zero_grad()
        if stop == count:
            raise KeyboardInterrupt

    if not tape:
        for epoch in order():
            for rows in epoch:
                step(data.x[rows], data.y[rows], None if weights is None else weights[rows])
        return None, model, len(done), count
    with roll:
        for epoch in order() * every:
            loader = DataLoader(data, batch_sampler=epoch, generator=torch.Generator().manual_seed(5))
            for _, (x, y) in roll.batches(loader):
                step(x, y)
    return roll, model, len(done), count


def opened(roll):
    return roll.trajectory(test=held_out(FLOAT))


@pytest.mark.parametrize("told", [True, False])
def test_skipped_steps_are_none_and_replay_has_the_loops_bits(told):
    roll, model, steps, batches = loop(told=told)
    run = opened(roll)
    assert run.steps == steps <= batches - 3  # the first ones, and later ones, were skipped
    assert torch.equal(run.final.theta, vector(model))
    if told:  # without the scale small gradients are rounded otherwise
        assert run.attrs["replay"] == f"{steps} steps replayed, equal bit for bit"
        assert run.step.source.scales == ((0, 2.0**17),)  # a larger one never led to an update
    ik.estimate(run, "test-loss", "dit")


@pytest.mark.parametrize("norm", [False, True])
def test_loo_equals_the_loop_without_the_example(norm):
    roll, model, *_ = loop(norm=norm)
    run = opened(roll)
    assert run.attrs["replay"].endswith("bit for bit")
    found = ik.estimate(run, "test-loss", "loo").influence.values[0, 0]

    def value(weights):
        model = loop(norm=norm, tape=False, weights=weights)[1].eval()
        x, y = held_out(FLOAT)
        with torch.no_grad():
            return float(per_example(model(x), y).mean())

    full = value(torch.ones(12))
    truth = torch.tensor(
        [value(torch.ones(12).index_fill(0, torch.tensor(j), 0.0)) - full for j in (0, 5, 7)]
    )
    assert float((torch.tensor(found[[0, 5, 7]]) - truth).abs().max() / truth.abs().max()) < 1e-3


@pytest.mark.parametrize("told", [2, None])
def test_groups_of_micro_batches_that_are_skipped(told):
    roll, model, steps, batches = loop(every=2, accumulate=told)  # three batches an epoch: groups cross it
    run = opened(roll)
    assert run.steps == steps <= batches // 2 - 2
    assert run.attrs["replay"] == f"{steps} steps replayed, equal bit for bit"
    assert torch.equal(run.final.theta, vector(model))


def test_a_fused_optimizer_that_unscales_itself():
    roll, model, steps, batches = loop(fused=True, tolerance=1e-3)
    run = opened(roll)
    assert run.steps < batches - 1
    torch.testing.assert_close(run.final.theta, vector(model))


def test_gradients_that_are_gone_need_the_scaler():
    with pytest.raises(ik.InputError, match="if a GradScaler skipped it, pass scaler=... to the tape"):
        loop(told=False, zero_first=False)
    roll, model, steps, _ = loop(zero_first=False)
    assert opened(roll).steps == steps


@pytest.mark.parametrize("norm", [False, True])
def test_a_resumed_run_goes_on_with_its_scale(tmp_path, norm):
    _, model, *_ = loop(norm=norm)
    with pytest.raises(KeyboardInterrupt):
        loop(tmp_path / "run", norm=norm, stop=6)
    roll, again, *_ = loop(tmp_path / "run", norm=norm, resume=True)
    assert torch.equal(vector(again), vector(model))
    assert torch.equal(opened(roll).final.theta, vector(model))
