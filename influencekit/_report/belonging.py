"""What a report is given must be of the question that its scores answer: run, query, average, window."""

from __future__ import annotations

import xarray as xr

from influencekit._labelled import check_run
from influencekit._report.scores import exact, figure_of, span_of
from influencekit._trajectory.identity import identity
from influencekit._trajectory.trajectory import Trajectory
from influencekit._verbs.averaging import asked
from influencekit._verbs.results import windows_of
from influencekit.errors import InputError
from influencekit.windows import Window

__all__ = ["check_asked", "check_points", "check_retrained", "check_trust"]

_LAST = "last"  # what is asked where nothing is said


def check_asked(run: Trajectory, scores: xr.Dataset) -> None:
    """Errors: `average=` is not the average that the scores are of."""
    mine, theirs = asked(run).get("average", _LAST), scores.attrs.get("average", _LAST)
    if mine != theirs:
        raise InputError(
            f"report: average={mine}, and the scores are of {theirs}; leave average= out, or estimate anew"
        )


def check_retrained(who: str, run: Trajectory, scores: xr.Dataset, each: xr.Dataset) -> None:
    """Errors: nothing was retrained, or it is of another run, query, average or window than the scores."""
    figure_of(who, each)
    check_run(each.attrs.get("run"), identity(run))
    if [str(q) for q in each["query"].values.tolist()] != [str(q) for q in scores["query"].values.tolist()]:
        raise InputError(f"{who}: it is of other queries than the scores; retrain for the same query")
    _same_query(who, scores, each)
    _same_average(who, scores, each)
    _same_window(who, scores, each)


def check_trust(run: Trajectory, scores: xr.Dataset, trust: xr.Dataset) -> None:
    """Errors: trust of another run, query, average or estimator, or in windows that do not cover the
    scores'; of an older version, which did not say what it is of."""
    who = "report: trust"
    if missing := [name for name in ("run", "estimator", "query") if name not in trust.attrs]:
        raise InputError(
            f"{who}: it does not say its {missing[0]}, so it may be of other scores; make it anew"
        )
    check_run(trust.attrs["run"], identity(run))
    _same_query(who, scores, trust)
    _same_average(who, scores, trust)
    if trust.attrs["estimator"] != scores.attrs.get("estimator"):
        raise InputError(
            f"{who}: it is of {trust.attrs['estimator']}, and the scores are of "
            f"{scores.attrs.get('estimator')}; ask trust(run, query, scores)"
        )
    theirs = windows_of(trust)
    joined = span_of(trust)[0]
    looked = [*theirs, *([] if joined is None else [joined])]
    if lost := [w for w in windows_of(scores) if not any(_covers(one, w) for one in looked)]:
        raise InputError(
            f"{who}: it is of {span_of(trust)[1]}, and the scores also of {lost[0]}, {lost[0].removal} "
            "removal; ask trust(run, query, scores)"
        )


def check_points(scores: xr.Dataset, points: xr.Dataset) -> None:
    """Errors: scores of test examples of another average, window or estimator; an exact one is welcome."""
    who = "report: points"
    _same_average(who, scores, points)
    _same_window(who, scores, points)
    theirs, mine = points.attrs.get("estimator"), scores.attrs.get("estimator")
    if theirs != mine and not exact(theirs):
        raise InputError(
            f"{who}: it is of {theirs}, and the scores are of {mine}; take the same estimator, or one that "
            "retrains"
        )


def _covers(one: Window, other: Window) -> bool:
    return one.removal == other.removal and one.start <= other.start and other.stop <= one.stop


def _same_query(who: str, scores: xr.Dataset, each: xr.Dataset) -> None:
    mine = scores.attrs.get("query")
    if each.attrs.get("query", mine) != mine:
        raise InputError(f"{who}: it is of the query {each.attrs['query']}, and the scores of {mine}")


def _same_average(who: str, scores: xr.Dataset, each: xr.Dataset) -> None:
    theirs, mine = each.attrs.get("average", _LAST), scores.attrs.get("average", _LAST)
    if theirs != mine:
        raise InputError(
            f"{who}: it is asked of the average {theirs}, and the scores of {mine}; take the same average"
        )


def _same_window(who: str, scores: xr.Dataset, each: xr.Dataset) -> None:
    theirs, mine = span_of(each), span_of(scores)
    if theirs[0] != mine[0] or (mine[0] is None and windows_of(each) != windows_of(scores)):
        raise InputError(f"{who}: it is of {theirs[1]}, and the scores of {mine[1]}; take the same windows")
