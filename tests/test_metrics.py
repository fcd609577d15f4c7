"""The metrics against scipy (1e-12: both work in float64), ties included, and their invariances."""

import warnings

import numpy as np
import pytest
import scipy.stats
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from influencekit import metrics
from influencekit.errors import InputError
from influencekit.metrics import METRICS, agreement, border_ties, jaccard, kendall, pearson, spearman

CORRELATIONS = [
    pytest.param(pearson, scipy.stats.pearsonr, id="pearson"),
    pytest.param(spearman, scipy.stats.spearmanr, id="spearman"),
    pytest.param(kendall, scipy.stats.kendalltau, id="kendall"),
]

# few different values: ties everywhere; quarters: far from the cancellation in which scipy itself is inexact
tied = st.integers(-3, 3).map(float)
spread = st.integers(-4000, 4000).map(lambda i: i / 4)
batches = hnp.array_shapes(min_dims=0, max_dims=2, max_side=3)


@st.composite
def pairs(draw, batch=batches, least=2, most=40):
    shape = (*draw(batch), draw(st.integers(least, most)))
    return tuple(
        torch.from_numpy(draw(hnp.arrays(np.float64, shape, elements=draw(st.sampled_from([tied, spread])))))
        for _ in range(2)
    )


def rowwise(function, x, y):
    """The same on plain numpy rows, one at a time."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # scipy warns of constant rows; we promise the NaN
        rows = [function(a, b) for a, b in zip(flat(x), flat(y), strict=True)]
    return torch.tensor(rows, dtype=torch.float64).reshape(x.shape[:-1])


def flat(x):
    return x.reshape(-1, x.shape[-1]).numpy()


def close(a, b):
    torch.testing.assert_close(a, b, rtol=0, atol=1e-12, equal_nan=True)


@pytest.mark.parametrize("ours, theirs", CORRELATIONS)
@given(pair=pairs())
def test_equals_scipy_with_ties_and_batches(ours, theirs, pair):
    close(ours(*pair), rowwise(lambda a, b: theirs(a, b).statistic, *pair))


@pytest.mark.parametrize("ours, theirs", CORRELATIONS)
@pytest.mark.parametrize("n", [2, 3, 256, 5000])
def test_equals_scipy_on_normal_scores_of_any_length(ours, theirs, n):
    generator = torch.Generator().manual_seed(n)
    x = torch.randn(n, generator=generator, dtype=torch.float64)
    y = x + torch.randn(n, generator=generator, dtype=torch.float64)
    close(ours(x, y), rowwise(lambda a, b: theirs(a, b).statistic, x, y))
    close(ours(x, y.round()), rowwise(lambda a, b: theirs(a, b).statistic, x, y.round()))


@given(pair=pairs(), fraction=st.floats(0.01, 1))
def test_jaccard_equals_sets_of_sorted_indices(pair, fraction):
    k = max(1, round(fraction * pair[0].shape[-1]))

    def by_sets(a, b):
        top_a, top_b = (set(sorted(range(len(v)), key=lambda i, v=v: (-v[i], i))[:k]) for v in (a, b))
        return len(top_a & top_b) / len(top_a | top_b)

    close(jaccard(*pair, fraction=fraction), rowwise(by_sets, *pair))


@given(pair=pairs())
def test_jaccard_of_the_largest_and_of_the_harmful_is_that_of_other_values(pair):
    x, y = pair
    close(jaccard(x, y, top="abs"), jaccard(x.abs(), y.abs()))
    close(jaccard(x, y, top="harmful"), jaccard(-x, -y))
    close(agreement(x, y, top="abs")[..., 3], jaccard(x.abs(), y.abs()))
    close(agreement(x, y, top="abs")[..., :3], agreement(x, y)[..., :3])
    with pytest.raises(InputError, match="top must be one of signed, abs, harmful, got 'lowest'"):
        jaccard(x, y, top="lowest")


@given(
    pair=pairs(batch=st.just(()), most=12),
    fraction=st.floats(0.05, 1),
    within=st.sampled_from([0.0, 0.25, 2.0]),
)
def test_ties_are_the_examples_that_changes_within_the_resolution_carry_over_the_border(
    pair, fraction, within
):
    x, _ = pair
    k = max(1, round(fraction * len(x)))
    order = sorted(range(len(x)), key=lambda i: (-float(x[i]), i))
    swapped = [(i, o) for i in order[:k] for o in order[k:] if x[i] - x[o] <= within]
    assert int(border_ties(x, fraction, resolution=within)) == len(
        {each for both in swapped for each in both}
    )


def test_ties_at_the_border_are_counted_to_the_last_digit_of_the_dtype():
    x = torch.tensor([9.0, 8.0, 5.0, 5.0, 5.0, 1.0, 0.0, -1.0, -2.0, -20.0])
    assert border_ties(x, 0.3) == 3 and border_ties(x, 0.2) == 0 and border_ties(x, 0.5) == 0
    assert border_ties(x, 0.1, "harmful") == border_ties(x, 0.1, "abs") == border_ties(x, 1) == 0
    near = x + torch.tensor([0, 0, 0, 1e-6, 2e-6, 0, 0, 0, 0, 0])  # a last digit of 20 in float32 is 2.4e-6
    assert border_ties(near, 0.3) == 3 and border_ties(near.double(), 0.3) == 0
    assert border_ties(near.double(), 0.3, resolution=1e-5) == 3
    both = torch.stack([x, x.flip(0) + torch.arange(10)])
    assert border_ties(both, 0.3, resolution=torch.tensor([0.0, 2.0])).tolist()[0] == 3


@given(pair=pairs(batch=st.just(()), least=2, most=60))
def test_kendall_counts_every_pair_right(pair):
    x, y = (v[:, None] - v[None, :] for v in pair)
    signs = (x.sign() * y.sign()).sum()
    expected = signs / ((x != 0).sum().double().sqrt() * (y != 0).sum().double().sqrt())
    close(kendall(*pair), expected)


@given(pair=pairs())
def test_agreement_is_symmetric_and_stacks_the_metrics_in_order(pair):
    x, y = pair
    close(agreement(x, y), agreement(y, x))
    assert list(METRICS) == ["pearson", "spearman", "kendall", "jaccard"]
    close(agreement(x, y), torch.stack([getattr(metrics, name)(x, y) for name in METRICS], dim=-1))


@given(pair=pairs(), data=st.data())
def test_correlations_do_not_depend_on_the_order_of_examples(pair, data):
    order = torch.tensor(data.draw(st.permutations(range(pair[0].shape[-1]))))
    close(agreement(*pair)[..., :3], agreement(*(v[..., order] for v in pair))[..., :3])


@given(n=st.integers(2, 40), data=st.data())
def test_jaccard_without_ties_does_not_depend_on_the_order_of_examples(n, data):
    x, y, order = (torch.tensor(data.draw(st.permutations(range(n)))) for _ in range(3))
    close(jaccard(x, y), jaccard(x[order], y[order]))


@given(pair=pairs())
def test_rank_metrics_see_only_the_order_and_pearson_only_up_to_shift_and_scale(pair):
    x, y = pair
    close(agreement(x**3 + x, y)[..., 1:], agreement(x, y)[..., 1:])
    close(pearson(4 * x - 2, y), pearson(x, y))
    close(agreement(-x, y)[..., :3], -agreement(x, y)[..., :3])


@given(pair=pairs())
def test_a_side_agrees_fully_with_itself_unless_it_is_constant(pair):
    x, _ = pair
    constant = (x == x[..., :1]).all(-1)
    for metric in (pearson, spearman, kendall):
        close(metric(x, x), torch.ones(x.shape[:-1]).double().masked_fill(constant, torch.nan))
    close(jaccard(x, x), torch.ones(x.shape[:-1]).double())


@pytest.mark.parametrize("scale", [1e-300, 1e-160, 1e160, 1e300])
def test_neither_tiny_nor_huge_scores_are_lost(scale):
    x, y = torch.tensor([[0.3, -1.0, 0.2, 0.5], [1.0, 0.1, 0.4, -0.7]]).double()
    close(agreement(x * scale, y), agreement(x, y))


# values of size 1 to 8 whose differences are at least a thousandth, far above the last digit of the offset
varied = hnp.arrays(np.float64, st.integers(3, 30), elements=st.integers(-8000, 8000), unique=True)


@given(x=varied, data=st.data(), offset=st.floats(-1e10, 1e10), power=st.integers(-307, 285))
def test_pearson_of_values_with_a_large_offset_and_of_any_size(x, data, offset, power):
    """Against the definition in long double (64 bits of mantissa, as wide an exponent as is needed)."""
    y = data.draw(hnp.arrays(np.float64, len(x), elements=st.integers(-8000, 8000), unique=True))
    scale = 10.0**power  # from below 1e-300 to beyond 1e298, the offset included
    x = (offset + x / 1000) * scale

    def centred(values):
        wide = values.astype(np.longdouble)
        return wide - wide.mean()

    a, b = centred(x), centred(y)
    expected = float((a * b).sum() / np.sqrt((a * a).sum()) / np.sqrt((b * b).sum()))
    found = pearson(torch.from_numpy(x), torch.from_numpy(y))
    assert found.item() == pytest.approx(expected, rel=0, abs=1e-9)
    assert pearson(torch.from_numpy(y), torch.from_numpy(x)).item() == found.item()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.int64])
def test_other_dtypes_give_float64(dtype):
    x, y = torch.tensor([[3, 1, 2, 2], [1, 5, 2, 0]]).to(dtype)
    assert agreement(x, y).dtype == torch.float64
    close(agreement(x, y), agreement(x.double(), y.double()))


@pytest.mark.parametrize("metric", METRICS.values(), ids=METRICS)
@pytest.mark.parametrize(
    "x, y, message",
    [
        (torch.ones(3), torch.ones(4), r"one shape, got \[3\] and \[4\]"),
        (torch.ones(2, 3), torch.ones(3), r"one shape"),  # nothing is broadcast in silence
        (torch.ones(2, 1), torch.ones(2, 1), "at least two examples"),
        (torch.tensor(1.0), torch.tensor(1.0), "at least two examples"),
        (torch.tensor([1.0, torch.nan]), torch.ones(2), "1 of 2 that are NaN or infinite"),
        (torch.ones(2), torch.tensor([torch.inf, torch.nan]), "2 of 2 that are NaN or infinite"),
        (torch.ones(2) * 1j, torch.ones(2) * 1j, "real scores"),
    ],
)
def test_bad_scores_are_refused_in_one_line(metric, x, y, message):
    with pytest.raises(InputError, match=message) as caught:
        metric(x, y)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("fraction", [0, -0.1, 1.01, float("nan")])
def test_jaccard_refuses_a_fraction_that_is_none(fraction):
    with pytest.raises(InputError, match="fraction"):
        jaccard(torch.arange(4.0), torch.arange(4.0), fraction=fraction)


@pytest.mark.gpu
def test_on_cuda_the_result_stays_there_and_equals_the_cpu():
    x, y = torch.randn(2, 3, 400, generator=torch.Generator().manual_seed(0), dtype=torch.float64).round(
        decimals=1
    )
    on_gpu = agreement(x.cuda(), y.cuda())
    assert on_gpu.device.type == "cuda"
    close(on_gpu.cpu(), agreement(x, y))
