"""Pages in a real Chromium: nothing is fetched, everything is seen, the buttons do what they say."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from attar.data.sources import load_images
from browser import MEND, Browser, program
from report_pages import write

pytestmark = pytest.mark.skipif(program() is None, reason=MEND)

NAMES = ("codes", "d3", "lic", "hostile")
UNSEEN = """
(() => {
  document.querySelectorAll("details").forEach((each) => { each.open = true; });
  const width = document.documentElement.clientWidth;
  const faults = [];
  for (const each of document.querySelectorAll("main img, main svg, main figure, main table, main pre, main button")) {
    const box = each.getBoundingClientRect();
    const scrolls = each.closest(".scroll");
    const edge = scrolls ? scrolls.getBoundingClientRect() : box;
    const painted = each.tagName !== "IMG" || (each.complete && each.naturalWidth > 0);
    if (box.width < 1 || box.height < 1 || edge.left < 0 || edge.right > width + 0.5 || !painted) {
      faults.push(`${each.outerHTML.slice(0, 80)} ${box.left} ${box.right} ${box.width} ${box.height}`);
    }
  }
  return faults;
})()
"""
OVERFLOW = "document.documentElement.scrollWidth - document.documentElement.clientWidth"
BACKGROUND = "getComputedStyle(document.documentElement).backgroundColor"
LIGHT, DARK = "rgb(255, 255, 255)", "rgb(20, 23, 26)"
ENTER, ESCAPE, RIGHT = ("Enter", 13), ("Escape", 27), ("ArrowRight", 39)


@pytest.fixture(scope="module")
def pages(reported: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = Path(shutil.copytree(reported, tmp_path_factory.mktemp("pages") / "copied"))
    real = load_images("digits").train
    made = {name: write(folder, name, **({"real": [real]} if name == "codes" else {})) for name in NAMES}
    return made | {"all": write(folder, *NAMES)}


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with Browser(tmp_path_factory.mktemp("profile")) as opened:
        yield opened


@pytest.mark.parametrize("width", [390, 1400])
@pytest.mark.parametrize("name", [*NAMES, "all"])
def test_everything_is_seen_and_nothing_is_fetched(
    browser: Browser, pages: dict[str, Path], tmp_path: Path, name: str, width: int
) -> None:
    for dark in (False, True):
        browser.requests.clear()
        browser.open(pages[name], width, dark=dark)
        assert browser.run(OVERFLOW) == 0
        assert browser.run(UNSEEN) == []
        assert browser.run(OVERFLOW) == 0, "with the settings unfolded"
        assert browser.run(BACKGROUND) == (DARK if dark else LIGHT)
        assert browser.run("window.hit") is None
        asked = {request for request in browser.requests if not request.startswith("data:")}
        assert asked == {pages[name].absolute().as_uri()}
        shot = tmp_path / f"{dark}.png"
        browser.screenshot(shot, whole=False)
        pixels = np.asarray(Image.open(shot).convert("L"))
        assert pixels.shape[1] == width and len(np.unique(pixels)) > 50
        assert (np.median(pixels) < 60) if dark else (np.median(pixels) > 220)
    assert browser.complaints == []


@pytest.mark.parametrize("width", [390, 1400])
def test_images_open_large_and_close(browser: Browser, pages: dict[str, Path], width: int) -> None:
    browser.open(pages["d3"], width)
    opened = "document.getElementById('viewer').open"
    shown = "document.querySelector('#viewer img').alt"
    alternatives = browser.run("Array.from(document.querySelectorAll('.zoom img')).map((each) => each.alt)")
    assert browser.run(opened) is False
    browser.click(".zoom")
    assert browser.run(opened) is True and browser.run(shown) == alternatives[0]
    assert browser.run("document.getElementById('viewer-caption').textContent") == alternatives[0]
    box = browser.run("(() => { const b = document.querySelector('#viewer img').getBoundingClientRect();"
                      "return [b.left, b.right, b.top, b.bottom]; })()")  # fmt: skip
    assert box[0] >= 0 and box[1] <= width and box[1] - box[0] > 250 and box[2] >= 0 and box[3] <= 900
    browser.press(*RIGHT)
    assert browser.run(shown) == alternatives[1]
    browser.press(*ESCAPE)
    assert browser.run(opened) is False
    # The focus moves in an event that the browser sends after the dialog has closed.
    focused = "new Promise((done) => setTimeout(() => done(document.activeElement.querySelector('img').alt), 300))"
    assert browser.run(focused) == alternatives[1]
    browser.press(*ENTER)
    assert browser.run(opened) is True and browser.run(shown) == alternatives[1]
    browser.click("#viewer-previous")
    browser.click("#viewer-previous")
    assert browser.run(shown) == alternatives[-1]
    browser.click("#viewer-close")
    assert browser.run(opened) is False
    assert browser.complaints == []


@pytest.mark.parametrize("dark", [False, True])
def test_the_theme_changes(browser: Browser, pages: dict[str, Path], dark: bool) -> None:
    browser.open(pages["codes"], 1400, dark=dark)
    seen = [browser.run(BACKGROUND)]
    for _ in range(2):
        browser.click("#theme")
        seen.append(browser.run(BACKGROUND))
    assert seen == ([DARK, LIGHT, DARK] if dark else [LIGHT, DARK, LIGHT])


def test_the_bibtex_is_copied(browser: Browser, pages: dict[str, Path]) -> None:
    browser.open(pages["codes"], 1400)
    browser.call("Browser.grantPermissions", permissions=["clipboardReadWrite", "clipboardSanitizedWrite"])
    browser.click(".copy")
    assert browser.run(
        "new Promise((done) => setTimeout(() => done(document.querySelector('.copy').textContent), 300))"
    ) == ("Copied")
    assert browser.run("navigator.clipboard.readText()") == browser.run("document.querySelector('pre').textContent")


def test_a_script_that_gets_in_all_the_same_does_not_run(
    browser: Browser, pages: dict[str, Path], tmp_path: Path
) -> None:
    text = pages["codes"].read_text(encoding="utf-8")
    altered = tmp_path / "altered.html"
    attack = "<script>window.hit = 1</script><img src='https://example.invalid/x.png' onerror='window.hit = 2'>"
    altered.write_text(text.replace("<main>", f"<main>{attack}"), encoding="utf-8")
    browser.requests.clear()
    browser.open(altered, 1400)
    assert browser.run("window.hit") is None
    assert [complaint for complaint in browser.complaints if "Content Security Policy" in complaint]
    browser.complaints.clear()


def test_the_page_is_printed(browser: Browser, pages: dict[str, Path], tmp_path: Path) -> None:
    browser.open(pages["d3"], 1400, dark=True)
    out = tmp_path / "page.pdf"
    browser.print(out)
    assert out.read_bytes().startswith(b"%PDF") and out.stat().st_size > 20_000
    browser.call("Emulation.setEmulatedMedia", media="print")
    assert browser.run(BACKGROUND) == LIGHT
    assert browser.run("getComputedStyle(document.getElementById('theme')).display") == "none"
