"""Every built-in estimator, query and recorder passes the public suite; wrong ones that look right fail."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import pytest
import torch
from helpers_conformance import law_named
from torch import Tensor
from torch.func import hessian, jacrev

from influencekit import SGD, Claim, Estimator, InputError, Query, Trajectory, Window, make
from influencekit.estimators.dit import DIT
from influencekit.extend import select
from influencekit.registry import describe
from influencekit.testing import check_estimator, laws, parametrize_with_checks
from influencekit.testing.estimators import recorded

N_PARAMS = recorded("sgd").workload.n_params
VECTOR = make(
    "query", "vector", vector=torch.linspace(-1, 1, 2 * N_PARAMS, dtype=torch.float64).view(2, -1).cos()
)
# a fixed vector fits one model only; the other laws of queries ask several, so it is tested by itself below;
# the mean over 8 runs takes long, and that over 2 is tested instead
# what plugins add, their own tests test
INSTALLED = [
    make(row.kind, row.name)
    for kind in ("estimator", "query", "recorder")
    for row in describe(kind)
    if row.provider == "built-in" and row.name not in ("vector", "expected-loo")
]
VARIANTS = [
    "dit:curvature=gauss-newton",
    "dit:centre=0.5",
    "loo:examples=3:strategy=loop",
    "expected-loo:runs=2:moved=0.01",
    "if:solver=cg:tolerance=1e-13",  # the laws ask for more digits than its default tolerance gives
    "prediction:example=3",
    "parameter:index=7",
    "feature-importance:example=2:feature=1",
    "every-k:k=4",
]


@parametrize_with_checks([*INSTALLED, VECTOR, *VARIANTS])
def test_everything_built_in_conforms(subject, check):
    check(subject)


# planted bugs -------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Slow(Estimator):
    """DIT forward in time with dense Hessians, Eq. 14 and 19: right, but for a planted `fault`."""

    fault: str = ""
    claims_made: tuple[Claim, ...] = (Claim.FIRST_ORDER, Claim.LINEAR, Claim.LOCAL, Claim.WINDOWED)

    @property
    def claims(self) -> frozenset[Claim]:
        return frozenset(self.claims_made)

    def scores(self, trajectory: Trajectory, query: Query, windows: Sequence[Window]) -> Tensor:
        if replace(trajectory.workload.optimizer, lr=0.1) != SGD(lr=0.1):
            raise InputError("slow: plain SGD only")
        steps = [self._derivatives(trajectory, t) for t in range(trajectory.steps)]
        gradients = [
            query.gradient(trajectory.workload, trajectory.state(t).theta) for t in range(len(steps) + 1)
        ]
        if self.fault == "every window from the final gradient":
            gradients = gradients[-1:] * len(gradients)
        return torch.stack([self._window(trajectory, steps, gradients, w) for w in windows], 1)

    def _derivatives(self, trajectory: Trajectory, t: int) -> tuple[Tensor, Tensor]:
        """lr H [param, param] and lr g_j / b [train, param] of one step."""
        workload, theta = trajectory.workload, trajectory.state(t).theta
        rows, lr = trajectory.plan.batch(t), trajectory.plan.lrs(t)[0]
        batch = workload.examples(rows)

        def losses(theta: Tensor) -> Tensor:
            return workload.losses(theta, batch) + 0.5 * workload.l2 * theta @ theta

        b = len(rows)
        scale = {"Hessian dropped": 0.0, "Hessian times batch size": b, "sum instead of mean": b}.get(
            self.fault, 1.0
        )
        g = jacrev(losses)(theta)
        if self.fault == "no penalty":
            g = g - workload.l2 * theta
        if self.fault == "depends on example order":
            g = g * (1 + 1e-6 * rows[:, None])
        divisor = {"no 1/b": 1, "sum instead of mean": 1, "full batch size in a short batch": 4}.get(
            self.fault, b
        )
        shares = g.new_zeros(workload.n_train, len(theta)).index_add(0, rows, lr / divisor * g)
        return lr * scale * hessian(lambda theta: losses(theta).mean())(theta), shares

    def _window(self, trajectory: Trajectory, steps: list, gradients: list[Tensor], window: Window) -> Tensor:
        if self.fault == "global removal in the window only" and window.removal == "global":
            window = replace(window, removal="window")
        start, stop = window.absent()
        late = 1 if self.fault == "window off by one" else 0
        signs = window.evaluations(trajectory.steps)
        D = torch.zeros_like(steps[0][1])
        total = torch.zeros(len(gradients[0]), len(D), dtype=torch.float64)
        for t in range(trajectory.steps + 1):
            total = total + signs.get(t, 0) * gradients[t] @ D.T
            if t < trajectory.steps:
                D = D - D @ steps[t][0] + (steps[t][1] if start + late <= t < stop + late else 0.0)
        return -total if self.fault == "wrong sign" else total


def test_the_slow_and_right_one_conforms():
    check_estimator(Slow())


@pytest.mark.parametrize(
    "fault",
    [
        "wrong sign",
        "no 1/b",
        "sum instead of mean",
        "window off by one",
        "every window from the final gradient",
        "global removal in the window only",
        "Hessian dropped",
        "Hessian times batch size",
        "full batch size in a short batch",
        "no penalty",
    ],
)
def test_a_planted_bug_is_found_by_the_taylor_test_and_the_oracle(fault):
    for law in ("taylor_test", "equals_autodiff_through_the_unrolled_run"):
        with pytest.raises(AssertionError):
            law_named(Slow(fault), law)(Slow(fault))


@pytest.mark.parametrize(
    ("fault", "law"),
    [
        # a millionth of a share is below the Taylor test's smallest remainder; the oracle sees it
        ("depends on example order", "equals_autodiff_through_the_unrolled_run"),
        ("depends on example order", "unchanged_by_relabelling"),
        ("window off by one", "zero_for_an_unvisited_example"),
        ("global removal in the window only", "additive_over_adjoining_windows"),
        ("Hessian dropped", "equals_retraining_where_first_order_is_exact"),
    ],
)
def test_a_planted_bug_is_found_by_the_law_it_breaks(fault, law):
    with pytest.raises(AssertionError):
        law_named(Slow(fault), law)(Slow(fault))


@dataclass(frozen=True)
class OnTapes(Estimator):
    """What an author does with the training set of a taped run; elsewhere right."""

    how: str
    claims = frozenset()

    def scores(self, trajectory: Trajectory, query: Query, windows: Sequence[Window]) -> Tensor:
        workload = trajectory.workload
        on_tape = not isinstance(workload.train, tuple | dict)
        if self.how == "select":
            select(workload.train, torch.arange(2))
        elif self.how == "unpack":
            _, _ = workload.train
        elif self.how == "index":
            workload.train[0]
        elif self.how == "target":
            workload.examples(torch.arange(2))["y"]
        elif self.how == "refuse" and on_tape:
            raise InputError("ontapes: expected tensors; record the run in memory")
        elif self.how == "refuse at length" and on_tape:
            raise InputError("ontapes: expected tensors\nrecord the run in memory")
        scores = Slow().scores(trajectory, query, windows)
        return scores * (1.1 if self.how == "another number" and on_tape else 1)


@pytest.mark.parametrize(
    ("how", "said"),
    [
        ("select", r"a taped run with dicts: .* ask workload.examples\(rows\)"),
        ("unpack", r"a taped run with dicts: .* ask workload.examples\(rows\)"),
        ("index", r"a taped run with dicts: .* ask workload.examples\(rows\)"),
        ("target", r"a taped run with dicts: KeyError: 'y'; ask workload.examples\(rows\), .target\(batch\)"),
        ("refuse at length", "refused in 2 lines, expected one"),
        ("another number", "off by 1.00e-01"),
    ],
)
def test_an_estimator_that_fails_on_a_taped_run_is_told_what_to_ask(how, said):
    with pytest.raises(AssertionError, match=f"^scored on taped runs: .*{said}"):
        law_named(OnTapes(how), "scored_on_taped_runs")(OnTapes(how))


def test_an_estimator_may_refuse_a_taped_run_in_one_line():
    law_named(OnTapes("refuse"), "scored_on_taped_runs")(OnTapes("refuse"))


@dataclass(frozen=True)
class LateShares(DIT):
    """Its contributions are those of the next slot's example."""

    def contributions(self, trajectory, query, states):
        for part in super().contributions(trajectory, query, states):
            yield part._replace(values=part.values.roll(1, -1))


