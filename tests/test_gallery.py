"""The committed reports of docs/gallery are what docs/gallery.py makes: the quickest is made anew."""

import json
import re

import pytest
from test_docs import DOCS, script

pytest.importorskip("influencekit_paper", reason="the data are those of the paper's plugin")

FOLDER = DOCS / "gallery"
gallery = script("gallery")
OF_A_MACHINE = {"run", "recorded", "versions"}  # facts about when, where, and with which bits


def data(html: str) -> dict:
    return json.loads(re.search(r'(?s)<script type="application/json"[^>]*>(.*?)</script>', html)[1])


def code(html: str) -> list[str]:
    """Styles and scripts of a page, without its data."""
    return re.findall(r"(?s)<style>.*?</style>|<script>.*?</script>", html)


def text(name: str) -> str:
    return (FOLDER / f"{name}.html").read_text(encoding="utf-8")


def facts(record: dict) -> dict[str, str]:
    """By name, with numbers left out, which another CPU may round otherwise."""
    every = {one["name"]: one["value"] for one in [*record["facts"], *record["made"]]}
    return {
        name: re.sub(r"[-\d.e+]+", "#", value) for name, value in every.items() if name not in OF_A_MACHINE
    }


def test_the_table_made_anew_is_the_committed_one():
    html = gallery.REPORTS["table"]().html
    now, was = data(html), data(text("table"))
    assert code(html) == code(text("table")), "the report's page has changed: run python docs/gallery.py"
    assert facts(now) == facts(was) and now["columns"] == was["columns"] and now["title"] == was["title"]
    assert [re.sub(r"[-\d.e+]+", "#", v) for v in now["verdicts"]] == [
        re.sub(r"[-\d.e+]+", "#", v) for v in was["verdicts"]
    ]
    mine, theirs = ({one["id"]: one for one in each["examples"]} for each in (now, was))
    assert set(mine) == set(theirs)
    for name, one in mine.items():
        other = theirs[name]
        for field in ("label", "prediction", "content"):
            assert one[field] == other[field]
        for field in ("loss", "score"):
            assert one[field] == pytest.approx(other[field], rel=0.02, abs=1e-5), (name, field)
        assert one["retrained"]["value"] == pytest.approx(other["retrained"]["value"], rel=0.02, abs=1e-5)


@pytest.mark.parametrize("name", gallery.REPORTS)
def test_every_report_is_there_small_and_shown(name):
    page = text(name)
    assert len(page.encode()) < 1e6
    assert (
        data(page)["command"].startswith("python ")
        and (DOCS / "screenshots" / f"gallery-{name}.png").exists()
    )
    assert f"gallery/{name}.html" in (DOCS / "gallery.md").read_text(encoding="utf-8")
    assert {file.stem for file in FOLDER.iterdir()} == set(gallery.REPORTS)
