"""The built book as a reader opens it: from file://, in a headless browser, with no network."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import pytest

from zoolib.paths import build_dir
from zoolib.results import Result, ResultStore

HTML = Path(os.environ.get("ZOOLIB_BOOK", build_dir() / "book-out/_build/html"))
UTILITY = {"search.html", "genindex.html", "py-modindex.html"}  # written by Sphinx, without content of ours

pytestmark = pytest.mark.skipif(not (HTML / "index.html").is_file(), reason="the book is not built; run make book")


def pages() -> list[Path]:
    """Every HTML page of the book."""
    return sorted(path for path in HTML.rglob("*.html") if "_static" not in path.parts)


def relative(page: Path) -> str:
    """A page's address below the book's folder."""
    return page.relative_to(HTML).as_posix()


class Links(HTMLParser):
    """What a page points to, and the anchors it offers."""

    def __init__(self, page: Path) -> None:
        super().__init__()
        self.targets: list[str] = []
        self.anchors: set[str] = set()
        self.feed(page.read_text())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = {name: value or "" for name, value in attrs}
        self.anchors |= {given[name] for name in ("id", "name") if name in given}
        self.targets += [given[name] for name in ("href", "src") if given.get(name)]


def test_every_link_leads_to_a_file_and_an_anchor_that_exist() -> None:
    parsed = {page: Links(page) for page in pages()}
    broken = []
    for page, links in parsed.items():
        for target in links.targets:
            parts = urlsplit(target)
            if parts.scheme or parts.netloc:
                continue
            path = (page.parent / unquote(parts.path)).resolve() if parts.path else page
            if not path.is_file():
                broken.append(f"{relative(page)} -> {target}")
            elif parts.fragment and path in parsed and unquote(parts.fragment) not in parsed[path].anchors:
                broken.append(f"{relative(page)} -> {target} (no such anchor)")
    assert broken == []


def test_no_page_fetches_anything_from_another_host() -> None:
    fetched = []
    for page in pages():
        text = page.read_text()
        for mark in ('src="http', 'src="//', 'rel="stylesheet" href="http', "cdn.", "unpkg.com", "fonts.googleapis"):
            if mark in text:
                fetched.append(f"{relative(page)}: {mark}")
    assert fetched == []


# In a browser


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """One headless Chromium for all pages."""
    webdriver = pytest.importorskip("selenium.webdriver", reason="selenium is not installed")
    from selenium.webdriver.chrome.service import Service

    binary = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    driver = shutil.which("chromedriver")
    if not binary or not driver:
        pytest.skip("chromium or chromedriver is missing; apt-get install chromium chromium-driver")
    options = webdriver.ChromeOptions()
    options.binary_location = binary
    for argument in (
        "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run",
        "--window-size=1300,1000", "--disable-background-networking", "--disable-component-update", "--disable-sync",
        f"--user-data-dir={tmp_path_factory.mktemp('profile')}",
    ):  # fmt: skip
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"performance": "ALL", "browser": "ALL"})
    opened = webdriver.Chrome(options=options, service=Service(driver))
    yield opened
    opened.quit()


def wait(browser: Any, condition: Callable[[Any], object], seconds: float = 20) -> object:
    """Wait until the condition holds and return its value."""
    from selenium.webdriver.support.ui import WebDriverWait

    return WebDriverWait(browser, seconds, poll_frequency=0.05).until(condition)


READY = """
const typesetting = window.MathJax && MathJax.startup && MathJax.startup.promise;
if (typesetting) typesetting.then(() => { window.__typeset = true; });
return document.readyState == 'complete' && (!typesetting || Boolean(window.__typeset));
"""
FACTS = """
const article = document.querySelector('article') || document.body;
const images = [...article.querySelectorAll('img')];
const drawn = [...article.querySelectorAll('svg[role=img]')].filter(s => !s.closest('mjx-container'));
return {
  h1: article.querySelectorAll('h1').length,
  text: article.textContent,
  written: document.querySelectorAll('span.math, div.math').length,
  typeset: document.querySelectorAll('span.math mjx-container, div.math mjx-container').length,
  wrong: [...document.querySelectorAll('mjx-merror, [data-mml-node=merror]')].length,
  unnamed: images.filter(i => !i.alt.trim() || /\\.(png|svg|jpe?g)$/.test(i.alt)).map(i => i.src),
  unloaded: images.filter(i => i.complete && !i.naturalWidth).map(i => i.src),
  untitled: drawn.filter(s => !s.querySelector('title')).length,
  empty: [...article.querySelectorAll('section')].filter(s => s.children.length < 2).map(s => s.id),
};
"""


@dataclass(frozen=True)
class Visit:
    """What one page did when it was opened."""

    outside: list[str]
    severe: list[str]
    facts: dict[str, Any]


def outside(browser: Any) -> list[str]:
    """Requests since the last call that would leave the machine."""
    found = []
    for entry in browser.get_log("performance"):
        message = json.loads(entry["message"])["message"]
        if message["method"] == "Network.requestWillBeSent":
            url = message["params"]["request"]["url"]
            if url.startswith(("http", "ws", "//")):
                found.append(url)
    return found


@pytest.fixture(scope="module")
def visits(browser: Any) -> dict[str, Visit]:
    """Every page, opened once."""
    found = {}
    for page in pages():
        browser.get(page.as_uri())
        wait(browser, lambda opened: opened.execute_script(READY))
        facts = browser.execute_script(FACTS)
        severe = [entry["message"] for entry in browser.get_log("browser") if entry["level"] == "SEVERE"]
        found[relative(page)] = Visit(outside(browser), severe, facts)
    return found


def where(visits: dict[str, Visit], problem: Callable[[Visit], object]) -> dict[str, object]:
    """The pages of ours that have a problem, each with it."""
    return {name: found for name, visit in visits.items() if name not in UTILITY and (found := problem(visit))}


def test_no_page_asks_for_anything_outside(visits: dict[str, Visit]) -> None:
    assert {name: visit.outside for name, visit in visits.items() if visit.outside} == {}


def test_no_page_writes_an_error_to_the_console(visits: dict[str, Visit]) -> None:
    assert {name: visit.severe for name, visit in visits.items() if visit.severe} == {}


def test_every_page_has_one_heading_of_the_first_level(visits: dict[str, Visit]) -> None:
    assert where(visits, lambda visit: [] if visit.facts["h1"] == 1 else ["h1", visit.facts["h1"]]) == {}


def test_no_page_shows_a_failure(visits: dict[str, Visit]) -> None:
    marks = (
        "Traceback (most recent call last)",
        "An Exception was encountered",
        "papermill.exceptions",
        "<Figure size",
        "Warning: ",
        "<IPython.core",
    )
    shown = {name: [mark for mark in marks if mark in visit.facts["text"]]
             for name, visit in visits.items() if not name.startswith("api/")}  # fmt: skip
    assert {name: found for name, found in shown.items() if found} == {}


def test_no_section_is_empty(visits: dict[str, Visit]) -> None:
    assert where(visits, lambda visit: visit.facts["empty"]) == {}


def test_every_picture_loads_and_has_a_description(visits: dict[str, Visit]) -> None:
    assert where(visits, lambda visit: visit.facts["unloaded"]) == {}
    assert where(visits, lambda visit: visit.facts["unnamed"] or visit.facts["untitled"]) == {}


def test_all_mathematics_is_typeset_without_an_error(visits: dict[str, Visit]) -> None:
    assert visits["methods/hub_pathway.html"].facts["typeset"] > 20
    assert where(visits, lambda visit: visit.facts["wrong"]) == {}
    assert where(visits, lambda visit: visit.facts["written"] > visit.facts["typeset"]) == {}


def test_search_finds_a_method_without_a_server(browser: Any) -> None:
    browser.get((HTML / "search.html").as_uri() + "?q=hub_pathway")
    script = "return [...document.querySelectorAll('#search-results li a')].map(a => a.getAttribute('href'))"
    links = wait(browser, lambda opened: opened.execute_script(script))
    assert any("methods" in link for link in links), links  # type: ignore[attr-defined]
    assert outside(browser) == []
    assert [entry for entry in browser.get_log("browser") if entry["level"] == "SEVERE"] == []


CONTRAST = """
const parse = c => (c.match(/[\\d.]+/g) || [0, 0, 0, 0]).map(Number);
const lum = c => { const f = v => (v /= 255) <= .03928 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4;
  return .2126 * f(c[0]) + .7152 * f(c[1]) + .0722 * f(c[2]); };
