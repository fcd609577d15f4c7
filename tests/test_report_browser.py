"""The report in a real browser: everything on it is clicked, and what it says is compared with the data."""

import csv
import time
from pathlib import Path

import pytest
from helpers_browser import (
    CHROMIUM,
    DRIVER,
    browser,
    complaints,
    first_paint,
    look,
    open_page,
    requests,
    violations,
)
from helpers_parts import recorded
from helpers_report import HOSTILE, N, report, run

import influencekit as ik
from influencekit._verbs.removal_list import ids_in

pytest.importorskip("selenium", reason="needs selenium, of the extra `test`")
pytest.importorskip("axe_core_python", reason="needs axe-core-python, of the extra `test`")
pytestmark = pytest.mark.skipif(
    CHROMIUM is None or DRIVER is None, reason="needs the Debian packages chromium and chromium-driver"
)


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return tmp_path_factory.mktemp("report")


@pytest.fixture(scope="module")
def driver(place):
    with browser(place) as found:
        yield found


@pytest.fixture
def page(driver, place):
    """The report, opened with no tags, in light."""
    path = place / "report.html"
    if not path.exists():
        report().save(path)
    look(driver, 1280)
    open_page(driver, path)
    driver.execute_script("localStorage.clear()")
    open_page(driver, path)
    yield driver
    assert complaints(driver) == [] and requests(driver) == []
    assert driver.execute_script("return window.hacked") is None


def choose(driver, name, value):
    driver.execute_script(
        "const s = document.getElementById(arguments[0]); s.value = arguments[1];"
        "s.dispatchEvent(new Event(s.tagName === 'INPUT' ? 'input' : 'change'));", name, value,
    )  # fmt: skip


def shown(driver):
    """Ids of what is listed, in order, over all pages."""
    found = []
    while True:
        found += driver.execute_script(
            "return Array.from(document.querySelectorAll('#shown [data-id]')).map(e => e.dataset.id)"
        )
        following = driver.find_element("id", "next")
        if not following.is_displayed() or not following.is_enabled():
            return found
        following.click()


def downloaded(driver, place, button, name):
    path = Path(place / name)
    path.unlink(missing_ok=True)
    driver.find_element("id", button).click()
    for _ in range(100):
        if path.exists() and not list(place.glob("*.crdownload")):
            return path
        time.sleep(0.05)
    raise AssertionError(f"{name} was not downloaded")


def test_it_opens_with_all_examples_by_rank_on_pages_of_fifty(page):
    assert len(page.find_elements("css selector", "#shown .card")) == 50
    assert shown(page) == [one.id for one in report().record.examples]
    page.find_element("id", "previous").click()
    assert page.find_element("id", "page").text == f"page {(N - 1) // 50} of {(N - 1) // 50 + 1}"


def test_every_filter_leaves_what_it_says(page):
    every = report().record.examples
    cases = {
        ("list", "negative"): lambda e: e.score < 0, ("list", "positive"): lambda e: e.score > 0,
        ("list", "issue"): lambda e: e.is_issue, ("class", "=one"): lambda e: e.label == "one",
        ("class", "=<b>zero</b>"): lambda e: e.label == "<b>zero</b>",
        ("verified", "no"): lambda e: e.retrained is None,
        ("pattern", "early"): lambda e: e.pattern == "early",
        ("find", "EXAMPLE 2"): lambda e: "example 2" in e.id, ("tagged", "any"): lambda e: False,
    }  # fmt: skip
    for (name, value), test in cases.items():
        choose(page, name, value)
        assert shown(page) == [e.id for e in every if test(e)], (name, value)
        page.find_element("id", "reset").click()
    assert shown(page) == [e.id for e in every]


def test_every_order_sorts_as_python_does(page):
    every = report().record.examples
    keys = {
        "last": lambda e: -e.score, "size": lambda e: -abs(e.score), "loss": lambda e: -e.loss,
        "retrained": lambda e: e.retrained.value, "score": lambda e: e.score,
    }  # fmt: skip
    for name, key in keys.items():
        choose(page, "sort", name)
        assert shown(page) == [e.id for e in sorted(every, key=key)], name


