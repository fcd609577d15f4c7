"""The laws that a loop style is held to; loop_style.py says what a style is."""

import inspect
import re
import tempfile
from contextlib import chdir, contextmanager
from unittest.mock import patch

import numpy as np
import torch
from helpers_step import untraced
from loop_problem import seed, test_loss
from loop_style import Style
from torch.optim.optimizer import register_optimizer_step_post_hook

import influencekit as ik

DIT, LOO, LOO_FLOAT32 = 1e-5, 1e-9, 1e-3  # relative errors
NUMBER = re.compile(r"\d+(\.\d+)?(e[-+]\d+)?")
SOME = (0, 5, 7)  # examples that are left out one at a time


@contextmanager
def alone():
    """A fresh folder and fresh random states, every step of a tape replayed, few states kept, no tracing
    (which takes longer than a tiny loop)."""
    always = {"check": 1.0, "recorder": "every-k:k=4"}
    with tempfile.TemporaryDirectory() as folder, chdir(folder), untraced():
        with patch.dict(inspect.unwrap(ik.Tape.__init__).__kwdefaults__, always):
            seed()
            yield


def check_recorded(style: Style) -> None:
    """The laws of a style that is recorded."""
    module, single = style.module(), style.constant("FLOAT32", False)
    with alone():
        run = module.taped()
        check_unchanged(style, run)
        check_replay(style, run)
        ask = getattr(module, "ask", lambda run, estimator: ik.estimate(run, "test-loss", estimator))
        ids = style.constant("IDS") or list(range(run.workload.n_train))
        final = end(run).theta
        dit, loo = (ask(run, name).influence.sel(train=ids).values[0, 0] for name in ("dit", "loo"))

    def f(weights: torch.Tensor) -> float:
        with alone():
            return getattr(module, "asked", test_loss)(module.plain(weights))

    ones = torch.ones(len(ids), dtype=torch.float64)
    if "average" not in style.body("ask"):
        with alone():
            model = module.plain(ones)
        theta = torch.cat([p.detach().reshape(-1) for p in model.parameters() if p.requires_grad])
        near = {"rtol": 1e-3, "atol": 1e-4} if single else {"rtol": 1e-9, "atol": 1e-10}
        torch.testing.assert_close(theta, final, **near, msg=lambda m: f"the hand loop is another: {m}")
    direction = torch.randn(len(ids), generator=torch.Generator().manual_seed(6), dtype=torch.float64)
    h = style.constant("H", 0.05 if single else 1e-4)
    slope = -derivative(lambda h: f(ones + h * direction), h)
    assert abs(dit @ direction.numpy() - slope) <= (0.1 if single else DIT) * abs(slope), (
        f"dit {dit @ direction.numpy():.12g}, central differences {slope:.12g}"
    )
    full, some = f(ones), [j for j in SOME if j < len(ids)]
    truth = np.array([f(ones.index_fill(0, torch.tensor(j), 0.0)) - full for j in some])
    error = np.abs(loo[some] - truth).max() / np.abs(truth).max()
    assert error <= (LOO_FLOAT32 if single else LOO), f"loo {loo[some]}, hand loop {truth}"


def check_unchanged(style: Style, run: ik.Trajectory) -> None:
    """The loop without its marked lines ends in the same weights and buffers, bit for bit."""
    with alone():
        model = style.module(style.without_tape()).taped()
    names = run.workload.layout.names
    theta = run.workload.layout.join({n: p.detach() for n, p in model.named_parameters() if n in names})
    assert torch.equal(end(run).theta, theta), "the tape changed the loop, or missed its end"
    buffers = dict(model.named_buffers())
    assert all(torch.equal(value, buffers[name]) for name, value in end(run).buffers.items())


def end(run: ik.Trajectory):
    """The state that the loop ends with: the last one, or an earlier one that it loaded."""
    return run.state(run.attrs.get("reloaded", run.steps))


def check_replay(style: Style, run: ik.Trajectory) -> None:
    """Every step was replayed, bit for bit unless the style says otherwise."""
    expected = style.constant("REPLAY", f"{run.steps} steps replayed, equal bit for bit")
    assert re.fullmatch(expected, run.attrs["replay"]), run.attrs["replay"]


def derivative(f, h: float) -> float:
    """f'(0) by central differences, once extrapolated: what is left is of order h^4."""
    a, b = ((f(s) - f(-s)) / (2 * s) for s in (h, h / 2))
    return b + (b - a) / 3


def check_refused(style: Style) -> None:
    """One line, known in advance (but for numbers), before a second step is done; the loop itself runs."""
    with alone():
        style.module(style.without_tape()).taped()
    steps: dict[int, int] = {}

    def count(optimizer, *_):
        steps[id(optimizer)] = steps.get(id(optimizer), 0) + 1

    hook = register_optimizer_step_post_hook(count)
    try:
        with alone():
            style.module().taped()
    except ik.InputError as error:
        message = str(error)
    else:
        raise AssertionError("it was recorded")
    finally:
        hook.remove()
    assert NUMBER.sub("#", message) == NUMBER.sub("#", style.refused)
    assert "\n" not in message and "bug" not in message
    assert max(steps.values(), default=0) <= 1, "refused too late"
