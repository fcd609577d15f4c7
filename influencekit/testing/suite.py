"""Which laws hold for which object, and the ways to run them: all at once, or as tests of pytest."""

import dataclasses
import warnings
from collections.abc import Callable, Sequence
from typing import Any

from influencekit._arguments import short
from influencekit.errors import InputError
from influencekit.interfaces import Claim, Estimator, Evaluation, Query, Recorder
from influencekit.registry import label, make, names, resolve, spec
from influencekit.testing.estimators import ESTIMATOR_LAWS
from influencekit.testing.evaluations import EVALUATION_LAWS
from influencekit.testing.parts import PARTS_LAWS
from influencekit.testing.queries import QUERY_LAWS
from influencekit.testing.recorders import RECORDER_LAWS
from influencekit.testing.taped import TAPED_LAWS

__all__ = [
    "check_estimator",
    "check_evaluation",
    "check_query",
    "check_recorder",
    "laws",
    "parametrize_with_checks",
]

Subject = Estimator | Query | Recorder | Evaluation
Law = Callable[[Any], None]

_KINDS: dict[str, type] = {
    "estimator": Estimator,
    "query": Query,
    "recorder": Recorder,
    "evaluation": Evaluation,
}


def check_estimator(estimator: Estimator | str) -> list[str]:
    """Test every law that the estimator claims. Raises AssertionError, which begins with the law's name.

    Takes an object or a spec. Returns the names of the laws that ran. Warns for an estimator that claims
    neither FIRST_ORDER nor EXACT: no law tested the sign and the size of its scores. Cost: seconds; the
    Taylor test runs first.

    Example:

        >>> import influencekit as ik
        >>> from dataclasses import dataclass
        >>> from influencekit.testing import check_estimator
        >>> @dataclass(frozen=True)
        ... class Nothing(ik.Estimator):
        ...     claims = frozenset({ik.Claim.LINEAR, ik.Claim.FIRST_ORDER})
        ...     def scores(self, trajectory, query, windows):
        ...         n = len(query.labels(trajectory.workload))
        ...         return trajectory.workload.theta0.new_zeros(n, len(windows), trajectory.workload.n_train)
        >>> try:
        ...     check_estimator(Nothing())
        ... except AssertionError as error:
        ...     print("derivative" in str(error))
        True
    """
    return _check("estimator", estimator)


def check_query(query: Query | str) -> list[str]:
    """Test every law of queries: labels, gradient, vmap, purity. Raises AssertionError naming the law.

    Takes an object or a spec. Returns the names of the laws that ran. Cost: seconds.

    Example:

        >>> from influencekit.testing import check_query
        >>> "gradient_equals_central_differences" in check_query("test-loss")
        True
    """
    return _check("query", query)


def check_recorder(recorder: Recorder | str) -> list[str]:
    """Test every law of recorders: kept states, replay, windows. Raises AssertionError naming the law.

    Takes an object or a spec. Returns the names of the laws that ran. Cost: seconds.

    Example:

        >>> from influencekit.testing import check_recorder
        >>> len(check_recorder("every-k:k=3")) > 1
        True
    """
    return _check("recorder", recorder)


def check_evaluation(evaluation: Evaluation | str) -> list[str]:
    """Test every law of evaluations: labels, seeds, tables, saving. Raises AssertionError naming the law.

    Takes an object or a spec. Returns the names of the laws that ran. Cost: seconds.

    Example:

        >>> from influencekit.testing import check_evaluation
        >>> "twice_is_the_same" in check_evaluation("lds:m=4")
        True
    """
    return _check("evaluation", evaluation)


def laws(subject: Subject) -> list[Law]:
    """The laws that hold for an object, each a function of it: for an estimator, those that it claims.

    Example:

        >>> import influencekit as ik
        >>> from influencekit.testing import laws
        >>> len(laws(ik.make("query", "test-loss"))) > 3
        True
    """
    if isinstance(subject, Estimator):
        return [
            *(
                law
                for some in (ESTIMATOR_LAWS, PARTS_LAWS)
                for law, claims in some.items()
                if claims <= subject.claims
            ),
            TAPED_LAWS[Estimator],
            written_as_a_spec,
        ]
    if isinstance(subject, Query):
        return [*QUERY_LAWS, TAPED_LAWS[Query], written_as_a_spec]
    if isinstance(subject, Recorder):
        return [*RECORDER_LAWS, TAPED_LAWS[Recorder], written_as_a_spec]
    if isinstance(subject, Evaluation):
        return [*EVALUATION_LAWS, TAPED_LAWS[Evaluation], written_as_a_spec]
    if isinstance(subject, type):
        raise InputError(f"expected an object, got the class {subject.__name__}; write {subject.__name__}()")
    raise InputError(f"expected an estimator, a query, a recorder or an evaluation, got {short(subject)}")


def parametrize_with_checks(subjects: Sequence[Subject | str]) -> Any:
    """A pytest decorator: the test gets every pair (subject, check) of an object and a law that it claims.

    Subjects are objects or specs; a name that several kinds share must be given as an object. The decorated
    test takes arguments `subject` and `check` and calls `check(subject)`.

    Example:

        >>> from influencekit.testing import parametrize_with_checks
        >>> @parametrize_with_checks(["every-k:k=3"])
        ... def test_conformance(subject, check):
        ...     check(subject)
    """
    import pytest

    objects = [_object(s) for s in subjects]
    pairs = [(thing, law) for thing in objects for law in laws(thing)]
    words = [f"{label(thing)}-{getattr(law, '__name__', law)}" for thing, law in pairs]
    return pytest.mark.parametrize(("subject", "check"), pairs, ids=words)


def written_as_a_spec(subject: Subject) -> None:
    """A frozen dataclass; if its class is registered and its options have text forms, make(spec(x)) == x."""
    law = "written as a spec"
    parameters = getattr(type(subject), "__dataclass_params__", None)
    if parameters is None or not parameters.frozen:
        raise AssertionError(f"{law}: {type(subject).__name__} is not a frozen dataclass")
    if type(subject).__hash__ is None:
        raise AssertionError(f"{law}: {type(subject).__name__} is not hashable")
    try:
        text = spec(subject)
    except InputError:
        return  # not registered, or it holds a tensor
    kind = next(kind for kind, cls in _KINDS.items() if isinstance(subject, cls))
    again = make(kind, text)
    if dataclasses.asdict(again) != dataclasses.asdict(subject) or spec(again) != text:  # type: ignore[call-overload]
        raise AssertionError(f"{law}: '{text}' makes {again!r}, expected {subject!r}")


def _object(subject: Subject | str) -> Subject:
    if not isinstance(subject, str):
        return subject
    name = subject.partition(":")[0]
    kinds = [kind for kind in _KINDS if name in names(kind)]
    if len(kinds) > 1:
        raise InputError(f"'{name}' is the name of {' and of '.join(kinds)}; pass the object itself")
    return make(kinds[0] if kinds else "estimator", subject)


def _check(kind: str, given: Any) -> list[str]:
    subject: Any = resolve(kind, given)
    tested = laws(subject)  # type: ignore[arg-type]
    for law in tested:
        law(subject)
    if isinstance(subject, Estimator) and not subject.claims & {Claim.FIRST_ORDER, Claim.EXACT}:
        warnings.warn(
            f"{label(subject)} claims neither FIRST_ORDER nor EXACT: no law tested the sign and the size of "
            "its scores; compare them with loo",
            stacklevel=3,
        )
    return [getattr(law, "__name__", str(law)) for law in tested]
