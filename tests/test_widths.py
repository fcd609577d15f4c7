"""A traced function of one vector serves any number of them."""

import pytest
import torch
from torch import fx, nn
from torch.func import vmap

from influencekit._training.kernels.batched_trace import batched_trace

X, W = torch.linspace(-1, 1, 35 * 7).view(7, 35), torch.linspace(0, 1, 35 * 5).view(5, 35)


def curved(c, x, w):
    """Sizes 5, 7 and 35 of its own, which are the widths of the two traces and their product."""
    hidden = nn.functional.softplus(x @ (w * c).t())
    return c.view(5, 7).t().reshape(35) * hidden.sum(), torch.cat([hidden.flatten(), c[:5]])


@pytest.mark.parametrize("columns", [2, 3, 5, 7, 35, 70])
def test_any_number_of_columns_is_what_vmap_gives(columns):
    found = batched_trace(curved, torch.ones(35), X, W)
    c = torch.linspace(-2, 1, columns * 35).view(columns, 35)
    for mine, theirs in zip(found(c, X, W), vmap(curved, (0, None, None))(c, X, W), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-6, atol=1e-6)


def test_the_kernels_are_traced_once():
    assert isinstance(batched_trace(curved, torch.ones(35), X, W).__self__, fx.GraphModule)


def test_a_function_that_does_other_things_at_another_width_is_left_to_vmap():
    calls = []

    def fickle(c, x):
        calls.append(1)
        return (c.sin() if len(calls) % 2 else c.cos()), x.sum() * c[:1]

    found = batched_trace(fickle, torch.ones(3), torch.ones(2))
    assert not hasattr(found, "__self__") and found(torch.ones(4, 3), torch.ones(2))[0].shape == (4, 3)
