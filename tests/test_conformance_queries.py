"""What the conformance suite finds in queries and recorders that are wrong, and what it takes."""

from dataclasses import dataclass

import pytest
import torch
from helpers_conformance import law_named
from torch import Tensor

from influencekit import InputError, Query, Recorder, make
from influencekit.testing import check_query, check_recorder, laws, parametrize_with_checks


@dataclass(frozen=True)
class WrongQuery(Query):
    """A mean test loss with a fault."""

    fault: str

    def labels(self, workload):
        return ["loss", "loss"] if self.fault == "labels" else ["loss"]

    def evaluate(self, workload, theta):
        value = workload.losses(theta, workload.test).mean(0, keepdim=True)
        if self.fault == "vmap" and value.item() < 0:
            return -value
        return value.double() if self.fault == "dtype" else value

    def at(self, workload, theta):
        if self.fault == "at":
            return lambda moved: self.evaluate(workload, moved) + theta.sum()
        return super().at(workload, theta)

    def gradient(self, workload, theta):
        scale = workload.n_test if self.fault == "gradient" else 1
        return (
            scale * super().gradient(workload, theta)
            if self.fault != "vmap"
            else torch.zeros_like(theta)[None]
        )


@pytest.mark.parametrize(
    ("fault", "law"),
    [
        ("labels", "labels are unique"),
        ("dtype", "labels are unique and match the values: .* torch.float32 parameters gave"),
        ("gradient", "gradient equals central differences"),
        ("at", "at the recorded parameters"),
    ],
)
def test_a_wrong_query_is_found(fault, law):
    with pytest.raises(AssertionError, match=f"^{law}"):
        check_query(WrongQuery(fault))


def test_a_query_that_cannot_be_mapped_is_found():
    with pytest.raises(AssertionError, match="^vmap over parameters"):
        law_named(WrongQuery("vmap"), "vmap_over_parameters_equals_a_loop")(WrongQuery("vmap"))


@dataclass(frozen=True)
class OfTargets(Query):
    """Written without a thought of runs that have no test set."""

    careless: str = ""

    def labels(self, workload):
        return ["mean target"]

    def evaluate(self, workload, theta):
        batch = workload.test
        count = batch.shape[0] if self.careless and isinstance(batch, Tensor) else 0
        if self.careless and not isinstance(batch, Tensor):
            count = next(iter(batch.values() if isinstance(batch, dict) else batch)).shape[0]
        value = workload.target(batch).double().mean().to(theta) * theta.sum() + count
        return value.item() if self.careless == "float" else value[None]


def test_a_query_without_a_test_set_is_refused_in_one_line():
    check_query(OfTargets())  # `target` refuses
    with pytest.raises(AssertionError, match="^a missing test set is refused in one line: .*TypeError"):
        check_query(OfTargets("count"))


def test_a_query_that_takes_batches_for_tuples_is_told_what_to_ask():
    with pytest.raises(AssertionError, match="^a result or one line: three classes in dicts: .* .target"):
        check_query(Unpacking())


def test_a_query_that_fails_on_a_taped_run_is_told_what_to_ask():
    with pytest.raises(AssertionError, match="^queried on taped runs: a taped run with dicts: TypeError"):
        law_named(Unpacking(), "queried_on_taped_runs")(Unpacking())


def test_a_query_that_returns_a_number_is_named():
    with pytest.raises(AssertionError, match=r"values must be a tensor \[query\], got float"):
        check_query(OfTargets("float"))


@dataclass(frozen=True)
class Unpacking(Query):
    """Mean loss of a class, by someone who has seen tuples only."""

    def labels(self, workload):
        return ["class"]

    def evaluate(self, workload, theta):
        target = workload.test[-1] if isinstance(workload.test, tuple) else list(workload.test)[-1]
        return workload.losses(theta, workload.test)[target + 0 == 0].mean()[None]


@dataclass(frozen=True)
class WrongRecorder(Recorder):
    def stored_states(self, start, stop):
        return range(start + 1, stop + 1)


def test_a_wrong_recorder_is_found():
    with pytest.raises(AssertionError, match="^kept states"):
        check_recorder(WrongRecorder())


def test_the_checks_take_specs_and_refuse_other_kinds():
    check_recorder("every-k:k=2")
    with pytest.raises(InputError, match="expected an object of a subclass of influencekit.Query"):
        check_query(make("recorder", "full"))
    for check in (check_query, laws, lambda cls: parametrize_with_checks([cls])):
        with pytest.raises(
            InputError, match=r"expected an object, got the class WrongQuery; write WrongQuery\(\)"
        ):
            check(WrongQuery)
    with pytest.raises(InputError, match="no estimator named"):
        parametrize_with_checks(["dti"])
