"""Parts that a loss numbers itself: words of several tokens, padding anywhere, parts that come and go."""

from functools import cache, partial

import numpy as np
import pytest
import torch
from helpers_parts import LENGTHS, LOSSES, PADDED, recorded, summed, taped, token_losses
from hypothesis import given, settings
from hypothesis import strategies as st

import influencekit as ik
from influencekit._training.loss_by_part import there
from influencekit.testing import effect_by_part

cached = cache(recorded)
SGD = partial(torch.optim.SGD, lr=0.3, momentum=0.9)


def in_words(outputs, target):
    """Two tokens are a word."""
    found = LOSSES["own weights"](outputs, target)
    return found._replace(part=torch.arange(target.shape[1]).expand(target.shape) // 2)


def again(loss, run):
    """The run recorded with another loss."""
    work = run.workload
    names = ("model", "train", "test", "optimizer", "epochs", "batch_size", "drop_last", "l2")
    return ik.record(ik.Workload(**{name: getattr(work, name) for name in names}, loss=loss))


def moved(outputs, target):
    """`summed` with the padding in front: the column of a token depends on its batch, its number does not."""
    losses, there, _ = summed(outputs, target)
    columns = torch.arange(target.shape[1]).expand(target.shape)
    first = (target == PADDED).sum(1, keepdim=True)
    at = (columns - first) % target.shape[1]
    return ik.Parts(losses.gather(1, at), there.gather(1, at), columns - first)


@pytest.mark.parametrize("l2", [0.0, 0.05])
def test_the_score_of_a_word_is_the_sum_of_its_tokens_and_words_add_up(l2):
    tokens = cached("adamw", "own weights", l2)
    run = again(in_words, tokens)
    words = ik.estimate(run, parts=True).influence
    assert words.sizes["part"] == 3
    assert words[0, 0].notnull().sum("part").values.tolist() == [-(-n // 2) for n in LENGTHS]
    whole = ik.estimate(run).influence
    assert float(abs(words.sum("part") - whole).max() / abs(whole).max()) < 1e-12
    if not l2:  # of which a word carries another share than its tokens
        one_by_one = ik.estimate(tokens, parts=True).influence.fillna(0).values
        np.testing.assert_allclose(
            words.fillna(0), one_by_one.reshape(1, 1, 8, 3, 2).sum(-1), atol=1e-12 * abs(one_by_one).max()
        )
        change = torch.zeros(8, 6, dtype=torch.float64)
        change[4, 2:4] = 1
        query, window = ik.make("query", "test-loss"), ik.Window(0, run.steps)
        expected = float(effect_by_part(tokens.workload, query, window, change))
        removed = ik.remove(run, query, [(4, 1)])
        assert removed.retrained.item() == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize(
    "more", [{}, {"accumulate": 2}, {"penalty": lambda m: 0.01 * m.out.weight.square().sum()}]
)
def test_parts_with_numbers_are_found_in_any_column(more):
    """Batches of different widths, the padding in front or behind: the same scores, also with a penalty."""
    query = "test-loss"
    behind, before = (taped(SGD, loss=loss, **more) for loss in (summed, moved))
    wanted, found = (ik.estimate(run, query, parts=True).influence for run in (behind, before))
    np.testing.assert_allclose(found, wanted, atol=1e-13 * float(abs(wanted).max()))
    exact = [ik.remove(run, query, [(0, 5), (3, 1)]).retrained.item() for run in (behind, before)]
    assert exact[0] == pytest.approx(exact[1], rel=1e-9) and exact[0] != 0
    by_query = [ik.estimate(run, "test-parts:example=3").influence for run in (behind, before)]
    np.testing.assert_allclose(*by_query, atol=1e-13)
    store = ik.contributions(before, query, parts=True)
    added = ik.sum_over_windows(store, [ik.Window(0, before.steps)]).influence
    np.testing.assert_allclose(added, wanted, atol=1e-12 * float(abs(wanted).max()))


@settings(max_examples=30, deadline=None)
@given(st.data())
def test_parts_are_those_that_are_numbered_where_there_is_weight(data):
    shape = data.draw(st.tuples(st.integers(1, 3), st.integers(1, 5)))
    cells = st.lists(st.integers(-2, 6), min_size=shape[0] * shape[1], max_size=shape[0] * shape[1])
    part = torch.tensor(data.draw(cells)).reshape(shape)
    weights = torch.tensor(data.draw(cells)).reshape(shape).clamp(min=0).double() * (part >= 0)
    found = there(ik.Parts(torch.ones(shape), weights, part))
    wanted = {(i, int(part[i, c])) for i, c in weights.nonzero().tolist()}
    assert set(map(tuple, found.nonzero().tolist())) == wanted
    assert found.shape[1] == max([p for _, p in wanted], default=-1) + 1


def test_weights_that_depend_on_the_model_are_refused_with_numbers_too():
    def hard(outputs, target):
        losses = token_losses(outputs, target)
        part = torch.arange(target.shape[1]).expand(target.shape)
        return ik.Parts(losses, ((losses > 1.9) & (target != PADDED)).to(losses), part)

    run = again(hard, cached())
    with pytest.raises(ik.InputError, match="let weights and parts not depend on the model") as caught:
        ik.estimate(run, parts=True)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("part", "said"),
    [
        (lambda x: torch.arange(x.shape[1]), "expected `part`, one whole number for each loss"),
        (lambda x: torch.zeros(x.shape), "expected `part`, one whole number for each loss"),
        (lambda x: [0], "expected `part`, one whole number for each loss"),
        (lambda x: torch.full(x.shape, -1), "a part is below 0 where the weight is not 0"),
        (lambda x: torch.full(x.shape, 10**12), "a part is 1000000000000, above 1,000,000"),
    ],
)
def test_numbers_that_are_none_are_refused_in_one_line(part, said):
    def loss(outputs, target):
        found = summed(outputs, target)
        return found._replace(part=part(target))

    with pytest.raises(ik.InputError, match=said) as caught:
        ik.estimate(again(loss, cached()), parts=True)
    assert "\n" not in str(caught.value)
