"""Numbered parts: sums over columns equal those over all pairs of column and part, in linear memory."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.func import grad, jvp, vmap
from torch.nn.functional import cross_entropy
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

import influencekit as ik
from influencekit._training.loss_by_part import of_columns, of_parts


def pairs(part, width):
    """[batch, column, part]: whether the column is of that part. The square that the package does without."""
    return (part.long()[:, :, None] == torch.arange(width)).double()


def same(found, wanted):
    """To rounding: a part of several columns is added up in another order."""
    torch.testing.assert_close(found, wanted, rtol=1e-14, atol=1e-14)


@settings(max_examples=60, deadline=None)
@given(
    shape=st.tuples(st.integers(1, 3), st.integers(0, 9), st.integers(1, 7)),
    dtype=st.sampled_from([torch.int64, torch.int32, torch.int8]),
    seed=st.integers(0, 2**16),
)
def test_columns_are_added_up_by_part_as_over_all_pairs_also_under_transforms(shape, dtype, seed):
    """Values, gradients, tangents and batches of both, with parts below 0, beyond the width, and twice."""
    n, columns, width = shape
    generator = torch.Generator().manual_seed(seed)
    part = torch.randint(-2, width + 3, (n, columns), generator=generator).to(dtype)
    x, y = torch.randn(2, 4, n, columns, generator=generator, dtype=torch.float64)
    which, c = pairs(part, width), torch.randn(n, width, generator=generator, dtype=torch.float64)
    dense = lambda x: torch.einsum("nc,ncp->np", x, which)  # noqa: E731
    linear = lambda x: of_parts(x, part, width)  # noqa: E731
    same(linear(x[0]), dense(x[0]))
    same(of_columns(c, part, columns), torch.einsum("np,ncp->nc", c, which))
    same(vmap(linear)(x), torch.stack([dense(each) for each in x]))

    def squares(f):
        return grad(lambda x: (c * f(x.sin())).square().sum())

    same(squares(linear)(x[0]), squares(dense)(x[0]))
    second = [vmap(lambda a, b, f=f: jvp(squares(f), (a,), (b,))[1])(x, y) for f in (linear, dense)]
    same(*second)


def test_where_each_column_is_a_part_of_its_own_the_numbers_are_the_same_to_the_bit():
    x = torch.randn(3, 500)
    part = torch.stack([torch.randperm(500) for _ in range(3)])
    wanted = torch.empty_like(x)
    for row, values, places in zip(wanted, x, part, strict=True):
        row[places] = values
    assert torch.equal(of_parts(x, part, 500), wanted) and torch.equal(of_columns(wanted, part, 500), x)


def test_a_part_in_8_bits_is_compared_with_a_width_beyond_them():
    part = torch.tensor([[200, 7, 7]], dtype=torch.uint8)
    found = of_parts(torch.tensor([[1.0, 2.0, 4.0]]), part, 300)
    assert found[0].nonzero()[:, 0].tolist() == [7, 200] and found[0, [7, 200]].tolist() == [6, 1]


def test_no_part_at_all_is_none():
    assert of_parts(torch.zeros(2, 0), torch.zeros(2, 0, dtype=torch.long), 3).tolist() == [[0.0] * 3] * 2


class Largest(TorchDispatchMode):
    """The largest number of elements in one tensor that any kernel gives."""

    found = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        sizes = [x.numel() for x in tree_leaves(out) if isinstance(x, torch.Tensor)]
        self.found = max(self.found, *sizes, 0)
        return out


TOKENS, WORDS, BATCH = 1024, 5, 2


class Words(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.words, self.out = torch.nn.Embedding(WORDS, 3), torch.nn.Linear(3, WORDS)

    def forward(self, x):
        return self.out(torch.tanh(self.words(x)))


def numbered(outputs, target):
    """Token losses, the last token being part 0."""
    losses = cross_entropy(outputs.mT, target, reduction="none")
    part = torch.arange(target.shape[1]).flip(0).expand(target.shape)
    return ik.Parts.mean(losses, torch.ones_like(target), part)


@pytest.mark.parametrize("estimator", ["dit", "dit:curvature=gauss-newton", "loo:examples=2"])
def test_no_tensor_of_a_sweep_by_part_grows_with_the_square_of_the_text(estimator):
    """None is larger than the logits, whatever the number of parts."""
    x = torch.randint(WORDS, (4, TOKENS + 1), generator=torch.Generator().manual_seed(0))
    data = x[:, :-1], x[:, 1:]
    run = ik.record(
        ik.Workload(
            model=Words(), loss=numbered, train=data, test=data, optimizer=ik.SGD(lr=0.1), epochs=1,
            batch_size=BATCH,
        )
    )  # fmt: skip
    with Largest() as seen:
        scores = ik.estimate(run, "test-loss", estimator, parts=True)
    assert scores.sizes["part"] == TOKENS and scores.influence.notnull().any()
    assert estimator != "dit" or scores.attrs["note_derivatives"].startswith("forward over reverse")
    linear = 4 * TOKENS * WORDS  # the logits of all training texts
    assert linear / 8 < seen.found <= 2 * linear < BATCH * TOKENS**2