def test_the_table_is_sorted_by_its_heads_and_says_so(page):
    choose(page, "view", "table")
    every = report().record.examples
    for turn, reverse in (("ascending", False), ("descending", True)):
        head = next(b for b in page.find_elements("css selector", "#shown th button") if b.text == "loss")
        head.click()
        assert page.find_element("css selector", f"#shown th[aria-sort='{turn}']").text == "loss"
        assert shown(page) == [e.id for e in sorted(every, key=lambda e: e.loss, reverse=reverse)]


def test_tags_survive_a_reload_and_are_read_back(page, place):
    cards = page.find_elements("css selector", "#shown .card")
    dropped = []
    for card, tag in zip(cards[:16], ["drop", "keep", "relabel", "drop"] * 4, strict=True):
        card.find_element("css selector", f"[data-tag='{tag}']").click()
        dropped += [card.get_attribute("data-id")] if tag == "drop" else []
    hostile = [name for name in HOSTILE if name not in dropped]
    for name in hostile:
        choose(page, "find", name.lower().partition("\n")[0])  # of which a field has one line
        page.find_element("css selector", "#shown [data-tag='drop']").click()
    note = page.find_element("css selector", "#shown .tags input")
    note.send_keys('a "note", <b>')
    page.find_element("id", "reset").click()
    page.refresh()
    choose(page, "tagged", "drop")
    assert set(shown(page)) == {*dropped, *hostile}
    choose(page, "tagged", "any")
    pressed = page.find_elements("css selector", "#shown [aria-pressed='true']")
    assert len(pressed) == len(shown(page))
    path = downloaded(page, place, "csv-tags", "tags.csv")
    assert set(ids_in(path)) == {*dropped, *hostile}
    rows = list(csv.DictReader(path.open(encoding="utf-8", newline="")))
    assert 'a "note", <b>' in {row["note"] for row in rows}
    ik.remove(run(), "test-loss", path, ik.estimate(run()), parts=1)
    first = page.find_elements("css selector", "#shown [aria-pressed='true']")[0]
    first.click()
    assert first.get_attribute("aria-pressed") == "false"


def test_the_csv_is_what_is_shown(page, place):
    choose(page, "list", "negative")
    choose(page, "sort", "loss")
    rows = list(
        csv.DictReader(downloaded(page, place, "csv", "examples.csv").open(encoding="utf-8", newline=""))
    )
    some = sorted((e for e in report().record.examples if e.score < 0), key=lambda e: -e.loss)
    assert [row["id"] for row in rows] == [e.id for e in some] == shown(page)
    for row, e in zip(rows, some, strict=True):
        assert (float(row["score"]), float(row["loss"]), int(row["rank"])) == (e.score, e.loss, e.rank)
        assert float(row["retrained"]) == e.retrained.value and row["label"] == e.label


def test_cards_say_the_numbers_and_hostile_text_is_text(page):
    for card, e in zip(
        page.find_elements("css selector", "#shown .card")[:20], report().record.examples, strict=False
    ):
        said = card.text.replace("\u2212", "-")
        assert f"{e.score:+.2e}".replace("e-0", "e-") in said and f"rank {e.rank} of {N}" in said
        assert f"{e.retrained.value:+.2e}".replace("e-0", "e-") in said
        assert ("helpful" if e.score > 0 else "harmful") in said
        assert ("raises" if e.score > 0 else "lowers") + " the test loss by" in said
        assert card.find_element("css selector", "img").get_property("naturalWidth") == 8
    choose(page, "view", "table")
    text = page.find_element("id", "shown").text
    page.find_element("id", "next").click()
    text += page.find_element("id", "shown").text
    for each in (HOSTILE[0], HOSTILE[1], "\\u202e", "\\u001b", HOSTILE[4]):
        assert each in text
    assert page.find_elements("css selector", "main script, main b b") == []


def test_panes_narrow_each_other(page):
    points = report().record.points
    buttons = page.find_elements("css selector", "#point-list button")
    assert [b.text for b in buttons] == [p.id for p in points]
    buttons[0].click()
    ids = [e.get_attribute("data-id") for e in page.find_elements("css selector", "#link-list .card")]
    assert ids == [report().record.examples[place].id for place, _ in points[0].links] and len(ids) <= 10
    page.find_element("css selector", "#link-list .card button").click()
    place = points[0].links[0][0]
    left = {e.get_attribute("data-id") for e in page.find_elements("css selector", "#point-list .card")}
    assert left == {p.id for p in points if place in dict(p.links)}
    page.find_element("id", "all-points").click()
    assert len(page.find_elements("css selector", "#point-list .card")) == len(points)


