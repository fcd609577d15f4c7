"""A report as tables and a card, and in the logs of experiments."""

import sys
import types

import numpy as np
import pandas as pd
import pytest
from helpers_report import report, run

import influencekit as ik
from influencekit._verbs.removal_list import ids_in

VOID = {"meta", "link", "input", "line", "br", "img"}


def test_the_twins_say_what_the_page_says(tmp_path):
    found = report()
    found.save(tmp_path / "issues.csv")
    frame = pd.read_csv(tmp_path / "issues.csv")
    assert frame.id.tolist() == found.issues.id.tolist()
    np.testing.assert_allclose(frame.influence_score, found.issues.influence_score)
    assert set(ids_in(tmp_path / "issues.csv")) == set(found.issues.id[found.issues.is_influence_issue])
    assert found.summary.num_issues.tolist() == [int(found.issues.is_influence_issue.sum())]
    with pytest.raises(ik.InputError, match="exists already"):
        found.save(tmp_path / "issues.csv")


def test_the_card_has_front_matter_that_a_hub_reads(tmp_path):
    yaml = pytest.importorskip("yaml")
    text = report().save(tmp_path / "README.md").read_text(encoding="utf-8")
    _, front, body = text.split("---\n", 2)
    head = yaml.safe_load(front)
    assert head["pretty_name"] == report().record.title and head["size_categories"] == ["n<1K"]
    assert f"| influence | {report().summary.num_issues[0]} |" in body and "configs" not in head
    named = report().save(tmp_path / "new" / "card.md", table="data/mine.csv").read_text(encoding="utf-8")
    front = yaml.safe_load(named.split("---\n", 2)[1])
    assert front["configs"] == [{"config_name": "issues", "data_files": "data/mine.csv"}]
    assert "`data/mine.csv` has a row" in named


def test_what_cannot_be_saved_is_one_line(tmp_path):
    (tmp_path / "file").write_text("")
    for path, said in (
        (None, "name of a file, got None"),
        (tmp_path / "file" / "a.html", "cannot write .*a.html: "),
    ):
        with pytest.raises(ik.InputError, match=said):
            report().save(path)
    assert report().save(str(tmp_path / "a" / "b" / "c.csv")).exists()


def test_the_table_says_whether_windows_were_added_up():
    assert report().issues.windows.unique().tolist() == [report().record.span]
    mean = ik.report(run(), ik.estimate(run(), windows="each-epoch", removal="window"))
    assert "the sum of 4 windows" in report().record.span and "the mean of 4 windows" in mean.record.span
    assert set(mean.issues.windows) == {mean.record.span}


@pytest.mark.parametrize("step", [-1, 1.5, True, "a"])
def test_a_step_is_a_whole_number(tmp_path, step):
    with pytest.raises(ik.InputError, match="report: step"):
        report().log(Writer(tmp_path), step)
    assert not list(tmp_path.iterdir())


def test_parquet_is_the_table_or_says_what_is_missing(tmp_path):
    try:
        import pyarrow  # noqa: F401
    except ImportError:
        with pytest.raises(ik.InputError, match="pip install pyarrow"):
            report().save(tmp_path / "issues.parquet")
        assert not list(tmp_path.iterdir())
    else:
        found = pd.read_parquet(report().save(tmp_path / "issues.parquet"))
        pd.testing.assert_frame_equal(found, report().issues, check_column_type=False)


class Writer:
    """As SummaryWriter of TensorBoard."""

    def __init__(self, folder):
        self.log_dir, self.values, self.texts = str(folder), {}, []

    def add_scalar(self, name, value, step):
        self.values[name, step] = value

    def add_text(self, name, text, step):
        self.texts.append(text)


class Tracker:
    """As the module mlflow."""

    def log_metrics(self, values, step=None):
        self.values = values

    def log_text(self, text, name):
        self.text, self.name = text, name


def test_it_is_logged_where_experiments_are(tmp_path):
    writer, tracker = Writer(tmp_path / "events"), Tracker()
    report().log(writer, step=3)
    report().log(tracker)
    assert writer.values["influence/issues", 3] == report().issues.is_influence_issue.sum()
    assert {name for name, _ in writer.values} == set(tracker.values) == set(report().scalars)
    assert (tmp_path / "events" / "influence-report-3.html").read_text(encoding="utf-8") == report().html
    assert tracker.text == report().html and "influence-report-3.html" in writer.texts[0]
    with pytest.raises(ik.InputError, match="SummaryWriter"):
        report().log(3)


def test_a_run_of_wandb_gets_the_figures_and_the_page(monkeypatch):
    module = types.ModuleType("wandb")
    module.Html = lambda text: ("html", text)
    logged = []

    def log(self, *values, **named):
        logged.append((values, named))

    run_of_theirs = type("Run", (), {"__module__": "wandb.sdk", "log": log})
    monkeypatch.setitem(sys.modules, "wandb", module)
    report().log(run_of_theirs(), step=2)
    (((values,), named),) = logged
    assert named == {"step": 2} and values.pop("influence/report") == ("html", report().html)
    assert values == report().scalars
