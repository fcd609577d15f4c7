"""NaN in inputs, targets and test data, and scores that are all 0, are named for what they are."""

import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import influencekit as ik
from influencekit._training.checks.non_finite import blamed
from influencekit.errors import DivergedError, InputError
from influencekit.estimators.loo import LOO
from influencekit.queries import FixedVector

CE = nn.CrossEntropyLoss(reduction="none")


def batch(n=16, seed=0):
    x = torch.randn(n, 4, generator=torch.Generator().manual_seed(seed))
    return x, (x[:, 0] > 0).long()


def problem(train=None, test=None, **more):
    torch.manual_seed(0)
    given = {"model": nn.Linear(4, 3), "loss": CE, "optimizer": ik.SGD(lr=0.3), "batch_size": 8, "epochs": 2}
    return ik.Workload(train=train or batch(), test=test or batch(8, 1), **{**given, **more})


def said(act, kind=DivergedError):
    with pytest.raises(kind) as info:
        act()
    text = str(info.value)
    assert "\n" not in text and len(text) < 420
    return text


def with_nan(rows, value=math.nan, n=16, seed=0):
    x, y = batch(n, seed)
    x[rows, 2] = value
    return x, y


# training -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "word"), [(math.nan, "NaN"), (math.inf, "infinity"), (-math.inf, "infinity")]
)
def test_training_inputs(value, word):
    ids = [f"x{k}" for k in range(16)]
    w = problem(with_nan([5], value), train_ids=ids)
    text = said(lambda: ik.record(w))
    assert "NaN or infinite at step" in text and "lower the learning rate" not in text
    assert f"the inputs of example x5 hold {word}" in text


def test_the_first_three_examples_are_named():
    w = problem(with_nan([1, 2, 3, 5, 9]), shuffle=False, batch_size=16)
    assert "the inputs of examples 1, 2, 3 and 2 more hold NaN" in said(lambda: ik.record(w))
    w = problem(with_nan([1, 9]), shuffle=False, batch_size=16)
    assert "the inputs of examples 1 and 9 hold NaN" in said(lambda: ik.record(w))


def test_training_targets():
    x, y = batch()
    y = y.float()
    y[3] = math.nan
    w = problem(
        (x, y), (x, y), model=nn.Sequential(nn.Linear(4, 1), nn.Flatten(0)), loss=lambda o, t: (o - t) ** 2
    )
    assert "the targets of example 3 hold NaN" in said(lambda: ik.record(w))


class Masked(nn.Module):
    """Inputs that may hold -infinity (a mask) and NaN (missing values), as is meant."""

    def __init__(self):
        super().__init__()
        self.l = nn.Linear(4, 3)

    def forward(self, x, mask):
        return self.l(torch.nan_to_num(x) * torch.softmax(mask, 1))


def masked(n=16, seed=0):
    x, y = batch(n, seed)
    mask = torch.zeros(n, 4)
    mask[:, 3], x[::3, 1] = -math.inf, math.nan
    return x, mask, y


def test_masks_and_missing_values_are_not_blamed():
    run = ik.record(problem(masked(), masked(8, 1), model=Masked()))
    assert run.attrs["status"] == "complete"
    square = lambda o, t: o.square().sum(1)  # noqa: E731
    w = problem(masked(), masked(8, 1), model=Masked(), loss=square, optimizer=ik.SGD(lr=1e20))
    text = said(lambda: ik.record(w))
    assert "lower the learning rate" in text and "hold" not in text


def test_a_gradient_that_is_not_finite_where_the_losses_are():
    x = torch.zeros(16, 4)
    y = torch.zeros(16, dtype=torch.int64)

    class Norm(nn.Module):
        def __init__(self):
            super().__init__()
            self.l = nn.Linear(4, 3, bias=False)

        def forward(self, x):
            return self.l(x).square().sum(1, keepdim=True).sqrt() + x[:, :3]

    text = said(lambda: ik.record(problem((x, y), (x, y), model=Norm())))
    assert "the losses are finite and their gradient is not; look for log, sqrt" in text


