"""The Taylor test at the door: right slopes of rounded values pass, wrong ones of exact values do not."""

import numpy as np
import pytest
import torch

import influencekit as ik
from influencekit._training.checks.taylor import _contradicted


def compared(seed, rounded, wrong=0.0):
    """Whether the slope of a smooth function, off by the part `wrong`, is contradicted by its values."""
    generator = torch.Generator().manual_seed(seed)
    z, direction, a = torch.randn(3, 6, generator=generator, dtype=torch.float64)
    direction = direction * z.norm() / direction.norm()

    def value(z):
        found = (a @ z).sin() + 0.3 * z.square().sum() + 2
        return found.float().double() if rounded else found

    slope = torch.func.grad(lambda z: (a @ z).sin() + 0.3 * z.square().sum())(z) @ direction
    scale = slope.abs() + 0.1
    return _contradicted(value, value(z), z, direction, slope * (1 + wrong), scale)


def test_values_that_are_rounded_as_in_float32_do_not_contradict_a_right_slope():
    """Such as those of a loss that computes with `y.float()`: a second difference may be 0 by chance."""
    assert not any(compared(seed, rounded=True) for seed in range(300))


def test_exact_values_contradict_a_slope_that_is_a_thousandth_off_and_no_right_one():
    far = [seed for seed in range(300) if compared(seed, rounded=False, wrong=1e-3)]
    assert len(far) > 290, "but where the slope itself is nearly 0"
    assert not any(compared(seed, rounded=False) for seed in range(300))


@pytest.mark.parametrize("near", [1e-9, 1e-10])
def test_a_unit_that_is_about_to_turn_is_no_wrong_derivative(near):
    """One ReLU is so near its corner that differences at a relative step of 1e-6 cross it: scores come, and
    are those of retraining."""
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(1, 4), torch.nn.ReLU(), torch.nn.Linear(4, 1)).double()
    x = torch.ones(8, 1, dtype=torch.float64)
    with torch.no_grad():
        model[0].bias.copy_(-model[0].weight[:, 0])
        model[0].bias[1:] += 0.5
        model[0].bias[0] += near
    y = torch.linspace(-1, 1, 8, dtype=torch.float64)[:, None]
    work = ik.Workload(
        model=model, loss=lambda z, y: ((z - y) ** 2)[:, 0], train=(x, y), test=(x[:2], y[:2]),
        optimizer=ik.SGD(lr=1e-12), epochs=2, batch_size=4,
    )  # fmt: skip
    run = ik.record(work)
    scores, truth = (ik.estimate(run, "test-loss", name).influence.values for name in ("dit", "loo"))
    np.testing.assert_allclose(scores, truth, rtol=1e-3)