def test_plots_have_tables_and_lead_to_the_example(page):
    for box in page.find_elements("css selector", "details[data-table]"):
        page.execute_script("arguments[0].open = true", box)
    time.sleep(0.1)
    wanted = {"heat": N, "scatter": N, "points": sum(len(p.links) for p in report().record.points)}
    for name, rows in wanted.items():
        assert f"of {rows}" in page.find_element("css selector", f"[data-table='{name}'] .pager").text
    page.execute_script("document.querySelector('#scatter .dot').dispatchEvent(new MouseEvent('click'))")
    assert page.switch_to.active_element.get_attribute("data-id") == report().record.examples[0].id
    page.execute_script("document.querySelector('#heat canvas').click()")
    assert page.switch_to.active_element.get_attribute("data-id")
    cells = page.find_elements("css selector", "#halves button")
    assert sum(int(c.text) for c in cells) == N
    full = next(c for c in cells if c.text != "0")
    count = int(full.text)
    page.execute_script("arguments[0].click()", full)
    assert len(shown(page)) == count


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 390])
def test_nothing_overflows_and_axe_has_no_complaint(page, width, scheme):
    look(page, width, 900, scheme)
    page.refresh()
    back = page.execute_script("return getComputedStyle(document.body).backgroundColor")
    assert (back == "rgb(255, 255, 255)") == (scheme == "light")
    for view in ("cards", "table"):
        choose(page, "view", view)
        assert page.execute_script("return document.documentElement.scrollWidth") <= width
    if (width == 1280) == (scheme == "light"):  # contrast hangs on the scheme, the rest on the width
        assert violations(page) == []


def test_the_keyboard_reaches_the_examples_first(page):
    from selenium.webdriver.common.keys import Keys

    page.switch_to.active_element.send_keys(Keys.TAB)
    assert page.switch_to.active_element.text == "Skip to the examples"
    page.switch_to.active_element.send_keys(Keys.ENTER)
    assert page.switch_to.active_element.get_attribute("id") == "examples"


def test_it_prints_and_reads_without_a_script(page, place):
    assert len(page.print_page()) > 10_000
    plain = place / "plain.html"
    plain.write_text(report().html.replace("sha256-", "sha384-"), encoding="utf-8")  # nothing may run
    page.get(plain.as_uri())
    rows = page.find_elements("css selector", ".static tbody tr")
    assert len(rows) == 20 and all(row.is_displayed() for row in rows)
    assert page.get_log("browser"), "the policy forbids what has another hash"


def test_first_paint_of_a_thousand_examples(driver, place):
    many = report().record.examples * 17
    from dataclasses import replace

    from influencekit._report.page import rendered

    examples = tuple(replace(e, id=f"{k}", rank=k + 1) for k, e in enumerate(many[:1000]))
    (place / "many.html").write_text(rendered(replace(report().record, examples=examples)), encoding="utf-8")
    look(driver, 1280)
    open_page(driver, place / "many.html")
    assert first_paint(driver) < 3000, "a second on a machine that does nothing else"
    assert len(driver.find_elements("css selector", "#shown .card")) == 50


def test_parts_say_their_effect_in_words_and_axe_has_no_complaint(driver, place):
    """Which way an effect goes is said by the line below a part, its title and a text for screen readers."""
    parted = recorded()
    page = ik.report(parted, ik.estimate(parted), parts=ik.estimate(parted, parts=True))
    page.save(place / "parts.html")
    look(driver, 1280)
    open_page(driver, place / "parts.html")
    found = driver.execute_script(
        "return Array.from(document.querySelectorAll('.card .parts li')).map("
        "x => [x.textContent, x.title, getComputedStyle(x).borderBottomStyle])"
    )
    expected = [pair for one in page.record.examples for pair in one.parts]
    assert len(found) == len(expected)
    for (text, title, line), (name, score) in zip(found, expected, strict=True):
        assert text == f"{name} ({title})"
        assert title.endswith("harmful" if score < 0 else "helpful")
        assert line == ("dashed" if score < 0 else "solid")
    assert violations(driver) == [] and complaints(driver) == [] and requests(driver) == []
