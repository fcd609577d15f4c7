"""Every layer and every loss of torch.nn: scores are right, or refused at the door in one line.

Right is what plain PyTorch says (helpers_torch_nn.py). A row that kills the interpreter ends the session:
`python -m benchmarks torch_nn`, which runs rows in processes of their own, says which.
"""

import pytest
import torch
from helpers_torch_nn import differences, unrolled
from helpers_torch_nn_run import DTYPES, ESTIMATORS, RUNS, as_expected, expected, outcomes
from helpers_torch_nn_table import TABLE
from torch import nn

LEFT_OUT = {
    "Module": "no layer",
    "Container": "no layer",
    "RNNBase": "no layer",
    "RNNCellBase": "no layer",
    "LinearCrossEntropyOptions": "no layer",
    "DataParallel": "several devices",
    "NLLLoss2d": "the old name of NLLLoss",
}
each_row = pytest.mark.parametrize("row", TABLE.values(), ids=TABLE)


VARIANTS = [("record", "float32"), ("tape", "float64")]
# every row that has a word about it, and every third of the rest: layers come in families of one code
ODD = [row for row in TABLE.values() if row.refused or row.differences or row.why]
EVEN = [row for row in TABLE.values() if row not in ODD][::3]
ONE_EACH = [(row, *VARIANTS[k % 2]) for k, row in enumerate(ODD + EVEN)]


@pytest.mark.parametrize(("row", "by", "dtype"), ONE_EACH, ids=["-".join([r.name, *v]) for r, *v in ONE_EACH])
def test_scores_are_right_or_refused_as_the_table_says(row, by, dtype):
    """One variant; the benchmark runs all four of all rows, which takes half an hour.

    The table names every refusal, so that a new one fails here as a wrong number does.
    """
    assert not [outcome for outcome in outcomes(row, dtype, by) if not as_expected(row, outcome)]


def test_at_least_95_percent_are_right_rather_than_refused():
    variants = [(d, b, e) for d in DTYPES for b in RUNS for e in ESTIMATORS]
    right = [expected(row, *variant) is None for row in TABLE.values() for variant in variants]
    assert sum(right) >= 0.95 * len(right)


def test_every_refusal_has_its_reason():
    assert not [row.name for row in TABLE.values() if bool(row.refused) != bool(row.why)]


KINDS = {row.kind: row for row in TABLE.values() if not row.differences}
ROUGH = {row.name: row for row in TABLE.values() if row.differences}


@pytest.mark.parametrize("row", KINDS.values(), ids=[row.name for row in KINDS.values()])
def test_the_two_right_answers_agree(row):
    """Autograd through a functional run, and differences of a loop with torch.optim, good to 1e-8."""
    found = [answer(row, row.modes["tape"], torch.float64) for answer in (unrolled, differences)]
    assert (found[0] - found[1]).abs().max() <= 1e-8 * found[1].abs().max()


@pytest.mark.parametrize("row", ROUGH.values(), ids=ROUGH)
def test_differences_do_not_depend_on_their_step(row):
    """Where they are the only right answer, they must be one: the run is smooth, and far from diverging."""
    coarse, fine = (differences(row, row.modes["tape"], torch.float64, h) for h in (4e-3, 2e-3))
    assert (coarse - fine).abs().max() <= 1e-8 * fine.abs().max()


def test_every_layer_and_loss_of_torch_nn_has_a_row():
    words = " ".join(TABLE).replace("Pad1d", "Pad1d ")
    plain = [n for n in nn.modules.__all__ if not n.startswith("Lazy") and n not in LEFT_OUT]
    missing = [n for n in plain if n not in words]
    assert not missing
