"""From results to the record of a report: which examples are shown, and the numbers beside them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import xarray as xr

from influencekit._direction import better_in
from influencekit._report.belonging import check_asked, check_retrained, check_trust
from influencekit._report.contents import Show, check_show, columns_of, contents_and_range
from influencekit._report.curve import curve_of
from influencekit._report.issues import Issues, issues_of
from influencekit._report.marks import Remarks, marks_of
from influencekit._report.part_scores import PartNames, check_parts, parts_of
from influencekit._report.patterns import fewer, patterns
from influencekit._report.pictures import Range
from influencekit._report.points import linked, points_of, scored_points
from influencekit._report.predictions import judged
from influencekit._report.record import Agreement, Content, Example, Record, Retrained
from influencekit._report.repeated import joined_ceiling
from influencekit._report.scores import Verified, check_scores, combined, span_of, verified_by
from influencekit._report.words import counted, facts, made, trust_facts, trust_warnings, words_of
from influencekit._training.batch import Batch
from influencekit._trajectory.fingerprint import digest
from influencekit._trajectory.trajectory import Trajectory
from influencekit._verbs.averaging import averaged_as
from influencekit._verbs.results import class_labels, examples
from influencekit.metrics import METRICS, agreement

__all__ = ["Given", "build"]

ROWS = 10_000  # examples with numbers on the page; of more, the ends and a sample
_PIECE = 256


@dataclass(frozen=True)
class Given:
    """What the user gave, by the names of the arguments of `report`."""

    scores: Any
    retrained: Sequence[xr.Dataset]
    trust: xr.Dataset | None
    ceiling: xr.Dataset | None
    curated: Sequence[Any]
    suspected: Sequence[Any]
    points: Any
    show: Show
    names: Any
    title: str | None
    most: int
    command: str | None
    average: Any
    parts: Any = None
    part_names: PartNames = None


@dataclass(frozen=True)
class Effects:
    """The numbers of all training examples [train], and those of the windows [window, train]."""

    effect: np.ndarray
    windows: np.ndarray
    bounds: tuple[tuple[int, int], ...]
    note: str
    order: np.ndarray
    rank: np.ndarray
    error: np.ndarray | None
    verified: Verified
    marks: Remarks
    issues: Issues
    labels: list[str] | None


def build(run: Trajectory, given: Given) -> tuple[Record, Effects]:
    """The record, and the numbers of all examples, those that are not on the page among them."""
    run = averaged_as(run, given.average, given.scores)
    scores = check_scores(run, given.scores)
    if given.average is not None:
        check_asked(run, scores)
    if given.trust is not None:
        check_trust(run, scores, given.trust)
    window, span = span_of(scores)
    joined = joined_ceiling(given.ceiling)
    effects, words = _effects(run, scores, given, joined), words_of(scores)
    links = scored_points(run, scores, given.points)
    wanted = sorted({k for each in linked(links).values() for k in each})
    rows, looked = _chosen(effects, given.most, wanted)
    place = {int(row): k for k, row in enumerate(rows)}
    check_show(given.show, ids := examples(run.workload))
    contents_of, within = _contents(run, rows[looked], given)
    by_part = _parts(run, scores, rows[looked], given)
    several = scores.sizes["window"] > 1
    pattern = patterns(effects.windows[:, rows]) if several else [None] * len(rows)
    losses, predictions, numbers = judged(run, _batches(run, rows))
    shown = tuple(
        _example(effects, int(row), str(ids[row]), losses[k], predictions[k], pattern[k],
                 contents_of.get(int(row)), several and bool(looked[k]), by_part.get(int(row), ()))
        for k, row in enumerate(rows)
    )  # fmt: skip
    trust = given.trust
    count = int(np.isfinite(effects.effect).sum())
    return Record(
        title=given.title or f"Influence in {run.workload.name}",
        key=digest([str(scores.attrs.get("run")), [str(i) for i in ids]]),
        words=words,
        warnings=tuple(trust_warnings(scores, trust)),
        verdicts=tuple(dict.fromkeys(effects.marks.verdicts)),
        facts=tuple([*facts(run, scores, span, numbers), *trust_facts(trust, given.ceiling, joined)]),
        made=tuple(made(run, scores)),
        command=given.command,
        total=len(ids),
        count=count,
        left_out=_left_out(len(ids), len(rows), int(looked.sum())),
        windows=effects.bounds,
        windows_note=effects.note,
        span=span,
        numbers=numbers,
        columns=columns_of(run.workload.examples(_positions(run, rows[:1])), given.show, given.names),
        mark_names=tuple(dict.fromkeys(m for one in shown for m in one.marks)),
        examples=shown,
        points=points_of(run, links, place, given.show, given.names, within),
        points_note=_points_note(run, links, place, _other_method(scores, given.points)),
        curve=curve_of(run),
        agreement=_agreement(effects, joined),
    ), effects  # fmt: skip


def _effects(run: Trajectory, scores: xr.Dataset, given: Given, joined: xr.Dataset | None) -> Effects:
    added = span_of(scores)[0] is not None
    effect = combined(scores.influence, added)
    influence = scores.influence.transpose("query", "window", "train").astype(np.float64)
    every = list(zip(scores.start.values.tolist(), scores.stop.values.tolist(), strict=True))
    windows, bounds, note = fewer(influence.mean("query", skipna=False).values, every, added)
    words = words_of(scores)
    order = np.argsort(-words.first * effect, kind="stable")  # not a number comes last
    rank = np.empty(len(order), dtype=np.int64)
    rank[order] = np.arange(1, len(order) + 1)
    truths = [(f"report: retrained, number {k}", each) for k, each in enumerate(given.retrained, 1)]
    if given.ceiling is not None and "mean" in given.ceiling:
        truths.append(("report: ceiling", given.ceiling))
    if given.trust is not None and _alone(given.trust) and _same_span(given.trust, scores):
        truths.append(("report: trust", given.trust))
    for who, each in truths:
        check_retrained(who, run, scores, each)
    kept = ((who, joined if each is given.ceiling else each) for who, each in truths)
    verified = verified_by(run, [(who, each) for who, each in kept if each is not None])
    marks = marks_of(
        run, [("suspected", x) for x in given.suspected] + [("curated", x) for x in given.curated]
    )
    harmful = {"lower": -1, "higher": 1}.get(better_in(scores.attrs) or "")
    trust = given.trust
    trusted = trust is not None and bool(float(trust.overall) >= trust.attrs["limit"])
    issues = issues_of(effect, harmful, verified, trusted, marks.issues)
    error = combined(scores.standard_error, added) if "standard_error" in scores else None
    if error is not None and scores.influence.isel(train=0).size > 1:
        error = None  # errors of several windows or queries do not add up
    return Effects(
        effect,
        windows,
        tuple(bounds),
        note,
        order,
        rank,
        error,
        verified,
        marks,
        issues,
        class_labels(run.workload),
    )


def _alone(trust: xr.Dataset) -> bool:
    """Whether examples were retrained one by one; method "smooth" leaves out a few together."""
    return "retrained" in trust and "train" in trust.retrained.dims


def _same_span(one: xr.Dataset, other: xr.Dataset) -> bool:
    mine, theirs = span_of(one)[0], span_of(other)[0]
    return mine is not None and mine == theirs


def _chosen(effects: Effects, most: int, wanted: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
    """Positions of the examples with numbers on the page, by rank, and which of them are looked at, too."""
    order, n = effects.order, len(effects.order)
    if n <= most:
        return order, np.ones(n, dtype=bool)
    first = [k for k in order if effects.marks.lists[k] or np.isfinite(effects.verified.value[k])
             or effects.issues.marked[k]][: most // 2]  # fmt: skip
    quarter = max(1, most // 5)
    generator = np.random.default_rng(0)
    known = order[np.isfinite(effects.effect[order])]
    some = generator.permutation(known)
    chosen = list(dict.fromkeys([*first, *known[:quarter], *known[-quarter:][::-1], *wanted, *some]))[:most]
    mask = np.zeros(n, dtype=bool)
    mask[np.array(chosen, dtype=np.int64)] = True
    rows = order if n <= ROWS else order[mask[order]]
    return rows, mask[rows]


def _left_out(total: int, rows: int, looked: int) -> str:
    if rows < total:
        return (
            f"This page holds {rows:,} of {total:,} examples: both ends of the ranking, those that were "
            "retrained, marked or linked to a test example, and a random sample of the others"
        )
    if looked < total:
        return (
            f"All {total:,} examples are listed; {looked:,} of them (both ends, those that were retrained, "
            "marked or linked to a test example, and a random sample) with their content and windows"
        )
    return ""


def _positions(run: Trajectory, rows: Any) -> torch.Tensor:
    return torch.as_tensor(np.ascontiguousarray(rows), dtype=torch.int64, device=run.workload.device)


def _batches(run: Trajectory, rows: np.ndarray) -> Iterator[Batch]:
    return (run.workload.examples(part) for part in _positions(run, rows).split(_PIECE))


def _contents(
    run: Trajectory, rows: np.ndarray, given: Given
) -> tuple[dict[int, Content | None], Range | None]:
    own = examples(run.workload)
    named = [own[int(k)] for k in rows]
    found, within = contents_and_range(_batches(run, rows), named, given.show, given.names)
    if given.part_names is not None and given.show is None and given.names is None:
        found = [None if x is not None and x.kind == "tokens" else x for x in found]  # their texts are better
    return dict(zip((int(k) for k in rows), found, strict=True)), within


def _parts(
    run: Trajectory, scores: xr.Dataset, rows: np.ndarray, given: Given
) -> dict[int, tuple[tuple[str, float], ...]]:
    if given.parts is None:
        return {}
    found = check_parts(run, scores, given.parts)
    return parts_of(
        run, found, given.part_names, rows, lambda row: run.workload.examples(_positions(run, [row]))
    )


def _example(
    effects: Effects, row: int, name: str, loss: float, prediction: str | None, pattern: str | None,
    content: Content | None, windows: bool, parts: tuple[tuple[str, float], ...],
) -> Example:  # fmt: skip
    v, issues = effects.verified, effects.issues
    there = _number(v.value[row])
    return Example(
        id=name,
        row=row,
        label=None if effects.labels is None else str(effects.labels[row]),
        prediction=prediction,
        loss=_number(loss),
        score=(score := _number(effects.effect[row])),
        rank=None if score is None else int(effects.rank[row]),
        standard_error=None if effects.error is None else _number(effects.error[row]),
        windows=tuple(_number(w, 3) for w in effects.windows[:, row]) if windows else (),
        pattern=pattern,
        retrained=None if there is None else Retrained(there, _number(v.low[row]), _number(v.high[row])),
        suspicion=_number(np.round(effects.marks.suspicion[row], 4)),
        suspicion_rank=None if np.isnan(place := effects.marks.suspicion_rank[row]) else int(place),
        issue_score=_number(issues.score[row], 4),
        is_issue=bool(issues.marked[row]),
        marks=effects.marks.lists[row],
        notes=effects.marks.notes[row],
        content=content,
        parts=parts,
    )


def _number(value: Any, digits: int = 6) -> float | None:
    """A finite number with so many digits, as the page holds it."""
    return float(f"{float(value):.{digits}g}") if np.isfinite(value) else None


def _other_method(scores: xr.Dataset, points: Any) -> str:
    """The estimator of the links, where it is not that of the scores."""
    theirs = points.attrs.get("estimator") if isinstance(points, xr.Dataset) else None
    return "" if theirs in (None, scores.attrs.get("estimator")) else f"; the effects on it are by {theirs}"


def _points_note(run: Trajectory, links: xr.DataArray | None, place: dict[int, int], by: str) -> str:
    if links is None or run.workload.test is None:
        return ""
    some = links.sizes["query"]
    all_of = "All" if some == run.workload.n_test else f"{some} of"
    lost = sum(k not in place for each in linked(links).values() for k in each)
    gone = f"; {lost} links lead to examples that are not on this page, and are left out" if lost else ""
    return f"{all_of} {counted(run.workload.n_test, 'test example')}, the largest loss first{by}{gone}"


def _agreement(effects: Effects, ceiling: xr.Dataset | None) -> Agreement | None:
    """Of the examples that have both numbers; None where there are fewer than four."""
    both = np.isfinite(effects.effect) & np.isfinite(effects.verified.value)
    count = int(both.sum())
    if count < 4:
        return None
    mine, truth = (torch.from_numpy(x[both].copy()) for x in (effects.effect, effects.verified.value))
    values = agreement(mine, truth).tolist()
    repeated = ceiling is not None and bool(np.isfinite(effects.verified.low).any())
    target = "expected-loo" if repeated else "loo"  # what the estimate is held against
    tops = [
        None if ceiling is None else _number(ceiling.ceiling.sel(target=target, metric=m).mean(), 4)
        for m in METRICS
    ]
    notes = []
    if count < int(np.isfinite(effects.effect).sum()):
        notes.append(
            f"Only {count:,} of {len(effects.effect):,} examples were retrained. Where they were chosen by "
            "their scores, agreement among all examples is another: trust, above, allows for that"
        )
    if repeated and ceiling is not None:
        notes.append(
            f"Retrained is the mean of {ceiling.attrs['runs']} runs, and the ceiling is that of such"
        )
    pairs = zip(METRICS, (_number(v, 4) for v in values), tops, strict=True)
    return Agreement(count, tuple(pairs), ". ".join(notes))
