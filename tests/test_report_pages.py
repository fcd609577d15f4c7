"""What a page is made of: nothing from outside, nothing of the user's as markup, small enough."""

import base64
import json
import re
from html.parser import HTMLParser

import matplotlib.figure
import numpy as np
import pandas as pd
import pytest
import torch
from helpers_cli import TINY, fails
from helpers_cli import run as command
from helpers_report import HOSTILE, report, run, scores, workload
from PIL import Image

import influencekit as ik
from influencekit._report.contents import contents, kind_of
from influencekit._report.page import embedded
from influencekit.cli.formats import save_dataset
from influencekit.cli.problems import reopen

VOID = {"meta", "link", "input", "line", "br", "img"}


class Page(HTMLParser):
    """Every element with its attributes, and whether all that was opened is closed."""

    def __init__(self, text):
        super().__init__()
        self.found, self.open, self.text = [], [], []
        self.feed(text)
        assert not self.open

    def handle_starttag(self, tag, attrs):
        self.found.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.found.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] not in ("script", "style"):
            self.text.append(data)


def test_ids_and_names_of_the_user_are_text():
    page = Page(report().html)
    tags = [tag for tag, _ in page.found]
    assert tags.count("script") == 2 and "img" not in tags and "i" not in tags
    assert not any(name.startswith("on") for _, attrs in page.found for name in attrs)
    said = " ".join(page.text)
    assert "three <i>classes</i>" in said and "<b>zero</b>" in said and "{{ 7 * 7 }}" in report().html


def test_nothing_comes_from_outside():
    page = Page(report().html)
    for tag, attrs in page.found:
        assert tag not in {"iframe", "object", "embed", "form", "base"}
        for name in ("src", "href", "srcset", "action"):
            assert attrs.get(name, "#").startswith(("#", "data:")), (tag, attrs)
        assert "style" not in attrs, "the policy lets no style through but the sheet"
    policy = next(a["content"] for t, a in page.found if a.get("http-equiv") == "Content-Security-Policy")
    assert policy.startswith("default-src 'none'; img-src data:;") and "unsafe" not in policy
    assert (
        "http:" not in report().html.replace("http://www.w3.org/2000/svg", "")
        and "https:" not in report().html
    )


def test_the_data_end_no_element():
    text = re.search(r'id="data">(.*?)</script>', report().html, re.S)[1]
    assert not set("<>&\u2028\u2029") & set(text)
    assert {one["id"] for one in json.loads(text)["examples"]} >= set(HOSTILE)
    assert embedded(report().record) == text


@pytest.mark.parametrize("count", [1000])
def test_a_thousand_pictures_of_noise_stay_small(count):
    noise = torch.rand(count, 3, 96, 96, generator=torch.Generator().manual_seed(0))
    found = contents([noise], list(range(count)))
    assert sum(len(one.value) for one in found) < 2.5e6 and found[0].width >= 24


@pytest.mark.parametrize(
    ("x", "kind"),
    [
        (torch.rand(3, 1, 8, 8), "picture"), (torch.rand(3, 3, 8, 8), "picture"),
        (torch.rand(3, 8, 8), "picture"),
        (torch.rand(3, 5), "row"), (torch.randint(9, (3, 5)), "tokens"), (torch.rand(3, 1, 400), "wave"),
        (torch.rand(3), "none"), (torch.rand(3, 2, 3, 4, 5), "none"),
    ],
)  # fmt: skip
def test_the_shape_says_how_an_example_is_shown(x, kind):
    assert kind_of(x) == kind
    found = contents([x[:2], x[2:]], [0, 1, 2])
    assert {one.kind if one else "none" for one in found} == {kind} and len(found) == 3


def test_a_wave_keeps_its_peaks():
    x = torch.zeros(1, 1, 5000)
    x[0, 0, 1234], x[0, 0, 4000] = 2.0, -1.0
    heights = np.array(contents([x], [0])[0].value)
    assert heights.max() == 100 and heights.min() == -50 and len(heights) == 160


def test_rows_and_tokens_have_names():
    found = ik.report(run(), scores(), show="row", names=[f"n{k}" for k in range(64)]).record
    assert found.columns[:2] == ("n0", "n1")
    row = found.examples[0]
    np.testing.assert_allclose(row.content.value, workload().train[0][row.row].reshape(-1), rtol=1e-3)
    tokens = torch.tensor([[2, 0], [1, 1]])
    assert contents([tokens], [0, 1], names=["a", "b", "c"])[0].value == ["c", "a"]
    decoded = contents([tokens], [0, 1], names=type("T", (), {"decode": lambda self, row: f"<{row}>"})())
    assert decoded[0].value == "<[2, 0]>"
    with pytest.raises(ik.InputError, match="a text for every token"):
        contents([tokens], [0, 1], names=["a"])


def test_a_function_of_the_user_shows_text_pictures_and_figures():
    def show(example):
        x, y = example
        figure = matplotlib.figure.Figure(figsize=(1, 1))
        figure.subplots().plot(x.reshape(-1))
        return ["text " * 1000, Image.new("RGB", (300, 200), (255, 0, 0)), figure][int(y)]

    found = {one.label: one.content for one in ik.report(run(), scores(), show=show).record.examples}
    assert found["<b>zero</b>"].kind == "text" and found["<b>zero</b>"].value.endswith("3000 characters more")
    assert (
        found["one"].kind == found["two"].kind == "picture"
        and max(found["one"].width, found["one"].height) <= 128
    )
    by_id = ik.report(run(), scores(), show={HOSTILE[0]: "mine"}).record.examples
    assert {one.id: one.content for one in by_id if one.content}[HOSTILE[0]].value == "mine"


