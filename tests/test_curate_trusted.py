"""Trusted data of a curation: what is taken and refused; a run with other test data is another run."""

import numpy as np
import pytest
import torch
from helpers_curate import TRUSTED, N, few, mixed, other_classes, sample, taped, training, workload

import influencekit as ik
from influencekit._verbs.curate import trusted


@pytest.fixture(scope="module")
def run():
    return ik.record(workload())


def test_a_run_with_another_test_set_has_gradients_of_its_own(run):
    """Twelve windows are so many that the query's gradient is traced, and both runs share their step."""
    windows, some = [ik.Window(0, t) for t in range(1, 13)], few(30)
    ik.estimate(run, "test-loss", windows=windows)
    assert run.step.queries
    again = ik.estimate(trusted.tested_on(run, some), "test-loss", windows=windows)
    fresh = ik.estimate(ik.record(workload(test=some)), "test-loss", windows=windows)
    np.testing.assert_allclose(again.influence, fresh.influence, rtol=1e-9)


@pytest.mark.parametrize("count", [20, 33])
def test_the_split_is_disjoint_seeded_and_covers(count):
    choose, judge = trusted.split(count, 5)
    assert sorted([*choose, *judge]) == list(range(count)) and len(judge) - len(choose) == count % 2
    assert (trusted.split(count, 5)[0] == choose).all() and (trusted.split(count, 6)[0] != choose).any()


def unfinished():
    """Trusted examples of which two have a missing entry."""
    x, y = few(TRUSTED)
    x[3, 1], x[7, 0] = float("nan"), float("inf")
    return x, y


@pytest.mark.parametrize(("options", "said"), [
    ({"trusted": few(19)}, "trusted: expected at least 20 examples, got 19; some of them choose"),
    ({"trusted": mixed(30)}, "trusted: 30 of 240 examples are also trained on .* first '0'"),
    ({"trusted": other_classes()}, r"3 of 240 examples have labels that no training example has \(7\)"),
    ({"trusted": unfinished()}, "2 of 240 examples hold NaN or infinity in entry 0 .first '3'., and"),
    ({"trusted": few(30)[:1]}, "trusted: expected the entries of a training example, 0, 1; got 0"),
    ({"trusted": np.zeros((30, 3))}, "trusted: "),
    ({"trusted": "trusted.csv"}, "trusted: expected a batch of tensors, .* got str"),
    ({"trusted": (few(30)[0][:, :2], few(30)[1])}, "trusted cannot be used: .*; give trusted examples in"),
    ({"trusted": 3}, "trusted: expected a batch of tensors, as in trusted=.x, y., or a data set, got int"),
    ({"k": (0, 3)}, "k must be different whole numbers from 1 to 59"),
    ({"k": ()}, "k must be different whole numbers from 1 to 59"),
    ({"k": (N,)}, "k must be different whole numbers from 1 to 59"),
    ({"choosers": "loo:examples=5"}, "examples=5.* scored 5 of 60 examples, and the most harmful may be"),
    ({"choosers": "loo:examples=5", "k": (2,)}, "examples=5.* scored 5 of 60 examples"),
    ({"trusted": {"x": few(30)[0], "y": few(30)[1]}}, "the entries of a training .*, 0, 1; got x, y"),
    ({"choosers": []}, "choosers"),
    ({"draws": 0}, "draws must be at least 1"),
    ({"level": 1}, "level must be above 0"),
    ({"seed": 0.5}, "seed must be"),
])  # fmt: skip
def test_bad_input_is_refused_in_one_line(run, options, said):
    with pytest.raises(ik.InputError, match=said) as error:
        ik.curate(run, **options)
    assert "\n" not in str(error.value)


def test_without_trusted_data_it_says_what_they_are():
    with pytest.raises(ik.InputError, match=r"trusted data: examples with right labels that the run was not"):
        ik.curate(taped(None))
    with pytest.raises(ik.InputError, match="expected a recorded run"):
        ik.curate(workload())


def test_a_few_copies_are_left_out_and_it_says_so(run):
    found = ik.curate(run, mixed(3), k=(2,), draws=1)
    assert found.trusted.values.tolist() == list(range(3, TRUSTED))
    assert "3 trusted examples are also trained on, and were left out" in found.caution
    with pytest.raises(ik.InputError, match="got 19 once 2 that are also trained on are left out"):
        ik.curate(run, tuple(x[:21] for x in mixed(2)))