def test_contributions_that_do_not_add_up_to_the_scores_are_found():
    with pytest.raises(AssertionError, match="^contributions add up"):
        law_named(LateShares(), "contributions_add_up")(LateShares())


def test_the_checks_raise_and_name_the_law():
    with pytest.raises(AssertionError, match="^Taylor test: sgd: the remainder falls with slope 1.0"):
        check_estimator(Slow("Hessian times batch size"))


@dataclass(frozen=True)
class Heuristic(Estimator):
    """Claims nothing that fixes the sign."""

    shape: str = "qwt"
    claims = frozenset()

    def scores(self, trajectory, query, windows):
        scores = -DIT().scores(trajectory, query, windows)
        return {"qwt": scores, "qt": scores[:, 0], "list": scores.tolist()}[self.shape]


def test_the_checks_say_which_laws_ran_and_what_was_not_tested():
    with pytest.warns(UserWarning, match="claims neither FIRST_ORDER nor EXACT: no law tested the sign"):
        ran = check_estimator(Heuristic())
    assert ran == [law.__name__ for law in laws(Heuristic())] and "taylor_test" not in ran


@pytest.mark.parametrize(("shape", "came"), [("qt", r"got torch.float64 \[\d+, \d+\]"), ("list", "got list")])
def test_scores_of_a_wrong_shape_are_named(shape, came):
    with pytest.raises(AssertionError, match=rf"^labelled: .*\[query, window, train\].*{came}"):
        check_estimator(Heuristic(shape))


def test_an_estimator_that_claims_exactness_must_be_exact():
    with pytest.raises(AssertionError, match="^equals retraining"):
        check_estimator(Slow(claims_made=(Claim.EXACT,)))


@dataclass(frozen=True)
class Touching(Estimator):
    """Right, but careless with what it was given."""

    what: str
    claims = frozenset()

    def scores(self, trajectory: Trajectory, query: Query, windows: Sequence[Window]) -> Tensor:
        model = trajectory.workload.model
        if self.what == "train/eval mode":
            model.eval()
        elif self.what == "torch's random state":
            torch.randn(1)
        elif self.what == "the model's parameters":
            with torch.no_grad():
                next(model.parameters()).mul_(1.001)
        elif self.what == "the training data":
            trajectory.workload.train[0].mul_(1.001)
        scores = Slow().scores(trajectory, query, windows)
        if self.what == "other bits":
            generator = torch.Generator()
            generator.seed()
            scores = scores * (1 + 1e-9 * torch.rand(1, generator=generator, dtype=scores.dtype))
        return scores


@pytest.mark.parametrize(
    "what",
    ["train/eval mode", "torch's random state", "the model's parameters", "the training data", "other bits"],
)
def test_an_estimator_that_touches_something_is_found(what):
    recorded.cache_clear()  # it spoils the recorded run
    try:
        with pytest.raises(AssertionError, match=f"pure: .*{what}"):
            law_named(Touching(what), "pure")(Touching(what))
    finally:
        recorded.cache_clear()
