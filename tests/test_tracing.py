"""A traced function is the function; cut in two it still is."""

from itertools import combinations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import fx, nn
from torch.func import grad, jvp, vmap

import influencekit as ik
from influencekit._training.curvature import REVERSE
from influencekit._training.kernels.operators import plain_operators
from influencekit._training.kernels.tracing import Untraced, agree, has_convolution, split, trace, try_trace
from influencekit._training.losses import Training, by_backward, by_transform
from influencekit._training.state import State
from influencekit._training.step import Step
from influencekit.errors import InputError


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
    # the same kernels but for those that were dropped as copies or zeros: rounding at most
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


def test_copies_and_unused_work_are_dropped():
    def wasteful(x, w, y):
        return (x @ w).clone().view(5, 4), (x.exp() * 2, y + 0)[1]

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


# what is not believed -----------------------------------------------------------------------------------


def branching(x):
    return x * 2 if x.sum() > 0 else x


def counted(x):
    """The number of positive entries is read into Python."""
    return x * int((x > 0).sum())


def masked(x):
    return x[x > 0].sum() * x


def read(x):
    return x * x[0].item()


def strided(x):
    return x.as_strided((2,), (1,)) * 2


def placed(x):
    return torch.zeros_like(x).index_add(0, (x > 0).nonzero()[:, 0], x[x > 0])


def random(x):
    return x + torch.rand_like(x)


def remembered():
    """A number that was known when it was traced, another one later."""
    calls = []

    def function(x):
        calls.append(1)
        return x * (1 if len(calls) < 2 else 2)

    return function


@pytest.mark.parametrize("f", [branching, counted, masked, read, strided, placed])
def test_functions_of_values_run_untraced(f):
    found = try_trace(f, torch.tensor([1.0, -2.0, 3.0]))
    assert isinstance(found, Untraced) and found.why
    for x in (torch.tensor([1.0, 2.0, 3.0]), torch.tensor([-1.0, -2.0, 0.5])):
        torch.testing.assert_close(found(x), f(x), rtol=0, atol=0)


def test_random_numbers_are_not_baked_in():
    found = try_trace(random, torch.ones(3))
    assert isinstance(found, Untraced)
    assert not torch.equal(found(torch.ones(3)), found(torch.ones(3)))


def test_a_trace_that_differs_on_another_batch_is_not_believed():
    function = remembered()
    assert isinstance(try_trace(remembered(), torch.ones(3)), fx.GraphModule)
    found = try_trace(function, torch.ones(3), others=[(torch.ones(3) * 2,)])
    assert isinstance(found, Untraced) and "another batch" in found.why


def test_slow_stands_in_for_what_cannot_be_traced():
    found = try_trace(branching, torch.ones(3), slow=lambda x: x + 5)
    torch.testing.assert_close(found(torch.ones(3)), torch.full((3,), 6.0))


def test_our_own_errors_come_through():
    def refuses(x):
        raise InputError("no")

    with pytest.raises(InputError, match="no"):
        try_trace(refuses, torch.ones(3))


@pytest.mark.parametrize("dtype, tolerance", [(torch.float64, 1e-9), (torch.float32, 1e-4)])
def test_agreement_is_up_to_rounding_that_adds_up(dtype, tolerance):
    x = torch.tensor([1.0, 1e-9, torch.inf], dtype=dtype)
    near, far = x.clone(), x.clone()
    near[0] += tolerance / 2
    far[0] += tolerance * 2
    assert agree((x, near), (x, x)) and not agree((x, far), (x, x)) and agree((x, far), (x, x), 10.0)
    assert not agree(x, x[:2]) and not agree((x,), (x, x)) and not agree(x.to(torch.float16), x)
    nan = x.clone()
    nan[0] = torch.nan
    assert not agree(nan, x) and agree(nan, nan)
    assert not agree(torch.tensor([1, 2]), torch.tensor([1, 3]))


# strides ------------------------------------------------------------------------------------------------


@given(st.permutations(range(4)), st.booleans(), st.integers(0, 2**31))
def test_how_a_result_lies_in_memory_is_kept(order, contiguous, seed):
    """Copies are dropped only where strides stay: kernels may depend on them."""

    def function(x):
        y = x.permute(order).clone(
            memory_format=torch.contiguous_format if contiguous else torch.preserve_format
        )
        z = y.reshape(y.shape[0], -1).to(x.dtype)
        return y, y + 0, z, (x.clone() * 2).permute(order), x.to(memory_format=torch.channels_last).clone()

    shape = (2, 3, 2, 4)
    x = torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    for found, wanted in zip(trace(function, x)(x), function(x), strict=True):
        assert torch.equal(found, wanted) and found.stride() == wanted.stride()


