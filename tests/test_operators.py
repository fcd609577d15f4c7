"""What is evaluated by elementary operations is torch's own function, and so are its derivatives."""

import warnings

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from influencekit._training.kernels.operators import REWRITTEN, plain_operators

REDUCTIONS = st.sampled_from(["none", "mean", "sum"])
SEEDS = st.integers(0, 2**31 - 1)
FEW = settings(max_examples=25, deadline=None)


def draw(seed, *shape, integer=None):
    generator = torch.Generator().manual_seed(seed)
    if integer is not None:
        return torch.randint(*integer, shape, generator=generator)
    return torch.randn(shape, generator=generator, dtype=torch.float64)


def summed(gradients):
    """Some weighted sum of all entries."""
    waves = [torch.sin(torch.arange(g.numel(), dtype=g.dtype) + 1).view(g.shape) for g in gradients]
    return sum((g * wave).sum() for g, wave in zip(gradients, waves, strict=True))


def derivatives(call, inputs):
    """Values, gradients of a weighted sum of them, and of a weighted sum of those (None: torch has none)."""
    inputs = [x.clone().requires_grad_() for x in inputs]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        value = call(*inputs)
    weights = torch.cos(torch.arange(value.numel(), dtype=value.dtype)).view(value.shape)
    first = torch.autograd.grad((value * weights).sum(), inputs, create_graph=True)
    bent = summed(first)
    try:
        second = torch.autograd.grad(bent, inputs, materialize_grads=True) if bent.requires_grad else None
    except RuntimeError as error:
        assert "derivative" in str(error)
        second = None
    return value.detach(), [g.detach() for g in first], second