def test_the_loss_of_one_example_alone():
    def loss(o, t):
        return CE(o, t) + torch.where(t == 2, torch.log(o[:, 0] * 0), 0.0)

    x, y = batch()
    y[6] = 2
    text = said(lambda: ik.record(problem((x, y), (x, batch()[1]), loss=loss, shuffle=False)))
    assert "only the loss of example 6 is not finite" in text


def test_a_tape_can_blame_without_running_again():
    x, y = batch()
    losses = torch.zeros(16)
    losses[[2, 7]] = math.nan
    assert "examples 2 and 7 hold NaN" in blamed(with_nan([2, 7]), y, losses, range(16))
    assert "only the loss of examples 2 and 7" in blamed(with_nan([2]), y, losses, range(16))
    assert "example 2 hold NaN" in blamed(with_nan([2]), y, torch.full((16,), math.nan), range(16))
    assert blamed((x, y), y, torch.full((16,), math.nan), range(16)) is None
    assert blamed(with_nan([2]), y, torch.zeros(16), range(16)) is None


# queries ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("estimator", ["dit", "loo", "sgd-influence", "if"])
def test_test_data(estimator):
    run = ik.record(problem(test=with_nan([2, 6], n=8, seed=1)))
    text = said(lambda: ik.estimate(run, "test-loss", estimator))
    assert "the query test-loss is NaN or infinite at state 4" in text
    assert "the inputs of test examples 2 and 6 hold NaN" in text
    assert ik.estimate(run, "prediction:example=1", estimator).influence.values.any()


def test_a_query_with_a_gradient_that_is_not_finite():
    def loss(o, t):
        return CE(o, t) + ((o[:, 0] * 0).abs().sqrt() if (t == 2).any() else 0)

    x, y = batch(8, 1)
    y[3] = 2
    run = ik.record(problem(test=(x, y), loss=loss))
    text = said(lambda: ik.estimate(run))
    assert "the gradient of the query test-loss is NaN or infinite at state 4: look for log, sqrt" in text


def test_other_divergence_is_told_as_before():
    """Retraining without an example may diverge where the query is finite."""
    run = ik.record(problem())

    class Broken(LOO):
        def scores(self, trajectory, query, windows):
            raise DivergedError("as before")

    assert said(lambda: ik.estimate(run, "test-loss", Broken())) == "as before"


# all 0 --------------------------------------------------------------------------------------------------


def all_zero(caution, query="test-loss", estimator="dit", windows=None, removal="global", **more):
    scores = ik.estimate(ik.record(problem(**more)), query, estimator, windows, removal)
    assert not scores.influence.values.any()
    assert f"all scores are exactly 0: {caution}" in scores.attrs["caution"]


def test_scores_that_are_all_zero_say_why():
    all_zero("the learning rate is 0 in every step of the window", optimizer=ik.SGD(lr=0.0))
    constant = nn.Sequential(nn.Linear(4, 3), nn.ReLU())
    with torch.no_grad():
        constant[0].bias.fill_(-100.0)
    all_zero("the query does not depend on what is trained", model=constant)
    vector = torch.zeros(15)
    vector[0] = 1.0
    x, y = batch()
    still = (x, y), lambda o, t: o.clamp(min=100.0).sum(1)
    all_zero(
        "the training loss has no gradient at step 0", FixedVector(vector), train=still[0], loss=still[1]
    )
    x = x.clone()
    x[:, 0] = 0  # the weights of this input are never trained
    all_zero("what training changes in these steps does not reach", FixedVector(vector), train=(x, y))
    scores = ik.estimate(ik.record(problem()))
    assert "caution" not in scores.attrs


def test_a_comparison_says_it_too():
    result = ik.compare(problem(optimizer=ik.SGD(lr=0.0)), estimators=("dit",), reference="loo")
    assert "dit, seed 0: all scores are exactly 0: the learning rate is 0" in result.attrs["caution"]
    assert "loo, seed 0: all scores are exactly 0" in result.attrs["caution"]


