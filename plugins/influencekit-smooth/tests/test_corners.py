"""Every spelling of a corner: the value stays to rounding, and derivatives are those of the rounded one."""

import pytest
import torch
import torch.nn.functional as F
from influencekit_smooth.corners import Corners, smoothed
from torch import nn
from torch.func import grad, vmap

A = torch.linspace(-2, 2, 9, dtype=torch.float64) + 0.03
H = torch.tensor(0.7, dtype=torch.float64)


def after(f):
    """`f` changes its argument in place."""

    def g(x):
        x = x * 1
        f(x)
        return x

    return g


RELU = [torch.relu, F.relu, torch.Tensor.relu, nn.ReLU(), lambda x: F.relu(x, inplace=False)]
RELU += [
    lambda x: x.clamp(min=0),
    lambda x: torch.clamp(x, 0),
    lambda x: x.clamp_min(0),
    lambda x: torch.clip(x, 0.0),
]
RELU += [
    after(torch.relu_),
    after(nn.ReLU(inplace=True)),
    after(lambda x: x.clamp_(min=0)),
    after(lambda x: x.relu_()),
]
LEAKY = [nn.LeakyReLU(0.2), lambda x: F.leaky_relu(x, 0.2), after(nn.LeakyReLU(0.2, inplace=True))]
LEAKY += [after(lambda x: F.leaky_relu_(x, 0.2))]
ABS = [torch.abs, abs, torch.Tensor.abs, torch.absolute, after(lambda x: x.abs_())]
CASES = [(f, 0.0, 1.0) for f in RELU] + [(f, 0.2, 1.0) for f in LEAKY] + [(f, -1.0, 1.0) for f in ABS]


def rounded(f):
    def g(x):
        with Corners(lambda a: smoothed(a, H)):
            return f(x)

    return g


def once(f, x):
    return vmap(grad(lambda x: f(x[None])[0]))(x)


@pytest.mark.parametrize("f, left, right", CASES)
def test_a_corner_keeps_its_value_and_has_the_derivatives_of_the_normal_distribution(f, left, right):
    normal = torch.distributions.Normal(0.0, 1.0)
    z = A / H
    torch.testing.assert_close(rounded(f)(A), f(A))
    first = once(rounded(f), A)
    torch.testing.assert_close(first, left + (right - left) * normal.cdf(z))
    second = vmap(grad(lambda x: grad(lambda x: rounded(f)(x[None])[0])(x)))(A)
    torch.testing.assert_close(second, (right - left) * normal.log_prob(z).exp() / H)


def test_the_rounded_relu_is_the_mean_of_relu_under_noise():
    """S with S' = Phi and S'' = phi/h is E relu(a + h e), by quadrature; its value is not what is kept."""
    nodes = torch.linspace(-8, 8, 4001, dtype=torch.float64)
    weights = torch.exp(-(nodes**2) / 2)
    weights = weights / weights.sum()
    mean = lambda a: (weights * torch.relu(a + H * nodes)).sum()  # noqa: E731
    slope = torch.stack([(mean(a + 1e-3) - mean(a - 1e-3)) / 2e-3 for a in A])
    torch.testing.assert_close(
        once(lambda x: smoothed(x, H), A), slope, rtol=0, atol=1e-3
    )  # of the quadrature


BETWEEN = [  # f, where it has corners, and the change of slope there
    *[(f, [(0.0, 1.0), (6.0, -1.0)]) for f in (F.relu6, nn.ReLU6(), after(nn.ReLU6(inplace=True)))],
    *[(f, [(-1.0, 1.0), (1.0, -1.0)]) for f in (F.hardtanh, nn.Hardtanh(), lambda x: x.clamp(-1, 1))],
    *[(f, [(-1.5, 1.0), (0.3, -1.0)]) for f in (nn.Hardtanh(-1.5, 0.3), after(nn.Hardtanh(-1.5, 0.3, True)))],
    *[(f, [(0.0, 1.0)]) for f in (nn.Threshold(0, 0), after(nn.Threshold(0.0, 0.0, inplace=True)))],
    *[(f, [(0.4, 1.0)]) for f in (nn.Threshold(0.4, 0.4), lambda x: x.clamp(min=0.4))],
    *[(f, [(1.0, -1.0)]) for f in (lambda x: x.clamp(max=1), lambda x: torch.clamp_max(x, 1))],
    (after(lambda x: x.clamp_max_(1)), [(1.0, -1.0)]),
    (after(lambda x: x.clamp_(-1, 1)), [(-1.0, 1.0), (1.0, -1.0)]),
    (lambda x: F.prelu(x, torch.tensor([0.2], dtype=x.dtype)), [(0.0, 0.8)]),
    (nn.PReLU(dtype=A.dtype), [(0.0, 0.75)]),
]


@pytest.mark.parametrize("f, corners", BETWEEN)
def test_clamps_by_any_name_have_the_slopes_of_all_their_corners(f, corners):
    normal = torch.distributions.Normal(0.0, 1.0)
    torch.testing.assert_close(rounded(f)(A), f(A), rtol=0, atol=1e-15)
    left = once(f, A[:1] - 100)  # the slope before all corners
    jumps = [change * normal.cdf((A - at) / H) for at, change in corners]
    torch.testing.assert_close(once(rounded(f), A), left + sum(jumps))


def test_prelu_has_a_slope_for_each_channel():
    x = torch.randn(2, 3, 4, dtype=A.dtype, generator=torch.Generator().manual_seed(0))
    module = nn.PReLU(3, dtype=A.dtype)
    with torch.no_grad():
        module.weight.copy_(torch.tensor([0.1, 0.5, 0.9]))
    torch.testing.assert_close(rounded(module)(x), module(x))


@pytest.mark.parametrize(
    ("f", "name"),
    [
        (lambda x: F.max_pool1d(x[None], 2), "max_pool1d"), (nn.Hardswish(), "hardswish"),
        (nn.Softshrink(), "softshrink"), (nn.RReLU(), "rrelu"), (nn.SELU(), "selu"),
        (lambda x: torch.maximum(x, -x), "maximum"), (nn.Hardsigmoid(), "hardsigmoid"),
        (nn.Threshold(0, 1), "threshold of this form"), (lambda x: x.clamp(-x), "clamp of this form"),
        (lambda x: F.max_pool2d(x[None, None], 1), "max_pool2d"),
        (lambda x: nn.AdaptiveMaxPool1d(1)(x[None]), "adaptive_max_pool1d"),
    ],
)  # fmt: skip
def test_corners_of_other_kinds_are_left_and_named(f, name):
    with Corners(torch.relu) as corners:
        f(A.clone())
    assert corners.left == {name}


@pytest.mark.parametrize("f", [torch.tanh, F.gelu, F.softplus, F.celu])
def test_what_has_no_corner_is_left_as_it_is(f):
    with Corners(torch.relu) as corners:
        f(A)
    assert not corners.left
    assert torch.equal(once(rounded(f), A), once(f, A))


def test_whole_numbers_are_left_as_they_are():
    with Corners(lambda a: smoothed(a, H)):
        assert torch.equal(torch.tensor([-2, 3]).abs(), torch.tensor([2, 3]))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_far_from_the_corner_nothing_overflows(dtype):
    x = torch.tensor([-1e3, 1e3, 0.0], dtype=dtype)
    slope = once(lambda x: smoothed(x, torch.tensor(1e-4, dtype=dtype)), x)
    assert slope.tolist() == [0, 1, 0.5]
