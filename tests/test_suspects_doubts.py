"""Suspects: what is said where data do not tell, or were not asked, and one formula behind an apostrophe."""

import numpy as np
import pandas as pd
import pytest
import torch
from helpers_suspects import N, linear, per_example, sample, taped, training, workload
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

import influencekit as ik
from influencekit._verbs.suspects import cost
from influencekit._verbs.suspects.calibration import Calibration, Finding
from influencekit._verbs.suspects.counting import Mixture
from influencekit._verbs.suspects.expectation import Expected
from influencekit._verbs.suspects.outside import _told_apart
from influencekit._verbs.suspects.words import verdict
from influencekit.cli.formats import write_csv

FAST = {"scores": ["final-loss", "out-of-fold"], "repeats": 2, "folds": 2, "verify": 0}


def turned(wrong):
    """A run with two classes, of whose labels this fraction is the other one."""
    x, y = sample(120, 0, classes=2)
    count = round(wrong * 120)
    return ik.record(
        workload(train=(x, torch.cat([1 - y[:count], y[count:]])), test=sample(120, 1, classes=2))
    )


@pytest.mark.parametrize("wrong", [0.8, 1.0])
def test_where_most_labels_are_wrong_none_is_marked_and_it_says_why(wrong):
    """The model has learnt the wrong ones, as where classes are numbered in another way: of 80 % the right
    ones are the most suspicious."""
    found = ik.suspects(turned(wrong), **FAST)
    if wrong < 1:
        first = found["rank"].values.argsort()[:10]
        assert (first >= 96).mean() > 0.8
    assert "compare how both are numbered; none is marked" in found.verdict
    assert not found.is_label_issue.any() and set(found.action.values) == {"keep"}
    for name in ("suspicion", "expected_precision", "expected_low", "expected_high"):
        assert found[name].isnull().all()
    assert found.issues_low - 4 <= wrong * 120 <= found.issues_high + 4


def test_where_a_quarter_of_the_labels_is_wrong_they_are_marked():
    found = ik.suspects(turned(0.25), **FAST)
    assert found.is_label_issue.values[:30].sum() > 20 and "numbered" not in found.verdict


@given(st.integers(0, 10**6), st.integers(1, 3))
def test_how_right_and_wrong_labels_are_told_apart_is_the_weighted_auc(seed, models):
    generator = np.random.default_rng(seed)
    right, wrong = generator.integers(0, 5, (2, models, 7)).astype(float)
    a, b = generator.random((2, 7)) + 0.1
    each = [(u > v) + 0.5 * (u == v) for r, w in zip(right, wrong, strict=True) for u in r for v in w]
    slow = np.average(each, weights=np.tile(np.outer(a, b).ravel(), models))
    assert _told_apart(Mixture(right[0], right, wrong, a, b)) == pytest.approx(slow)


def test_an_example_that_no_step_holds_has_no_suspicion():
    model, data = linear(), torch.utils.data.TensorDataset(*training())
    optimizer = torch.optim.SGD(model.parameters(), lr=0.2)
    with ik.Tape(None, model, optimizer, loss=per_example, data=data) as tape:
        for batch in range(4):
            loader = torch.utils.data.DataLoader(data, batch_sampler=[list(range(batch, 40, 4))])
            for _, (x, y) in tape.batches(loader):
                optimizer.zero_grad()
                per_example(model(x), y).mean().backward()
                optimizer.step()
    found = ik.suspects(tape.trajectory(test=sample(60, 1)), **FAST)
    assert "no step of the run holds 20 of the training examples, which were left out" in found.caution
    assert found.suspicion.isnull().values.tolist() == [k >= 40 for k in range(N)]
    assert not found.is_label_issue[40:].any() and "of 40 labels" in found.verdict


def said(marked, precision, low=0.0, high=1.0, auc=(0.6, 1.0)):
    lead = Calibration({"aum": Finding([np.array([0.1])], np.array([1.0]), np.array([1.0]))}, None)
    ends = [np.full(9, x) for x in (precision, low, high)]
    return verdict(lead, Expected((1.2, 0.0, 4.0), *ends), marked, 9, True, False, "", auc)