def test_a_recurrent_step_in_float32_is_what_torch_does():
    torch.manual_seed(0)
    layer, x = nn.LSTM(2, 5, batch_first=True), torch.randn(4, 2, 2)
    with plain_operators():
        traced = trace(lambda x: layer(x)[0], x)
    torch.testing.assert_close(traced(x + 1), layer(x + 1)[0])


# batches and the two gradients --------------------------------------------------------------------------

CE = nn.CrossEntropyLoss(reduction="none")


def workload(model, n=20, shape=(4,), **options):
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(n, *shape, generator=generator, dtype=torch.float64)
    y = torch.randint(0, 3, (n,), generator=generator)
    torch.manual_seed(0)
    given = {"optimizer": ik.SGD(lr=0.1), "epochs": 2, "batch_size": 6, **options}
    return ik.Workload(model=model().double(), loss=CE, train=(x, y), test=(x[:5], y[:5]), **given)


class Masked(nn.Linear):
    """Squares the positive outputs, by a boolean mask."""

    def forward(self, x):
        h = super().forward(x)
        new = h.clone()
        new[h > 0] = h[h > 0] ** 2
        return new


MODELS = {
    "linear": lambda: nn.Linear(4, 3),
    "mlp": lambda: nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3)),
    "relu": lambda: nn.Sequential(nn.Linear(4, 5), nn.ReLU(), nn.LayerNorm(5), nn.Linear(5, 3)),
    "convolution": lambda: nn.Sequential(
        nn.Unflatten(1, (1, 2, 2)), nn.Conv2d(1, 2, 2, padding=1), nn.GELU(), nn.Flatten(), nn.Linear(18, 3)
    ),
    "masked": lambda: Masked(4, 3),
}


@pytest.mark.parametrize("name", MODELS)
def test_the_two_gradients_are_one(name):
    w = workload(MODELS[name], l2=0.1)
    step = Step(w)
    ((_, batch, _),) = step.source.parts(step.start())
    mean = step.coefficients(0)
    slow, losses, _, used = by_backward(w, w.theta0, {}, batch, mean)
    assert_same(by_transform(Training.of(w), batch)(w.theta0, *batch, mean), (slow, losses))
    assert all(used)


@pytest.mark.parametrize("curvature", ["hessian", "gauss-newton", "fisher", "none"])
@pytest.mark.parametrize("name", MODELS)
def test_fast_products_are_the_slow_ones(name, curvature):
    w = workload(MODELS[name], l2=0.1)
    step, theta = Step(w), w.theta0
    state, mean = step.start()._replace(step=1), step.coefficients(1)
    ((_, batch, _),) = step.source.parts(state)
    slow = REVERSE[curvature](Training.of(w), theta, batch, mean)
    c = torch.randn(3, len(theta), generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    wanted = [torch.stack(pair) for pair in zip(*(slow(row) for row in c), strict=True)]
    for states in ([state, state], [state]):
        for columns in (3, 1):
            for _, here in list(step.linear(curvature).backwards(states)):
                found = here.pull(c[:columns], c[:columns, :0])[:2]
                assert agree(list(found), [x[:columns] for x in wanted])
    assert step.notes["derivatives"].startswith("reverse" if name == "masked" else "forward")


@pytest.mark.parametrize("name", [*MODELS, "tied"])
def test_models_trained_together_are_those_trained_alone(name):
    make = MODELS.get(name, lambda: nn.Sequential(nn.Linear(4, 5), nn.BatchNorm1d(5), nn.Linear(5, 3)))
    step = Step(workload(make))
    assert step.batches == (name not in ("masked", "tied"))
    if not step.batches:
        return
    start, mean = step.start(), step.coefficients(0)
    weights = torch.stack([mean, 0.5 * mean, 0 * mean])
    many = State(start.theta.expand(3, -1).clone(), {}, 0)
    together = step.advance_with(many, weights)[0].theta
    alone = torch.stack([step.advance_with(start, w)[0].theta for w in weights])
    torch.testing.assert_close(together, alone, rtol=1e-12, atol=1e-14)