def test_it_is_saved_whole_or_not_at_all(tmp_path):
    path = report().save(tmp_path / "report.html")
    assert path.read_text(encoding="utf-8") == report().html
    with pytest.raises(ik.InputError, match=r"ends in \.html"):
        report().save(tmp_path / "report.pdf")
    assert [each.name for each in tmp_path.iterdir()] == ["report.html"]


def test_a_notebook_shows_it_in_a_frame():
    class Frame(HTMLParser):
        def handle_starttag(self, tag, attrs):
            self.inside = dict(attrs)["srcdoc"]

    frame = Frame()
    frame.feed(report()._repr_html_())
    assert frame.inside == report().html


def test_the_command_writes_a_page_that_says_how_it_was_made(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    command("record", TINY, "--store", "run.zarr")
    said = command(
        "report",
        "run.zarr",
        "--points",
        "3",
        "--verify",
        "2",
        "--ceiling",
        "3",
        "--title",
        "My <run>",
        "--issues",
        "issues.csv",
        "--card",
        "README.md",
    ).stdout
    html = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "saved in report.html, issues.csv, README.md" in said and "24 examples" in said
    text = " ".join(Page(html).text)
    typed = (
        "influencekit report run.zarr --verify 2 --points 3 --ceiling 3 --issues issues.csv --card README.md"
    )
    assert f"{typed} --title 'My <run>'" in text and len(pd.read_csv("issues.csv")) == 24
    data = json.loads(re.search(r'id="data">(.*?)</script>', html, re.S)[1])
    assert (
        len(data["points"]) == 3
        and len(data["windows"]) == 2
        and base64.b64decode(data["examples"][0]["content"]["value"])
    )
    assert all("low" in one["retrained"] for one in data["examples"])
    assert "choose another name" in fails("report", "run.zarr", code=2)
    assert "ends in .html" in fails("report", "run.zarr", "--out", "a.pdf", code=2)
    assert "no estimator named" in fails(
        "report", "run.zarr", "--estimator", "dti", "--out", "b.html", code=2
    )
    assert sorted(each.name for each in tmp_path.iterdir()) == [
        "README.md",
        "issues.csv",
        "report.html",
        "run.zarr",
    ]


def test_the_command_says_what_it_cannot_retrain_and_its_card_names_its_table(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    command("record", TINY, "--store", "run.zarr")
    means = command(
        "report", "run.zarr", "--removal", "window", "--verify", "5", "--ceiling", "2", "--points", "0",
        "--card", "cards/card.md", "--issues", "mine.csv",
    )  # fmt: skip
    said = " ".join(means.stdout.split())
    assert "Beware: --verify, --trust, --ceiling left out: the mean of 2 windows" in said
    assert (
        "--window full" in said and '"data_files": "../mine.csv"' in (tmp_path / "cards/card.md").read_text()
    )
    quiet = command(
        "report", "run.zarr", "--removal", "window", "--verify", "0", "--trust", "none", "--points", "0",
        "--out", "b.html",
    )  # fmt: skip
    assert "left out" not in quiet.stdout


def test_the_command_takes_what_suspects_and_curate_wrote(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    command("record", TINY, "--store", "run.zarr")
    found = ik.suspects(reopen("run.zarr", None), scores=["final-loss"], repeats=2, verify=0)
    save_dataset(found, tmp_path / "s.zarr")
    plain = ["--verify", "0", "--trust", "none", "--points", "0", "--issues", "issues.csv"]
    command("report", "run.zarr", "--suspects", "s.zarr", *plain)
    lists = pd.read_csv("issues.csv", keep_default_na=False).lists
    assert [("label issue" in text) for text in lists] == found.is_label_issue.values.tolist()
    for options, said in (
        (["--curate", "s.zarr"], "pass it as suspected="),
        (["--suspects", "s.csv"], "ends in .zarr, .nc"),
        (["--suspects", "run.zarr"], "no column over train"),
        (["--suspects", "none.zarr"], "none.zarr"),
    ):
        assert said in fails("report", "run.zarr", *options, "--out", "b.html", code=2)
    assert not (tmp_path / "b.html").exists()


def test_the_command_takes_a_function_of_the_user(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    command("record", TINY, "--store", "run.zarr")
    (tmp_path / "mine.py").write_text("def show(example):\n    return f'class {int(example[1])}'\n")
    command(
        "report", "run.zarr", "--show", "mine.py:show", "--verify", "0", "--trust", "none", "--points", "0"
    )
    assert "class 1" in (tmp_path / "report.html").read_text()
    (tmp_path / "bad.py").write_text("def show(example):\n    raise OSError('gone')\n")
    said = fails(
        "report",
        "run.zarr",
        "--show",
        "bad.py:show",
        "--out",
        "b.html",
        "--trust",
        "none",
        "--verify",
        "0",
        code=2,
    )
    assert "OSError: gone" in said and not (tmp_path / "b.html").exists()


def test_estimate_and_compare_write_it(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    command("record", TINY, "--store", "run.zarr")
    command("estimate", "run.zarr", "--out", "e.html", "--verify-top", "2", "--trust", "none")
    Page((tmp_path / "e.html").read_text(encoding="utf-8"))
    command("compare", TINY, "--estimators", "dit", "--seeds", "0-1", "--out", "c")
    data = re.search(
        r'id="data">(.*?)</script>', (tmp_path / "c" / "report.html").read_text(encoding="utf-8"), re.S
    )[1]
    shown = json.loads(data)["examples"]
    assert len(shown) == 24 and all("retrained" in one for one in shown)
