"""Make the pictures of docs/report.md and docs/gallery.md from the pages of docs/gallery.

python docs/screenshots.py        (after docs/gallery.py; needs chromium and chromium-driver)
"""

import io
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

from PIL import Image

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent / "tests"))

from helpers_browser import browser, look, open_page  # noqa: E402

# name: page, width, height, colours, what is scrolled to
SHOTS = {
    "report-examples": ("digits", 1000, 900, "light", "#examples"),
    "report-when": ("digits", 1000, 760, "dark", "#when"),
    "gallery-digits": ("digits", 1000, 620, "light", "#shown"),
    "gallery-texts": ("texts", 1000, 620, "light", "#shown"),
    "gallery-table": ("table", 1000, 620, "light", "#shown"),
    "gallery-language": ("language", 1000, 620, "dark", "#points"),
    "gallery-gemma": ("gemma", 1000, 860, "light", "#shown"),
}
# page: a choice and its value. Of the table no label is marked, which is little to look at
CHOICES = {"table": ("list", ""), "gemma": ("verified", "yes")}
CHOOSE = """const [name, value] = arguments, s = document.getElementById(name);
s.value = value; s.dispatchEvent(new Event('change'))"""


def main() -> None:
    with TemporaryDirectory() as folder, browser(Path(folder)) as driver:
        for name, (page, width, height, scheme, where) in SHOTS.items():
            look(driver, width, height, scheme)
            open_page(driver, HERE / "gallery" / f"{page}.html")
            if page in CHOICES:
                driver.execute_script(CHOOSE, *CHOICES[page])
            driver.execute_script("document.querySelector(arguments[0]).scrollIntoView()", where)
            picture = Image.open(io.BytesIO(driver.get_screenshot_as_png())).convert("RGB")
            picture.quantize(64).save(HERE / "screenshots" / f"{name}.png", optimize=True)


if __name__ == "__main__":
    main()
