"""The laws of queries: with one logit, three classes in dicts, no labels at all, and losses by part."""

from collections.abc import Callable, Iterator
from copy import copy
from functools import cache

import torch
from torch import Tensor
from torch.func import vmap

from influencekit._training.workload import Workload
from influencekit.errors import InputError
from influencekit.interfaces import Query
from influencekit.testing.oracle import tiny_workload
from influencekit.testing.parts import parted_workload
from influencekit.testing.setting import ASK
from influencekit.testing.untouched import untouched

__all__ = ["QUERY_LAWS"]


@cache
def _problems() -> dict[str, Workload]:
    return {
        "one logit": tiny_workload(),
        "three classes in dicts": tiny_workload(classes=3, batches="dict"),
        "an autoencoder": tiny_workload(batches="tensor"),
        "losses by part": parted_workload(),
    }


def accepted(query: Query) -> Iterator[tuple[str, Workload, Tensor]]:
    """(name, workload, some parameters [point, param]) of the problems that the query does not refuse."""
    refusals = []
    for k, (name, workload) in enumerate(_problems().items()):
        try:
            query.labels(workload)
            values = query.evaluate(workload, workload.theta0)
        except InputError as refusal:
            refusals.append(f"{name}: {refusal}")
            continue
        except Exception as error:
            first = (str(error).splitlines() or [""])[0]
            raise AssertionError(
                f"a result or one line: {name}: {type(error).__name__}: {first}; {ASK}, or raise InputError"
            ) from error
        if not isinstance(values, Tensor):
            raise AssertionError(
                f"labels are unique and match the values: {name}: values must be a tensor [query], got "
                f"{type(values).__name__}; stack them, or write value[None]"
            )
        noise = torch.randn(
            3, workload.n_params, generator=torch.Generator().manual_seed(k), dtype=workload.dtype
        )
        yield name, workload, workload.theta0 + 0.2 * noise
    if len(refusals) == len(_problems()):
        raise AssertionError(
            f"accepted by some problem: the query refused all of them ({'; '.join(refusals)})"
        )


def labels_are_unique_and_match_the_values(query: Query) -> None:
    """As many labels as values [query], all hashable and different; values in the parameters' dtype."""
    law = "labels are unique and match the values"
    for name, workload, thetas in accepted(query):
        labels = list(query.labels(workload))
        values = query.evaluate(workload, thetas[0])
        if values.shape != (len(labels),) or len(set(labels)) != len(labels):
            raise AssertionError(f"{law}: {name}: labels {labels} for values of shape {list(values.shape)}")
        for dtype in (torch.float64, torch.float32):
            found = query.evaluate(workload.to(dtype=dtype), thetas[0].to(dtype)).dtype
            if found != dtype:
                raise AssertionError(f"{law}: {name}: {dtype} parameters gave {found} values")


def gradient_equals_central_differences(query: Query) -> None:
    """gradient(theta) [query, param] against (at(theta + h e) - at(theta - h e)) / 2h, h = 1e-5, in float64.

    The differences are good to about h squared and 1e-16 / h, hence the tolerance of 1e-7.
    """
    law, h = "gradient equals central differences", 1e-5
    for name, workload, thetas in accepted(query):
        for theta in thetas:
            at = query.at(workload, theta)
            moves = h * torch.eye(len(theta), dtype=theta.dtype)
            expected = torch.stack([(at(theta + e) - at(theta - e)) / (2 * h) for e in moves], 1).detach()
            with torch.no_grad():
                found = query.gradient(workload, theta)
            if found.shape != expected.shape:
                shapes = f"{list(found.shape)}, expected [query, param] = {list(expected.shape)}"
                raise AssertionError(f"{law}: {name}: shape {shapes}")
            error = (found - expected).abs().max().item() / max(expected.abs().max().item(), 1.0)
            if not error <= 1e-7:
                raise AssertionError(f"{law}: {name}: off by {error:.1e}")


def at_the_recorded_parameters_equals_evaluate(query: Query) -> None:
    """at(theta)(theta) is evaluate(theta)."""
    for name, workload, thetas in accepted(query):
        found, expected = query.at(workload, thetas[0])(thetas[0]), query.evaluate(workload, thetas[0])
        if not torch.allclose(found, expected, rtol=1e-12, atol=1e-14):
            raise AssertionError(
                f"at the recorded parameters equals evaluate: {name}: {found} and {expected}"
            )


def vmap_over_parameters_equals_a_loop(query: Query) -> None:
    """Leave-one-out evaluates hundreds of models at once: vmap must give what a loop gives, to rounding."""
    for name, workload, thetas in accepted(query):
        at = query.at(workload, thetas[0])
        with torch.no_grad():
            expected = torch.stack([at(theta) for theta in thetas])
            try:
                found = vmap(at)(thetas)
            except Exception as reason:
                first = (str(reason).splitlines() or [""])[0]
                raise AssertionError(
                    f"vmap over parameters: {name}: {type(reason).__name__}: {first}"
                ) from reason
        if not torch.allclose(found, expected, rtol=1e-10, atol=1e-12):
            raise AssertionError(
                f"vmap over parameters equals a loop: {name}: off by {(found - expected).abs().max()}"
            )


def a_missing_test_set_is_refused_in_one_line(query: Query) -> None:
    """A run may be opened without a test set: the query does without it, or raises `InputError`."""
    for name, workload, thetas in accepted(query):
        without = copy(workload)
        object.__setattr__(without, "test", None)  # as `influencekit.open` makes it
        try:
            query.labels(without)
            query.evaluate(without, thetas[0])
        except InputError:
            continue
        except Exception as reason:
            raise AssertionError(
                f"a missing test set is refused in one line: {name}: {type(reason).__name__}: {reason}; ask "
                "`workload.target`, `outputs` or `losses` first, which refuse it"
            ) from reason


def pure(query: Query) -> None:
    """Twice the same bits; model, data, random state, dtypes, gradient and train/eval mode untouched."""
    for name, workload, thetas in accepted(query):
        with untouched("pure", workload):
            twice = [
                (
                    query.evaluate(workload, thetas[1]),
                    query.gradient(workload, thetas[1]),
                    query.labels(workload),
                )
                for _ in range(2)
            ]
        (values, gradient, labels), (again, gradient_again, labels_again) = twice
        same = torch.equal(values, again) and torch.equal(gradient, gradient_again)
        if not same or list(labels) != list(labels_again):
            raise AssertionError(f"pure: {name}: the second call gave something else")


QUERY_LAWS: list[Callable[[Query], None]] = [
    labels_are_unique_and_match_the_values,
    gradient_equals_central_differences,
    at_the_recorded_parameters_equals_evaluate,
    vmap_over_parameters_equals_a_loop,
    a_missing_test_set_is_refused_in_one_line,
    pure,
]
