"""A traced function is the function; cut in two it still is."""

from itertools import combinations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.func import grad, jvp, vmap

from influencekit.tracing import has_convolution, split, trace


def mlp(x, w, y):
    return nn.functional.binary_cross_entropy_with_logits(torch.tanh(x @ w) @ w[0, :4], y, reduction="none")


def mean_loss(w, x, y, c):
    losses = mlp(x, w, y)
    return (c * losses).sum(), losses


def gradient(x, w, y):
    return grad(mean_loss, has_aux=True)(w, x, y, torch.ones(5, dtype=x.dtype) / 5)


def product(x, w, y):
    _, out = jvp(grad(lambda w: mean_loss(w, x, y, 0.2)[0]), (w,), (w.flip(0),))
    return out


def pooled(x, w, y):
    image = (x[:, :, None] * w[0]).reshape(5, 1, 4, 4)
    kernel = w[:3, :3].reshape(1, 1, 3, 3)
    out = nn.functional.max_pool2d(nn.functional.conv2d(image, kernel, padding=1), 2)
    return out.flatten(1).sum(1) * y, out


def in_place(x, w, y):
    z = x @ w
    z.add_(1.0).mul_(y[:, None])
    unused = z.exp().sin()
    unused.zero_()
    return z[:, 0], (x - x) * 3 + 0 * w.sum() + y[:, None]


FUNCTIONS = {f.__name__: f for f in (mlp, gradient, product, pooled, in_place)}


def tensors(seed):
    generator = torch.Generator().manual_seed(seed)

    def random(*shape):
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    return random(5, 4), random(4, 4), random(5).sigmoid()


def assert_same(found, expected):
    # the same kernels but for those that were dropped as copies, zeros or repetitions: rounding at most
    found = found if isinstance(found, tuple) else (found,)
    expected = expected if isinstance(expected, tuple) else (expected,)
    for x, y in zip(found, expected, strict=True):
        torch.testing.assert_close(x, y, rtol=1e-13, atol=1e-14)


TRACED = {name: trace(f, *tensors(0)) for name, f in FUNCTIONS.items()}


@given(st.sampled_from(list(FUNCTIONS)), st.integers(0, 2**31))
def test_a_trace_gives_the_functions_values_elsewhere(name, seed):
    inputs = tensors(seed)
    assert_same(TRACED[name](*inputs), FUNCTIONS[name](*inputs))


@pytest.mark.parametrize("name", FUNCTIONS)
@pytest.mark.parametrize("dynamic", [c for k in (1, 2, 3) for c in combinations(range(3), k)])
def test_a_split_trace_equals_the_whole(name, dynamic):
    static, later = split(TRACED[name], dynamic)
    for seed in range(3):
        inputs = tensors(seed)
        between = static(*(x for i, x in enumerate(inputs) if i not in dynamic))
        assert isinstance(between, tuple)
        assert_same(later(*(inputs[i] for i in dynamic), *between), FUNCTIONS[name](*inputs))


@pytest.mark.parametrize("name", ["mlp", "gradient", "product"])
def test_the_first_part_can_be_mapped_over_steps(name):
    static, later = split(TRACED[name], (2,))
    many = [torch.stack(x) for x in zip(*(tensors(seed) for seed in range(4)), strict=True)]
    shared = vmap(static)(*many[:2])
    for k in range(4):
        each = [x[k] for x in shared]
        assert_same(later(many[2][k], *each), FUNCTIONS[name](*(x[k] for x in many)))


def test_a_trace_leaves_its_arguments_alone():
    inputs = tensors(3)
    before = [x.clone() for x in inputs]
    TRACED["in_place"](*inputs)
    assert all(torch.equal(a, b) for a, b in zip(inputs, before, strict=True))


def test_repetitions_copies_and_unused_work_are_dropped():
    def wasteful(x, w, y):
        return (x @ w).clone().view(5, 4) + x @ w, (x.exp() * 2, y + 0)[1]

    graph = trace(wasteful, *tensors(0)).graph
    targets = [str(node.target) for node in graph.nodes if node.op == "call_function"]
    assert sum("mm" in target for target in targets) == 1
    assert not any("exp" in target or "clone" in target for target in targets)


def test_control_flow_on_values_is_refused():
    with pytest.raises(Exception, match="data-dependent|Bool|_local_scalar_dense|is_nonzero"):
        trace(lambda x: x * 2 if x.sum() > 0 else x, torch.ones(3))


def test_convolutions_are_seen():
    assert has_convolution(TRACED["pooled"])
    assert not has_convolution(TRACED["mlp"])
