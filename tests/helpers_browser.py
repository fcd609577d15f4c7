"""A headless chromium that sees nothing but one file, and what it complained of."""

import json
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import resources
from pathlib import Path
from typing import Any

CHROMIUM, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")
_OPTIONS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync", "--hide-scrollbars",
)  # fmt: skip


@contextmanager
def browser(folder: Path) -> Iterator[Any]:
    """A driver of selenium, whose downloads go to `folder`."""
    from selenium import webdriver
    from selenium.webdriver.chrome.service import Service

    with tempfile.TemporaryDirectory() as profile:
        options = webdriver.ChromeOptions()
        options.binary_location = CHROMIUM
        for each in (*_OPTIONS, f"--user-data-dir={profile}"):
            options.add_argument(each)
        options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
        options.add_experimental_option("prefs", {"download.default_directory": str(folder)})
        driver = webdriver.Chrome(options=options, service=Service(DRIVER))
        try:
            yield driver
        finally:
            driver.quit()


def look(driver: Any, width: int, height: int = 900, scheme: str = "light") -> None:
    """The size of the window in pixels, and what the user's system prefers."""
    driver.execute_cdp_cmd(
        "Emulation.setDeviceMetricsOverride",
        {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600},
    )
    media = {"media": "", "features": [{"name": "prefers-color-scheme", "value": scheme}]}
    driver.execute_cdp_cmd("Emulation.setEmulatedMedia", media)


def open_page(driver: Any, path: Path) -> None:
    """Open a file; what was logged before is forgotten."""
    driver.get_log("browser"), driver.get_log("performance")
    driver.get(path.as_uri())


def complaints(driver: Any) -> list[str]:
    """Errors and warnings on the console since the last call."""
    return [each["message"] for each in driver.get_log("browser") if each["level"] in ("SEVERE", "WARNING")]


def requests(driver: Any) -> list[str]:
    """Addresses that the page asked for since the last call, but its own and data."""
    events = [json.loads(each["message"])["message"] for each in driver.get_log("performance")]
    sent = [e["params"]["request"]["url"] for e in events if e["method"] == "Network.requestWillBeSent"]
    return [url for url in sent if not url.startswith(("file:", "data:", "blob:"))]


def violations(driver: Any) -> list[str]:
    """What axe says against the page, a line each. axe comes with the package axe-core-python."""
    source = resources.files("axe_core_python").joinpath("axe.min.js").read_text(encoding="utf-8")
    driver.execute_script(source)
    found = driver.execute_async_script(
        "const done = arguments[0];"
        "axe.run(document, {resultTypes: ['violations']}).then(done, e => done({error: '' + e}));"
    )
    assert "error" not in found, found
    return [
        f"{each['id']}: {node['target']} {node['failureSummary']}"
        for each in found["violations"]
        for node in each["nodes"]
    ]


def first_paint(driver: Any) -> float:
    """Milliseconds from the opening of the page to its first paint."""
    for _ in range(100):
        if found := driver.execute_script(
            "return performance.getEntriesByType('paint').map(e => e.startTime)"
        ):
            return float(found[0])
        time.sleep(0.05)
    raise AssertionError("nothing was painted")