const behind = e => { for (; e; e = e.parentElement) { const c = parse(getComputedStyle(e).backgroundColor);
  if (c.length < 4 || c[3] > .5) return c; } return [255, 255, 255]; };
const low = [];
for (const e of document.querySelectorAll('article :is(h1, h2, p, li, td, th, a, code, pre span, summary)')) {
  if (!e.offsetParent || !e.textContent.trim() || e.matches('.headerlink')) continue;
  const a = lum(parse(getComputedStyle(e).color)), b = lum(behind(e));
  const ratio = (Math.max(a, b) + .05) / (Math.min(a, b) + .05);
  if (ratio < 4.5) low.push([e.tagName, e.className, e.textContent.trim().slice(0, 30), ratio.toFixed(2)].join(' '));
}
return low;
"""
MAIN = ("index.html", "quickstart.html", "methods/hub_pathway.html", "data/cars.html", "profiles.html",
        "api/zoolib.losses.html")  # fmt: skip


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_text_is_readable_in_both_themes(browser: Any, theme: str) -> None:
    faint = {}
    for name in MAIN:
        browser.get((HTML / name).as_uri())
        browser.execute_script(
            f"document.documentElement.dataset.theme = document.documentElement.dataset.mode = '{theme}'"
        )
        wait(browser, lambda opened: opened.execute_script(READY))
        if low := browser.execute_script(CONTRAST):
            faint[name] = low[:8]
    assert faint == {}


def test_no_main_page_is_wider_than_a_telephone(browser: Any) -> None:
    size = {"width": 400, "height": 800, "deviceScaleFactor": 1, "mobile": False}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    try:
        wide = {}
        for page in [*MAIN, *(relative(path) for path in (HTML / "results").glob("*.html"))]:
            browser.get((HTML / page).as_uri())
            wait(browser, lambda opened: opened.execute_script(READY))
            width = browser.execute_script("return document.documentElement.scrollWidth")
            if width > 400:
                wide[page] = width
        assert wide == {}
    finally:
        browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


def explored(records: list[Result]) -> list[str]:
    """Pages with a pathway explorer, of what has a record with outputs; the landing page shows one of these cases."""
    cases = {f"explore-{r.spec.dataset}-{Path(r.spec.hub).stem}" for r in records if r.outputs is not None}
    pages = [relative(page) for page in sorted((HTML / "results").glob("explore-*.html")) if page.stem in cases]
    return ["index.html", *pages] if cases else []


def test_every_explorer_answers_a_click_with_the_numbers_of_a_record(browser: Any) -> None:
    records = ResultStore.default().records(task="cls", method="hub_pathway")
    samples = [r.samples for r in records if r.samples is not None]
    names, checked = explored(records), []
    if not names:
        pytest.skip("no record of Hub-Pathway holds outputs; run make book")
    for name in names:
        browser.get((HTML / name).as_uri())
        wait(browser, lambda opened: opened.execute_script(READY))
        wait(browser, lambda opened: opened.find_elements("css selector", ".zw-thumbs button"), 40)
        browser.execute_script("document.querySelectorAll('.zw-thumbs button')[3].click()")
        alt = browser.execute_script("return document.querySelector('.zw-thumbs [aria-selected=true] img').alt")
        row = int(alt.split()[1].rstrip(":"))
        script = "return [...document.querySelectorAll('.zw-detail tbody .zw-number')].map(cell => cell.textContent)"
        shown = [float(text) for text in browser.execute_script(script)]
        kept = [s.set_index("index").filter(like="weight:") for s in samples]
        assert any(
            row in weights.index and weights.shape[1] == len(shown) and abs(weights.loc[row] - shown).max() < 2e-3
            for weights in kept
        ), (name, alt, shown)
        assert outside(browser) == []
        checked.append(name)
    assert checked == ["index.html", *(relative(page) for page in sorted((HTML / "results").glob("explore-*.html")))]


def test_no_page_weighs_more_than_five_megabytes() -> None:
    assert {relative(page): page.stat().st_size for page in pages() if page.stat().st_size > 5e6} == {}