def test_a_ceiling_trust_and_leave_k_out_say_nothing_of_effects_that_are_all_zero():
    run = ik.record(problem(optimizer=ik.SGD(lr=0.0)))
    found = ik.ceiling(run, runs=3)
    for name in ("between", "agreement", "loo_again", "rest", "ceiling", "icc", "icc_consistency"):
        assert found[name].isnull().all(), name
    assert "all scores are exactly 0: the learning rate is 0" in found.attrs["caution"]
    beside = ik.compare(run, ["dit"], ceiling=0.001, runs=3)
    assert beside.ceiling.isnull().all() and beside.loo_again.isnull().all()
    for method in ("retrain", "smooth"):
        trusted = ik.trust(run, method=method, windows="horizons")
        assert "nothing can be said of trust: all scores are exactly 0" in trusted.warning
        assert trusted.believed == ""
    (groups,) = ik.evaluate(run, "leave-k-out:groups=4:runs=3").values()
    assert groups.covered.isnull().all()
    moving = ik.ceiling(ik.record(problem()), runs=2)
    assert moving.agreement.notnull().all() and "caution" not in moving.attrs


# labels and tokens that do not exist ----------------------------------------------------------------------


@pytest.mark.parametrize("part", ["train", "test"])
@pytest.mark.parametrize("label", [3, -1])
def test_labels_that_do_not_exist(part, label):
    x, y = batch(32)
    y[[4, 5]] = -100  # meant
    y[17] = label
    w = problem(**{part: (x, y)}, epochs=1)
    text = said(lambda: ik.record(w), InputError)
    assert (
        f"{part}, example 17, holds a label or a position that does not exist (Target {label} is out" in text
    )


def test_ignored_labels_and_numbers_are_admitted():
    x, y = batch()
    y[3] = -100
    ik.record(problem((x, y)))
    one = lambda o, t: F.one_hot(t, 3).sub(o).square().sum(1)  # noqa: E731
    ik.record(problem(loss=one))
    y[3] = 7
    assert "example 3, holds a label" in said(lambda: ik.record(problem((x, y), loss=one)), InputError)
    ik.record(
        problem(
            (x, y), model=nn.Linear(4, 1), loss=lambda o, t: (o[:, 0] - t) ** 2, optimizer=ik.SGD(lr=0.01)
        )
    )


def test_tokens_that_do_not_exist():
    class Bag(nn.Module):
        def __init__(self):
            super().__init__()
            self.emb, self.l = nn.Embedding(10, 4), nn.Linear(4, 3)

        def forward(self, x):
            return self.l(self.emb(x).mean(1))

    tokens = torch.randint(0, 10, (16, 5), generator=torch.Generator().manual_seed(0))
    y = batch()[1]
    w = problem((tokens, y), (tokens, y), model=Bag())
    ik.record(w)
    tokens[11, 2] = 10
    text = said(lambda: ik.record(problem((tokens, y), (tokens, y), model=Bag())), InputError)
    assert "train, example 11, holds a label or a position that does not exist" in text


def test_a_test_set_of_another_form_is_refused_before_training():
    x, y = batch(8, 1)
    text = said(lambda: ik.record(problem(test=(x[:, :3], y))), InputError)
    assert "test, example 0, cannot be used: the model or the loss fails (RuntimeError: mat1 and mat2" in text


def test_an_adjoint_that_outgrows_floating_point_says_so():
    """Every step doubles a deviation from the parameter 0, where training rests: 2 ** 200 is no float32."""
    x = torch.ones(4, 1)
    model = nn.Linear(1, 1, bias=False)
    nn.init.zeros_(model.weight)
    workload = ik.Workload(
        model=model, loss=lambda o, y: 1.5 * o[:, 0].square(), train=(x, x[:, 0]), test=(x, x[:, 0]),
        optimizer=ik.SGD(lr=1.0), epochs=200, batch_size=4,
    )  # fmt: skip
    run = ik.record(workload)
    assert run.final.theta.eq(0).all()
    for steps in (100, 200):
        query, window = FixedVector(torch.ones(1)), [ik.Window(0, steps)]
        if steps == 100:
            assert ik.estimate(run, query, "dit", window).influence.values.tolist() == [[[0.0] * 4]]
        else:
            text = said(lambda query=query, window=window: ik.estimate(run, query, "dit", window))
            assert "contributions of this run grew beyond floating point" in text