def test_equal_trusted_examples_are_kept_once_and_it_says_so(run):
    """Copies would sit in several folds, where one judges what the other chose."""
    x, y = few(30)
    twice = torch.cat([x[:10], x, x]), torch.cat([y[:10], y, y])
    once = ik.curate(run, (x, y), k=(2, 4), draws=1, folds=3)
    found = ik.curate(run, twice, k=(2, 4), draws=1, folds=3)
    assert found.trusted.values.tolist() == [*range(10), *range(20, 40)]
    assert "40 trusted examples are equal to another one, and were left out" in found.caution
    for name in ("effect", "low", "high", "judged", "fold"):
        np.testing.assert_array_equal(found[name], once[name], err_msg=name)
    other = torch.cat([y[:10], 1 - y, y])  # equal inputs with another label are another example
    assert ik.curate(run, (twice[0], other), k=(2,), draws=1, folds=3).sizes["trusted"] == 60
    with pytest.raises(ik.InputError, match="got 19 once 19 that are equal to another one are left out"):
        ik.curate(run, (x[:19].repeat(2, 1), y[:19].repeat(2)))


def test_suspects_keep_equal_trusted_examples_once(run):
    x, y = few(30)
    options = {"scores": "dit", "repeats": 2, "verify": 2, "folds": 2}
    once, twice = (ik.suspects(run, (x.repeat(c, 1), y.repeat(c)), **options) for c in (1, 2))
    assert "30 trusted examples are equal to another one" in twice.caution
    assert "equal to another" not in once.caution
    np.testing.assert_array_equal(twice.remove_set_low, once.remove_set_low)
    assert twice.attrs["trusted"] == once.attrs["trusted"] == 30


def test_trusted_examples_whose_target_the_loss_ignores_judge_nothing_and_are_left_out():
    """Their loss is 0 whatever the model does, so with them every mean is too small."""
    (x, y), (z, t) = training(), sample(TRUSTED, 1)
    run = ik.record(workload(train=(x, y.index_fill(0, torch.tensor([50]), -100))))
    found = ik.curate(run, (z, t.index_fill(0, torch.arange(200), -100)), k=(3,), draws=1)
    rest = ik.curate(run, (z[200:], t[200:]), k=(3,), draws=1)
    assert found.trusted.values.tolist() == list(range(200, TRUSTED))
    assert "200 trusted examples are ignored by the loss, and were left out" in found.caution
    np.testing.assert_array_equal(found.judged, rest.judged)
    assert found.attrs["loss"] == rest.attrs["loss"] and "caution" not in rest.attrs
    with pytest.raises(ik.InputError, match="got 19 once 221 that are ignored by the loss are left out"):
        ik.curate(run, (z, t.index_fill(0, torch.arange(221), -100)))


def test_it_says_which_labels_no_trusted_example_has(run):
    """By trusted examples of one class, training examples of the other seem to do nothing but harm."""
    x, y = sample(TRUSTED, 1)
    found = ik.curate(run, (x[y == 0], y[y == 0]), k=(12,), draws=1)
    assert (found.label.values[found.is_influence_issue.values] == "1").mean() > 0.8
    assert "no trusted example has the label 1, so nothing judges whether" in found.caution
    three = trusted.Trusted(x, [], {"equal to another one": 1}, ["a", "b", "c", "d", "e", "f"]).cautions
    assert three[0] == "1 trusted example is equal to another one, and was left out"
    assert three[1].startswith("no trusted example has the labels a, b, c, d, e, ..., so nothing")


def test_whole_numbers_of_a_regression_are_no_classes():
    def squares(outputs, target):
        return (outputs[:, 0] - target) ** 2

    x, _ = sample(TRUSTED, 1)
    train, test = (sample(N, 0)[0], torch.arange(N).double() / 10), (x, torch.arange(TRUSTED).double())
    train = train[0], train[1].round()
    run = ik.record(workload(train=train, test=test, loss=squares, optimizer=ik.SGD(lr=0.01)))
    assert ik.curate(run, k=(1,), draws=1).sizes["trusted"] == TRUSTED