def test_one_marked_label_is_no_part_of_several_and_chance_makes_the_number_doubtful():
    assert said(1, 0.62).endswith("1 is marked, wrong with probability 62 % (0 to 100 %)")
    assert said(3, 0.62).endswith("3 are marked, of which 62 % (0 to 100 %) should be wrong")
    doubt = (
        "so none is marked, and how many are wrong is hard to tell: about 1 of 9 labels look wrong (0 to 4)"
    )
    assert said(0, 0.62, auc=(0.4, 0.7)).endswith(doubt)


def test_no_more_is_verified_than_there_is(monkeypatch, capsys):
    monkeypatch.setattr(cost, "LONG", 0)
    for run, count in ((ik.record(workload()), 4 + 2 * (N + 2)), (taped(None), 4)):
        ik.suspects(run, scores="final-loss", repeats=2, folds=2, verify=10**6)
        assert f"suspects: {count} trainings" in capsys.readouterr().err


def test_an_escaped_formula_is_read_back():
    run = ik.record(workload(train_ids=["=1", "'-1", "-1", *map(str, range(3, N))]))
    found = ik.remove(run, ids=["'=1", "'-1"], parts=1)  # the second is an id of its own
    assert sorted(found.train.values) == ["'-1", "=1"]
    with pytest.raises(ik.InputError, match="no training example ''3'"):
        ik.remove(run, ids=["'3"])
    with pytest.raises(ik.InputError, match=r"got 'a.csv'; a file of them is Path\('a.csv'\)"):
        ik.remove(run, ids="a.csv")


@pytest.mark.parametrize("name", ["=1", "+1", "-1", "@1", "\t=1", "\n=1"])
def test_a_list_with_escaped_formulas_is_read_back(tmp_path, name):
    """What begins with white space got an apostrophe as well, and was no training example."""
    run = ik.record(workload(train_ids=[name, *map(str, range(3, N + 2))]))
    ids = list(run.workload.train_ids)
    listed = pd.DataFrame({"id": ids, "is_influence_issue": [each == name for each in ids]})
    write_csv(listed, tmp_path / "drop.csv", escape_formulas=True)
    assert "'" in (tmp_path / "drop.csv").read_text()
    assert ik.remove(run, ids=tmp_path / "drop.csv", parts=1).train.values.tolist() == [name]


def test_a_score_that_is_named_twice_is_refused():
    run = ik.record(ik.make("workload", "mnist-1v7-lr:n_train=40:epochs=1"))
    with pytest.raises(ik.InputError, match="scores: aum stands twice; name it once"):
        ik.suspects(run, scores=["aum", "final-loss", "aum"])


def test_boolean_labels_are_those_of_whole_numbers():
    """torch does not look booleans up: a raw RuntimeError, from `suspects` and `curate` alike."""
    (x, y), (tx, ty) = sample(60, 0, 2), sample(60, 1, 2)
    y[:6] = 1 - y[:6]
    model = nn.Linear(3, 1).double()
    logistic = nn.BCEWithLogitsLoss(reduction="none")

    def loss(o, t):
        return logistic(o[:, 0], t.double())

    found = []
    for dtype in (torch.bool, torch.int64):
        trusted = tx, ty.to(dtype)
        optimizer = ik.SGD(lr=0.2)
        work = ik.Workload(
            model=model, loss=loss, train=(x, y.to(dtype)), test=trusted, optimizer=optimizer, epochs=4
        )
        run = ik.record(work)
        one = ik.suspects(run, scores=["final-loss", "aum"], repeats=2, verify=2)
        found.append((one, ik.curate(run, k=(3,), draws=1, folds=3)))
    for mine, theirs in zip(*found, strict=True):
        assert mine.verdict == theirs.verdict
    for name in ("suspicion", "relabel_effect", "given"):
        assert found[0][0][name].equals(found[1][0][name])
