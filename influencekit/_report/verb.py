"""The verb, and what it gives: the page, and its numbers for programs."""

from __future__ import annotations

import html
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import xarray as xr

from influencekit._arguments import checked, short, whole_number
from influencekit._bars import with_progress
from influencekit._report.build import Effects, Given, build
from influencekit._report.contents import Show
from influencekit._report.issues import frame
from influencekit._report.page import rendered
from influencekit._report.part_scores import PartNames
from influencekit._report.record import Record
from influencekit._report.tracking import log, scalars
from influencekit._report.twins import ENDINGS, summary, write
from influencekit._report.words import counted
from influencekit._trajectory.trajectory import Trajectory
from influencekit._verbs.results import examples, require_run
from influencekit.errors import InputError

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["Report", "report"]

_LEAST = 10


@dataclass(frozen=True)
class Report:
    """A report: `html`, the whole page as text; `issues`, a row for every training example; `summary`, how
    many of them are issues; `scalars`, the figures of it all; `record`, what the page shows, as plain data.
    In a notebook it shows itself.

    `issues` has the columns `id`, `label`, `influence_score` (0 = most harmful, 0.5 = no effect, 1),
    `is_influence_issue`, `verified` and `verified_as` ("alone", "set" or ""), `lists` (of `suspects` and
    `curate`), `influence` (the score, removal minus full), `retrained`, `low` and `high` (NaN where
    nothing was retrained), `windows` (in words, what the effect is over: a window, or a sum or mean of
    several).

    Example:

        >>> import influencekit as ik
        >>> run = ik.record(ik.make("workload", "mnist-1v7-lr:n_train=24:epochs=2"))
        >>> found = ik.report(run, ik.estimate(run))
        >>> found.html.startswith("<!DOCTYPE html>"), len(found.issues)
        (True, 24)
        >>> found.summary.num_issues.tolist(), found.scalars["influence/retrained"]
        ([0], 0.0)
    """

    record: Record = field(repr=False)
    html: str = field(repr=False)
    issues: pd.DataFrame = field(repr=False)
    scalars: dict[str, float] = field(repr=False)

    @property
    def summary(self) -> pd.DataFrame:
        """A row for influence and for each list of `suspects` and `curate`: `num_issues`, `num_verified`,
        `mean_score`."""
        return summary(self.record, self.issues)

    def save(self, path: str | Path, table: str | None = None) -> Path:
        """Write a new file, whole or not at all: .html the page, .csv or .parquet the table `issues`, .md a
        card with YAML front matter. `table`: the file that the card names as its data, from where the card
        lies. A folder that is missing is made. Errors: the file is there; another ending; Parquet without
        pyarrow; what cannot be written."""
        from influencekit._files import whole

        if not isinstance(path, str | Path):
            raise InputError(f"report: save takes the name of a file, got {short(path)}")
        goal = Path(path).expanduser()
        if goal.suffix not in ENDINGS:
            raise InputError(
                f"report: expected a name that ends in {', '.join(ENDINGS)}, got {short(str(path))}"
            )
        if goal.exists():
            raise InputError(f"report: {goal} exists already; choose another name")
        try:
            goal.parent.mkdir(parents=True, exist_ok=True)
            with whole(goal, new=True) as partial:
                write(self.record, self.html, self.issues, partial, goal.suffix, table)
        except OSError as error:
            raise InputError(f"report: cannot write {goal}: {error.strerror or error}") from error
        return goal

    def log(self, target: Any, step: int | None = None) -> None:
        """Log `scalars` and the page: to a SummaryWriter of TensorBoard (the page lies in its folder), to the
        module `mlflow`, or to a run of Weights & Biases. Errors: anything else; a step
        that is no whole number from 0."""
        if step is not None:
            whole_number("report: step", step, 0)
        log(target, self.scalars, self.html, self.record.title, step)

    def _repr_html_(self) -> str:
        """The page in a frame of its own, whose styles and script meet nothing of the notebook's."""
        return (
            f'<iframe title="{html.escape(self.record.title)}" srcdoc="{html.escape(self.html)}" '
            'width="100%" height="720" style="border: 1px solid #888"></iframe>'
        )

    def __str__(self) -> str:
        shown, size = len(self.record.examples), len(self.html.encode()) / 1e6
        return (
            f"report: {self.record.title}, {counted(shown, 'example')}, {size:.1f} MB; "
            "save it with .save('report.html')"
        )


