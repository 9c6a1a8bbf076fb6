"""The page in a real browser: phone and desktop width, light and dark."""

from __future__ import annotations

import pytest
import report_runs as make
from report_browser import CHROMIUM, Browser

from truegain.report import write

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed: apt-get install chromium"),
]
HOSTILE = "W" * 5000 + "<script>document.title='owned'</script>\u202e" + "</pre><h1>" * 50
WIDER = """[...document.querySelectorAll('body *')].filter(e => {
    const r = e.getBoundingClientRect();
    return r.width > 0 && (r.right > innerWidth + 1 || r.left < -1) && !e.closest('svg');
}).map(e => e.tagName + '.' + e.className).join(' ')"""
CLIPPED = """[...document.querySelectorAll('svg text')].filter(e => {
    const r = e.getBoundingClientRect(), c = e.closest('.card').getBoundingClientRect();
    return r.left < c.left || r.right > c.right;
}).map(e => e.textContent).join(' ')"""


@pytest.fixture(scope="module")
def pages(tmp_path_factory):
    home = tmp_path_factory.mktemp("pages")
    arms = ("base", "trained", "control:more-sft", "control:random-reward")
    one = make.write_run(home / "one", arms=arms, problems=100)
    for s in range(3):
        make.write_run(home / "many" / f"seed-{s}", seed=s, problems=40, honest=False)
    settings = dict.fromkeys(("command", "task", "recipe", "model"), HOSTILE)
    hostile = make.write_run(home / "hostile", problems=40, text=lambda arm, hit: HOSTILE, settings=settings)
    partial = make.write_run(home / "partial", problems=8)
    (partial / "evals" / "records.jsonl").unlink()
    return [write(folder) for folder in (one, home / "many", hostile, partial)]


@pytest.fixture(scope="module")
def browser():
    with Browser() as found:
        yield found


@pytest.mark.parametrize("dark", [False, True])
@pytest.mark.parametrize("width", [380, 768, 1280])
def test_the_page_fits_its_width_and_says_nothing_in_the_console(pages, browser, width, dark):
    for page in pages:
        browser.show(page, width=width, dark=dark)
        browser.evaluate("document.querySelectorAll('details').forEach(d => d.open = true)")
        assert browser.evaluate("document.documentElement.scrollWidth") <= width, page
        assert browser.evaluate(WIDER) == "", page
        assert browser.evaluate(CLIPPED) == "", page
        assert browser.evaluate("document.scripts.length") == 0
        assert browser.evaluate("document.title") != "owned"
        ground = browser.evaluate("getComputedStyle(document.body).backgroundColor")
        assert ground == ("rgb(20, 23, 26)" if dark else "rgb(250, 249, 246)")  # the style sheet is let through
    assert browser.messages == []


def test_a_screenshot_is_not_blank(pages, browser, tmp_path):
    browser.show(pages[0], width=1280)
    browser.screenshot(tmp_path / "page.png")
    assert (tmp_path / "page.png").stat().st_size > 50_000