def assert_torchs_own(call, *inputs, second=True, rough=1e-9):
    """`call` inside `plain_operators` against itself outside. `second`: torch has those, too."""
    with plain_operators():
        mine = derivatives(call, inputs)
    its = derivatives(call, inputs)
    assert its[0].shape == mine[0].shape and its[0].dtype == mine[0].dtype
    torch.testing.assert_close(mine[0], its[0], rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(mine[1], its[1], rtol=rough, atol=1e-12)
    if second and its[2] is not None:
        torch.testing.assert_close(list(mine[2]), list(its[2]), rtol=10 * rough, atol=1e-11)
    return mine


def assert_second(call, *inputs):
    """Second derivatives that torch has not: against central differences of the first."""
    mine, h = assert_torchs_own(call, *inputs, second=False), 1e-6
    along = [torch.cos(torch.arange(x.numel(), dtype=x.dtype) * 2).view(x.shape) for x in inputs]

    def bent(step):
        moved = [x + step * d for x, d in zip(inputs, along, strict=True)]
        first = derivatives(call, moved)[1]  # torch's own
        return summed(first)

    wanted = (bent(h) - bent(-h)) / (2 * h)
    found = sum((s * d).sum() for s, d in zip(mine[2], along, strict=True)) if mine[2] else torch.zeros(())
    torch.testing.assert_close(found.double(), wanted.double(), rtol=1e-5, atol=1e-7)


# losses of two tensors ----------------------------------------------------------------------------------

SHAPES = st.sampled_from(
    [((5, 3), (5, 3)), ((5, 1), (5,)), ((5, 3), (1, 3)), ((4,), (4,)), ((2, 3, 2), (3, 1))]
)
PAIRS = {
    "mse_loss": st.fixed_dictionaries({}),
    "l1_loss": st.fixed_dictionaries({}),
    "smooth_l1_loss": st.fixed_dictionaries({}, optional={"beta": st.sampled_from([0.0, 0.3, 1.0, 2.5])}),
    "huber_loss": st.fixed_dictionaries({}, optional={"delta": st.sampled_from([0.2, 1.0, 3.0])}),
}


@pytest.mark.parametrize("name", PAIRS)
@FEW
@given(st.data())
def test_losses_of_two_tensors_broadcast_as_torchs(name, data):
    options, reduction = data.draw(PAIRS[name]), data.draw(REDUCTIONS)
    shapes, seed = data.draw(SHAPES), data.draw(SEEDS)
    assert_torchs_own(
        lambda x, y: getattr(F, name)(x, y, reduction=reduction, **options),
        draw(seed, *shapes[0]), draw(seed + 1, *shapes[1]),
    )  # fmt: skip


@pytest.mark.parametrize("name", PAIRS)
@pytest.mark.parametrize("target", [torch.float32, torch.int64])
def test_mixed_types_promote_as_torchs(name, target):
    x, y = draw(0, 4, 2).float(), (3 * draw(1, 4, 2)).to(target)
    try:
        its = getattr(F, name)(x, y, reduction="none")
    except RuntimeError:
        return  # torch refuses; nothing to agree on
    with plain_operators():
        mine = getattr(F, name)(x, y, reduction="none")
    assert mine.dtype == its.dtype
    torch.testing.assert_close(mine, its)


@pytest.mark.parametrize("name", [*PAIRS, "soft_margin_loss"])
@pytest.mark.parametrize("old", [dict(size_average=False), dict(reduce=False), dict(size_average=True)])
def test_the_old_names_of_reductions(name, old):
    if name == "huber_loss":
        pytest.skip("it is younger than they are")
    assert_torchs_own(lambda x: getattr(F, name)(x, draw(1, 4, 2).sign(), **old), draw(0, 4, 2))


@pytest.mark.parametrize("name", ["mse_loss", "l1_loss", "huber_loss"])
def test_weights_of_entries(name):
    w = draw(2, 4, 2).abs()
    assert_torchs_own(lambda x: getattr(F, name)(x, draw(1, 4, 2), weight=w, reduction="mean"), draw(0, 4, 2))


@pytest.mark.parametrize(
    "wrong",
    [
        lambda x, y: F.mse_loss(x, y, reduction="means"),
        lambda x, y: F.huber_loss(x, y, reduction="means"),
        lambda x, y: F.huber_loss(x, y, delta=-1.0),
        lambda x, y: F.smooth_l1_loss(x, y, beta=-1.0),
        lambda x, y: F.multi_margin_loss(x, y[:, 0].long() * 0, p=3),
        lambda x, y: F.ctc_loss(x[None], y.long().abs() + 1, [1] * 4, [2] * 4, reduction="means"),
        lambda x, y: F.mse_loss(x, torch.zeros(3, 3)),
        lambda x, y: F.embedding_bag(y.long() * 0, x, per_sample_weights=x, mode="mean"),
        lambda x, y: F.embedding_bag(y.long() * 0, x, mode="product"),
    ],
)
def test_what_torch_refuses_is_refused(wrong):
    x, y = draw(0, 4, 2), draw(1, 4, 2)
    for context in (warnings.catch_warnings, plain_operators):
        with context(), pytest.raises((ValueError, RuntimeError, NotImplementedError)):
            wrong(x, y)


# margins -------------------------------------------------------------------------------------------------


@FEW
@given(SEEDS, REDUCTIONS, st.sampled_from([1.0, 30.0]))
def test_soft_margin(seed, reduction, size):
    y = draw(seed + 1, 5, 3).sign()
    assert_torchs_own(
        lambda x: F.soft_margin_loss(x, y, reduction=reduction), draw(seed, 5, 3) * size, second=False
    )
    if size == 1.0:
        assert_second(lambda x: F.soft_margin_loss(x, y, reduction=reduction), draw(seed, 5, 3))


@FEW
@given(
    SEEDS, REDUCTIONS, st.sampled_from([1, 2]), st.sampled_from([0.5, 1.0, 2.0]), st.booleans(), st.booleans()
)
def test_multi_margin(seed, reduction, p, margin, weighted, single):
    shape = (4,) if single else (5, 4)
    y = draw(seed, *shape[:-1], integer=(0, 4))
    weight = draw(seed + 1, 4).abs() if weighted else None

    def loss(x):
        return F.multi_margin_loss(x, y, p=p, margin=margin, weight=weight, reduction=reduction)

    assert_second(loss, draw(seed, *shape))


@FEW
@given(SEEDS, REDUCTIONS, st.booleans())
def test_multilabel_margin(seed, reduction, single):
    shape = (4,) if single else (5, 4)
    generator = torch.Generator().manual_seed(seed)
    rows = [torch.randperm(4, generator=generator) for _ in range(1 if single else 5)]
    ends = [int(torch.randint(0, 5, (), generator=generator)) for _ in rows]
    for row, end in zip(rows, ends, strict=True):
        row[end : end + 1] = -1  # what follows the first -1 does not count
    y = torch.stack(rows).view(shape)
    assert_torchs_own(
        lambda x: F.multilabel_margin_loss(x, y, reduction=reduction), draw(seed, *shape), second=False
    )


def test_at_the_kink_of_a_margin_the_gradient_is_torchs():
    x, y = torch.tensor([[1.0, 0.0, 2.0]]).double(), torch.tensor([0])  # the margin of class 1 is just kept
    for p in (1, 2):
        assert_torchs_own(lambda x, p=p: F.multi_margin_loss(x, y, p=p), x, second=False)
    target = torch.tensor([[0, -1, 0]])
    assert_torchs_own(lambda x: F.multilabel_margin_loss(x, target), x, second=False)
    for name in ("l1_loss", "smooth_l1_loss", "huber_loss"):
        for d in (0.0, 1.0, -1.0):
            assert_torchs_own(lambda x, n=name, d=d: getattr(F, n)(x, x.detach() + d), x, second=False)
    for at in (-3.0, 3.0, 0.0):
        assert_torchs_own(F.hardsigmoid, torch.tensor([at]).double(), second=False, rough=1e-7)


# ctc ------------------------------------------------------------------------------------------------------


@FEW
@given(st.data())
def test_ctc(data):
    seed, reduction = data.draw(SEEDS), data.draw(REDUCTIONS)
    zero, blank = data.draw(st.booleans()), data.draw(st.sampled_from([0, 2]))
    n, time, classes, width = 3, 6, 4, 3
    target_lengths = data.draw(st.lists(st.integers(0, width), min_size=n, max_size=n))
    input_lengths = data.draw(st.lists(st.integers(1, time), min_size=n, max_size=n))
    targets = draw(seed, n, width, integer=(0, classes - 1))
    targets = targets + (targets >= blank)  # no blanks
    kind = data.draw(st.sampled_from(["padded", "padded by -1", "one row"]))
    if kind != "padded":
        here = torch.arange(width) < torch.tensor(target_lengths)[:, None]
        targets = targets[here] if kind == "one row" else torch.where(here, targets, -1)
    lengths = (input_lengths, target_lengths)
    if data.draw(st.booleans()):
        lengths = tuple(map(torch.tensor, lengths))

    def loss(x):
        return F.ctc_loss(x, targets, *lengths, blank=blank, reduction=reduction, zero_infinity=zero)

    x = draw(seed, time, n, classes)
    possible = loss(x).isfinite()
    if not possible.all():  # infinite, as torch's; its gradients are NaN there
        with plain_operators():
            torch.testing.assert_close(loss(x), torch.where(possible, loss(x), loss(x)))
        return
    assert_second(lambda x: loss(x.log_softmax(2)), x)
    assert_torchs_own(loss, x, second=False)  # not normalised, torch's gradient is not that of its value


def test_ctc_without_a_batch():
    x, y = draw(0, 6, 4), torch.tensor([1, 3])
    for lengths in ((torch.tensor(6), torch.tensor(2)), (torch.tensor([6]), torch.tensor([2]))):
        try:
            F.ctc_loss(x, y, *lengths, reduction="none")
        except (RuntimeError, TypeError):
            continue
        assert_second(lambda x, n=lengths: F.ctc_loss(x.log_softmax(1), y, *n, reduction="none"), x)


# layers ---------------------------------------------------------------------------------------------------


@FEW
@given(st.data())
def test_embedding_bag(data):
    seed, mode = data.draw(SEEDS), data.draw(st.sampled_from(["mean", "sum", "max"]))
    rows = draw(seed, 4, 3, integer=(0, 5))
    options = {"mode": mode, "padding_idx": data.draw(st.sampled_from([None, 0, 2, -1]))}
    flat = data.draw(st.booleans())
    if flat:
        rows, last = rows.flatten(), data.draw(st.booleans())
        ends = sorted(data.draw(st.lists(st.integers(0, 12), min_size=3, max_size=3)))
        options |= {"offsets": torch.tensor([0, *ends[: 2 + last]]), "include_last_offset": last}
    table = draw(seed + 1, 5, 2)
    if mode == "sum" and data.draw(st.booleans()):
        weights = draw(seed + 2, *rows.shape)
        assert_torchs_own(
            lambda w, s: F.embedding_bag(rows, w, per_sample_weights=s, **options),
            table,
            weights,
            second=False,
        )
    else:
        assert_torchs_own(lambda w: F.embedding_bag(rows, w, **options), table, second=False)


@FEW
@given(SEEDS, st.sampled_from([0.5, 1.0, 1.5, 2.0, 3.0, float("inf")]))
def test_distances(seed, p):
    x, y = draw(seed, 2, 3, 4), draw(seed + 1, 2, 2, 4)
    assert_torchs_own(lambda x, y: torch.cdist(x, y, p=p), x, y, second=False)


@pytest.mark.parametrize("p", [1.0, 2.0, 3.0])
def test_the_distance_of_a_point_to_itself_has_finite_derivatives(p):
    mine = assert_torchs_own(lambda x: torch.cdist(x, x, p=p), draw(0, 3, 4), second=False)
    assert all(s.isfinite().all() for s in mine[2] or [])
    apart = derivatives(  # the same, without its diagonal
        lambda x: torch.stack(
            [(x[i] - x[j]).norm(p) if i != j else x.new_zeros(()) for i in range(3) for j in range(3)]
        ),
        [draw(0, 3, 4)],
    )
    if p > 1:
        torch.testing.assert_close(mine[2][0], apart[2][0], rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("dim", [0, 1, -1])
def test_weight_norm(dim):
    v, g = draw(0, 4, 3), draw(1, *{0: (4, 1), 1: (1, 3), -1: ()}[dim])
    assert_second(lambda v, g: torch._weight_norm(v, g, dim) ** 2, v, g)


def test_complex_numbers_of_a_part_of_a_vector():
    """Where it begins at an odd place torch has none, and they are those of a copy."""

    def squares(part):
        return torch.view_as_real(torch.view_as_complex(part.view(2, 2, 2)) ** 2)

    assert_torchs_own(lambda v: squares(v[2:10]), draw(0, 11))
    with plain_operators():
        torch.testing.assert_close(squares(draw(0, 11)[1:9]), squares(draw(0, 11)[1:9].clone()))


@pytest.mark.parametrize("inplace", [False, True])
def test_hardsigmoid(inplace):
    """Torch's kernel has 1/6 in float32 in its gradient."""

    def changed(x):
        y = x * 1.0
        return F.hardsigmoid(y, inplace=inplace) ** 2 + y

    assert_torchs_own(changed, draw(0, 50) * 4, rough=1e-7)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("kind", ["LSTM", "GRU", "RNN"])
@pytest.mark.parametrize("options", [{}, {"bidirectional": True, "num_layers": 2}, {"batch_first": True}])
def test_recurrent_layers(kind, options, dtype):
    torch.manual_seed(0)
    layer, x = getattr(torch.nn, kind)(3, 4, **options).to(dtype), draw(0, 5, 2, 3).to(dtype)
    packed = torch.nn.utils.rnn.pack_padded_sequence(x, [5, 3], enforce_sorted=False)
    calls = [lambda: layer(x)[0]]
    if not options.get("batch_first"):
        calls.append(lambda: layer(packed)[0].data)
    for call in calls:
        its = torch.autograd.grad((call() ** 2).sum(), layer.parameters())
        with plain_operators():
            torch.testing.assert_close(mine := call(), call())
            g = torch.autograd.grad((mine**2).sum(), layer.parameters(), create_graph=True)
            bent = torch.autograd.grad(sum((a**2).sum() for a in g), layer.parameters())
        torch.testing.assert_close(list(g), list(its), rtol=1e-4, atol=1e-5)
        assert all(b.isfinite().all() for b in bent)


def test_every_rewritten_function_has_a_law_here():
    told = open(__file__).read()
    missing = [f.__name__ for f in REWRITTEN if f.__name__ not in told]
    assert set(missing) <= {"lstm", "gru", "rnn_tanh", "rnn_relu"}