@with_progress
@checked
def report(
    run: Trajectory,
    scores: Any,
    retrained: Any = None,
    trust: Any = None,
    ceiling: Any = None,
    curated: Any = None,
    suspected: Any = None,
    points: Any = None,
    show: Show = None,
    names: Any = None,
    title: str | None = None,
    most: int = 1000,
    command: str | None = None,
    average: Any = None,
    parts: Any = None,
    part_names: PartNames = None,
) -> Report:
    """One HTML file that shows which training examples did what, with what was retrained beside it.

    `scores` is what `estimate` gave of this run, over one or more windows. Windows of global removal that
    follow each other are added up, of others the mean is shown; several windows also show when an example
    mattered. The page needs no network and no server: it works after this process has ended.

    `retrained`: what `verify_top`, or `estimate` with an exact estimator, gave (one or a list): the exact
    effect stands beside the score, and agreement is shown where four or more have both. `trust`: what `trust`
    gave of these scores, over their windows or longer ones, with its warning. `ceiling`: what `ceiling` gave;
    its means and intervals count as retrained, too, over several windows those of their sum or mean.
    `curated`, `suspected`: what `curate` and `suspects` gave, one or a list; what they mark is a list of its
    own. `points`: how many of the worst test examples are shown with the training examples that made them
    so, or scores by `test-losses` of the same estimator and windows, or of one that retrains; None = those of
    `scores`, if they are such.

    Examples are shown as pictures, tokens, rows of a table or waveforms, by the shape of the input. All
    pictures have one scale: 0 to 1 or 0 to 255 where all values lie in it and the largest reaches half of it,
    else the 0.5 and 99.5 percentiles of all values. `show`
    does it in your way: a function of an example (a batch's entry without its first dimension) that gives
    text, a picture of PIL or a figure of matplotlib; {id: such}; or the word "picture", "tokens", "row",
    "wave" or "none". `names`: of the columns of a row, of the tokens, or a tokenizer with `decode`.

    `parts`: what `estimate(..., parts=True)` gave for the same query, estimator and windows: the parts of
    each example, such as tokens, on a background by their effect. `part_names`: their texts, a function of
    an example, as for `show`, or {id: texts}: a text for every part. They stand in the place of the
    numbers of tokens.

    `most` examples are shown with their content. Up to 10,000 are listed with their numbers; of more, the
    ends, what was retrained, marked or linked, and a random sample. `command`: what makes this report again.
    `average`: as of `estimate`, of scores whose average has no name.

    An example is marked as an issue where removing it improves the query, its effect lies beyond three robust
    deviations of all effects, and retraining says so, too; one that was not retrained only where `trust` has
    reached its limit. Where `curated` is given, what it recommends to drop is marked instead.

    Cost: a forward pass of the examples on the page; of a number of `points`, the estimator's own for so many
    queries. Errors: results of another run, query, average, estimator or window; a `show` or `names`
    that fails; a run without a test set
    that is asked for points.

    Example:

        >>> import influencekit as ik
        >>> run = ik.record(ik.make("workload", "mnist-1v7-lr:n_train=24:epochs=2"))
        >>> scores = ik.estimate(run, windows="each-epoch")
        >>> found = ik.report(run, scores, points=4)
        >>> print(found)
        report: Influence in mnist-1v7-lr, 24 examples, 0.1 MB; save it with .save('report.html')
    """
    require_run(run)
    whole_number("report: most", most, _LEAST)
    if isinstance(points, bool) or not (points is None or isinstance(points, int | xr.Dataset)):
        raise InputError(
            f"report: points must be a number of test examples or scores by test-losses, got {short(points)}"
        )
    if isinstance(points, int):
        whole_number("report: points", points, 0)
    given = Given(
        scores, _listed("retrained", retrained), _one("trust", trust, "overall"),
        _one("ceiling", ceiling, "ceiling"), _listed("curated", curated), _listed("suspected", suspected),
        points, show, names, title, most, command, average, parts, part_names,
    )  # fmt: skip
    record, effects = build(run, given)
    issues, level = (
        _issues(run, effects, record.span),
        None if given.trust is None else float(given.trust.overall),
    )
    figures = scalars(record, effects.effect, level, int(issues.is_influence_issue.sum()))
    return Report(record, rendered(record), issues, figures)


def _listed(name: str, given: Any) -> Sequence[xr.Dataset]:
    many = [] if given is None else [given] if isinstance(given, xr.Dataset) else given
    if not isinstance(many, Sequence) or not all(isinstance(each, xr.Dataset) for each in many):
        raise InputError(f"report: {name} must be a result of a verb, or a list of them, got {short(given)}")
    return many


def _one(name: str, given: Any, needed: str) -> xr.Dataset | None:
    if given is None:
        return None
    if not isinstance(given, xr.Dataset) or needed not in given:
        raise InputError(f"report: {name} must be what {name}(...) gives, got {short(given)}")
    return given


def _issues(run: Trajectory, effects: Effects, span: str) -> pd.DataFrame:
    columns: dict[str, Any] = {
        "lists": ["; ".join(some) for some in effects.marks.lists],
        "influence": effects.effect, "retrained": effects.verified.value, "low": effects.verified.low,
        "high": effects.verified.high, "windows": [span] * len(effects.effect),
    }  # fmt: skip
    return frame(examples(run.workload), effects.labels, columns, effects.issues)
