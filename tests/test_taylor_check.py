"""The Taylor test at the door: right slopes of rounded values pass, wrong ones of exact values do not."""

import torch

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
