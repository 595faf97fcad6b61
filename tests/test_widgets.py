"""The widgets: what is in their traits, what Python hears, and what a browser shows of both."""

from __future__ import annotations

import base64
import io
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import synthetic
from PIL import Image

from zoolib import routes, widgets
from zoolib.grid import grid
from zoolib.results import Result, ResultStore
from zoolib.spec import ZoolibError

MEMBERS = ("rotation", "jigsaw", "corruption")
TITLES = dict(zip(MEMBERS, ("Rotation", "Jigsaw", "Corruption"), strict=True))


def recorded(method: str, tmp_path: Path) -> Result:
    """A made-up record of digits-zoo as the store returns it, with outputs for Hub-Pathway."""
    result = synthetic.result(grid("cls", "digits", "digits-zoo", method, "mini", 1)[0])
    if method == "hub_pathway":
        rng, few = np.random.default_rng(0), result.samples.iloc[::2]
        columns: dict[str, Any] = {"index": few["index"].to_numpy(), "label": few["label"].to_numpy()}
        for name in (*(f"member:{m}" for m in MEMBERS), "k:1", "k:2", "k:3"):
            columns[f"top:{name}"] = [rng.permutation(10)[:3].astype(np.int32) for _ in range(len(few))]
            columns[f"probability:{name}"] = [np.sort(rng.random(3).astype(np.float16))[::-1] for _ in range(len(few))]
        result._tables["outputs"] = pd.DataFrame(columns)
    return ResultStore(tmp_path).save(result)


@pytest.fixture
def result(tmp_path: Path) -> Result:
    return recorded("hub_pathway", tmp_path)


def sent(widget: Any, **state: Any) -> None:
    """What arrives when the browser changes traits."""
    widget._handle_msg({"content": {"data": {"method": "update", "state": state}}})


def test_the_explorer_holds_what_the_record_holds(result: Result):
    widget = widgets.explorer(result, TITLES)
    assert len(widget.index) == len(result.outputs) == 20 and widget.k == 2 and widget.members == list(TITLES.values())
    row = result.samples.set_index("index").loc[widget.index[7]]
    assert widget.weights[7] == pytest.approx([row[f"weight:{name}"] for name in MEMBERS], abs=1e-4)
    kept = result.outputs.iloc[7]
    assert [pair[0] for pair in widget.own[7][1]] == kept["top:member:jigsaw"].tolist()
    assert [pair[1] for pair in widget.aggregate[7][2]] == pytest.approx(kept["probability:k:3"].tolist(), abs=1e-3)
    assert all(uri.startswith("data:image/png;base64,") for uri in widget.thumbs)
    json.dumps(widget.get_state())  # no array, no half float


def test_python_hears_what_is_selected(result: Result):
    widget, heard = widgets.explorer(result), []
    widget.observe(heard.append, ["selected", "k"])
    sent(widget, selected=3)
    sent(widget, k=1)
    assert [(change["name"], change["new"]) for change in heard] == [("selected", 3), ("k", 1)]


def test_a_record_without_outputs_or_gates_is_refused(tmp_path: Path):
    bare = synthetic.result(grid("cls", "digits", "digits-zoo", "hub_pathway", "mini", 1)[0])
    with pytest.raises(ZoolibError, match="keeps no outputs"):
        widgets.explorer(bare)
    with pytest.raises(ZoolibError, match="no gates"):
        widgets.gate_explorer(bare, list("ABC"))


def png(side: int = 12) -> str:
    stream = io.BytesIO()
    Image.fromarray(np.full((side, side, 3), 200, np.uint8)).save(stream, "PNG")
    return base64.b64encode(stream.getvalue()).decode()


def test_an_uploaded_image_runs_the_real_model_and_is_shown(result: Result):
    widget, seen = widgets.explorer(result), []

    def explain(image: np.ndarray) -> dict[str, Any]:
        seen.append(image.shape)
        answer: dict[str, Any] = {f"weight:{n}": [w] for n, w in zip(MEMBERS, (0.5, 0.25, 0.25), strict=True)}
        for name in (*(f"member:{n}" for n in MEMBERS), "k:1", "k:2", "k:3"):
            answer |= {f"top:{name}": [[4, 2]], f"probability:{name}": [[0.75, 0.25]]}
        return answer

    widget.attach(explain)
    assert not widget.live, "what a page saves that no front end has shown"
    widget._handle_custom_msg({"ask": "live"}, [])
    assert widget.live
    sent(widget, upload={"name": "mine.png", "content": png()})
    assert seen == [(12, 12, 3)] and widget.message == ""
    assert widget.labels[-1] == -1 and widget.selected == 20 and widget.aggregate[-1][1] == [[4, 0.75], [2, 0.25]]
    assert widget.entropy[-1] == pytest.approx(-(0.5 * np.log(0.5) + 0.5 * np.log(0.25)))
    sent(widget, upload={"name": "notes.txt", "content": base64.b64encode(b"no image").decode()})
    assert "notes.txt is not a readable image" in widget.message and len(widget.labels) == 21
    turned = io.BytesIO()
    exif = Image.Exif()
    exif[0x0112] = 6  # to be shown turned by a quarter
    Image.new("RGB", (10, 6)).save(turned, "JPEG", exif=exif)
    sent(widget, upload={"name": "turned.jpg", "content": base64.b64encode(turned.getvalue()).decode()})
    assert seen[-1] == (10, 6, 3) and widget.message == "", "as training images are"
    sent(widget, upload={"name": "nothing.png", "content": None})
    assert "nothing.png is not a readable image" in widget.message

    def fail(image: np.ndarray) -> dict[str, Any]:
        raise ZoolibError("no room for this image")

    widget.attach(fail)
    sent(widget, upload={"name": "other.png", "content": png()})
    assert widget.message == "no room for this image"


def test_the_gate_explorer_has_the_means_of_all_samples(tmp_path: Path):
    result = recorded("zoo_tuning", tmp_path)
    widget = widgets.gate_explorer(result, list(TITLES.values()), most=10)
    gates, layers = routes.gates_of(result.samples)
    assert widget.layers == layers and len(widget.gates) == 10
    assert np.allclose(widget.mean, gates.mean(0), atol=1e-3)
    assert np.allclose(widget.class_mean["3"], gates[result.samples["label"] == 3].mean(0), atol=1e-3)


def frame() -> pd.DataFrame:
    return pd.DataFrame(
        {"here (%)": ["80.0", "not run", "91.5"], "paper (%)": ["81.2", "85.6", "not in the paper"]},
        index=pd.Index(["Fine-tuning", "Hub-Pathway", "Zoo-Tuning"], name="method"),
    )


def table() -> widgets.TableExplorer:
    values = {"here (%)": [80.0, np.nan, 91.5], "paper (%)": [81.2, 85.6, np.nan]}
    return widgets.table_explorer(frame(), values, {"here (%)": "ours", "paper (%)": "paper"})


def test_the_table_keeps_texts_and_numbers_and_refuses_columns_that_are_not_there():
    widget = table()
    assert [column["name"] for column in widget.columns] == ["method", "here (%)", "paper (%)"]
    assert widget.rows[1][1] == {"text": "not run", "value": None} and widget.rows[2][1]["value"] == 91.5
    with pytest.raises(ZoolibError, match="no column 'ours'"):
        widgets.table_explorer(frame(), {}, {"ours": "ours"})
    with pytest.raises(ZoolibError, match="2 values for 3 rows"):
        widgets.table_explorer(frame(), {"here (%)": [1, 2]}, {})


def test_every_widget_has_a_picture_for_print(result: Result, tmp_path: Path):
    sheet = widgets.picture(widgets.explorer(result, TITLES), 6)
    assert sum(len(axes.images) for axes in sheet.axes) == 6
    panels = widgets.picture(widgets.gate_explorer(recorded("zoo_tuning", tmp_path), list("ABC")))
    assert len(panels.axes) == 6 + 2  # the mean, five classes, two colour bars


# In a browser: the widget's own script with the traits that Python made

PAGE = """<!doctype html><html lang="en" data-theme="THEME"><meta charset="utf-8"><style>CSS
html[data-theme=dark] body { background: #14181e; color: #ced6dd; }</style><body><script type="module">
const state = STATE, listeners = {};
window.model = {
  get: name => state[name], save_changes() {},
  set(name, value) {
    if (state[name] === value) return;
    state[name] = value;
    for (const f of listeners["change:" + name] ?? []) f();
  },
  on(event, f) { (listeners[event] ??= []).push(f); },
  off(event, f) { listeners[event] = listeners[event].filter(g => g !== f); },
};
const module = await import("data:text/javascript;base64,ESM");
window.leave = module.default.render({ model: window.model, el: document.body });
window.ready = true;
</script></body></html>"""


def page(widget: Any, path: Path, theme: str = "light") -> Path:
    state = {name: value for name, value in widget.get_state().items() if not name.startswith("_")}
    esm = base64.b64encode(widget._esm.encode()).decode()
    text = PAGE.replace("THEME", theme).replace("CSS", widget._css).replace("ESM", esm)
    path.write_text(text.replace("STATE", json.dumps(state)))
    return path


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """One headless Chromium for all tests."""
    webdriver = pytest.importorskip("selenium.webdriver", reason="selenium is not installed")
    from selenium.webdriver.chrome.service import Service

    binary, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if not binary or not driver:
        pytest.skip("chromium or chromedriver is missing; apt-get install chromium chromium-driver")
    options = webdriver.ChromeOptions()
    options.binary_location = binary
    for argument in ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run",
                     "--disable-background-networking", "--window-size=900,900",
                     f"--user-data-dir={tmp_path_factory.mktemp('profile')}"):  # fmt: skip
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    opened = webdriver.Chrome(options=options, service=Service(driver))
    yield opened
    opened.quit()


class Page:
    """An opened widget."""

    def __init__(self, browser: Any, path: Path) -> None:
        from selenium.webdriver.support.ui import WebDriverWait

        self.browser = browser
        browser.get(path.as_uri())
        WebDriverWait(browser, 10).until(lambda b: b.execute_script("return Boolean(window.ready)"))
        assert [entry for entry in browser.get_log("browser") if entry["level"] == "SEVERE"] == []

    def all(self, selector: str) -> list[Any]:
        return self.browser.find_elements("css selector", selector)

    def text(self, selector: str) -> str:
        return self.all(selector)[0].text

    def trait(self, name: str) -> Any:
        return self.browser.execute_script(f"return model.get('{name}')")

    def keys(self, *keys: str) -> None:
        from selenium.webdriver.common.action_chains import ActionChains

        ActionChains(self.browser).send_keys(*keys).perform()


def test_a_click_shows_the_numbers_of_that_image(browser: Any, result: Result, tmp_path: Path):
    widget = widgets.explorer(result, TITLES)
    opened = Page(browser, page(widget, tmp_path / "page.html"))
    opened.all('.zw-thumbs button[data-i="7"]')[0].click()
    assert opened.trait("selected") == 7
    assert [cell.text for cell in opened.all(".zw-detail tbody .zw-number")] == [f"{w:.3f}" for w in widget.weights[7]]
    label, probability = widget.aggregate[7][1][0]
    assert opened.text(".zw-answer b").startswith(f"{label} ") and str(round(100 * probability))[0] in opened.text(
        ".zw-answer"
    )
    assert len(opened.all(".zw-detail tr.zw-on")) == 2


def test_the_slider_for_k_changes_prediction_and_active_models_by_keys_alone(
    browser: Any, result: Result, tmp_path: Path
):
    from selenium.webdriver.common.keys import Keys

    widget = widgets.explorer(result, TITLES)
    opened = Page(browser, page(widget, tmp_path / "page.html"))
    browser.execute_script("document.querySelector('.zw-k').focus()")
    opened.keys(Keys.ARROW_RIGHT)
    assert opened.trait("k") == 3 and len(opened.all(".zw-detail tr.zw-on")) == 3
    assert opened.text(".zw-answer b").startswith(f"{widget.aggregate[0][2][0][0]} ")
    browser.execute_script("document.querySelector('.zw-thumbs [aria-selected=true]').focus()")
    opened.keys(Keys.ARROW_RIGHT)
    opened.keys(Keys.ARROW_RIGHT)
    assert opened.trait("selected") == 2
    opened.keys(Keys.END)
    assert opened.trait("selected") == 19
    assert browser.execute_script("return document.activeElement.dataset.i") == "19"


def test_filters_leave_exactly_the_images_that_python_counts(browser: Any, result: Result, tmp_path: Path):
    widget = widgets.explorer(result, TITLES)
    opened = Page(browser, page(widget, tmp_path / "page.html"))
    browser.execute_script("model.set('only_class', 4)")
    assert [int(b.get_attribute("data-i")) for b in opened.all(".zw-thumbs button")] == [
        i for i, c in enumerate(widget.labels) if c == 4
    ]
    browser.execute_script("model.set('only_class', -1); model.set('only', 'right')")
    right = [i for i, label in enumerate(widget.labels) if widget.aggregate[i][1][0][0] == label]
    assert [int(b.get_attribute("data-i")) for b in opened.all(".zw-thumbs button")] == right
    browser.execute_script("model.set('only', 'all'); model.set('min_entropy', 1.0)")
    assert len(opened.all(".zw-thumbs button")) == sum(e >= 1.0 for e in widget.entropy)
    assert not opened.all("input[type=file]")[0].is_displayed()  # without a kernel nothing can be run


def test_the_layer_slider_and_the_heat_map_show_the_gates(browser: Any, tmp_path: Path):
    from selenium.webdriver.common.keys import Keys

    widget = widgets.gate_explorer(recorded("zoo_tuning", tmp_path), list(TITLES.values()))
    opened = Page(browser, page(widget, tmp_path / "page.html"))
    browser.execute_script("document.querySelector('.zw-layer').focus()")
    opened.keys(Keys.ARROW_RIGHT)
    shown = [cell.text for cell in opened.all(".zw-bars .zw-number")]
    assert shown == [f"{v:.3f}" for v in widget.mean[1]]
    opened.all(".zw-map tr[data-layer='3'] th")[0].click()
    browser.execute_script("model.set('only_class', 2); model.set('mode', 'class')")
    assert [cell.text for cell in opened.all(".zw-bars .zw-number")] == [f"{v:.3f}" for v in widget.class_mean["2"][3]]
    opened.all(".zw-thumbs button")[5].click()
    assert opened.trait("mode") == "image"
    assert [cell.text for cell in opened.all(".zw-bars .zw-number")] == [f"{v:.3f}" for v in widget.gates[5][3]]


def test_the_table_sorts_filters_and_toggles_with_missing_numbers_last(browser: Any, tmp_path: Path):
    from selenium.webdriver.common.keys import Keys

    opened = Page(browser, page(table(), tmp_path / "page.html"))

    def names() -> list[str]:
        return [cell.text for cell in opened.all("tbody th")]

    browser.execute_script("document.querySelector('thead button[data-c=\"1\"]').focus()")
    opened.keys(Keys.ENTER)
    assert names() == ["Zoo-Tuning", "Fine-tuning", "Hub-Pathway"]
    opened.keys(Keys.ENTER)  # the focus has stayed on the heading
    assert names() == ["Fine-tuning", "Zoo-Tuning", "Hub-Pathway"]
    assert opened.all("thead th")[1].get_attribute("aria-sort") == "ascending"
    browser.execute_script("model.set('show', 'paper')")
    assert [cell.text.strip(" ▼▲") for cell in opened.all("thead th")] == ["method", "paper (%)"]
    opened.all("input[type=search]")[0].send_keys("tuning")
    assert names() == ["Fine-tuning", "Zoo-Tuning"] and "2 of 3 rows" in opened.text(".zw-count")
    opened.all("tbody tr")[1].click()
    assert opened.trait("selected") == 2


def test_a_column_of_few_words_is_chosen_from_by_its_whole_word(browser: Any, tmp_path: Path):
    from selenium.webdriver.support.ui import Select

    verdicts = ["supported", "not supported", "not run"] * 3
    board = pd.DataFrame({"verdict": verdicts, "claim": [f"claim {i}" for i in range(9)]}).set_index("verdict")
    opened = Page(browser, page(widgets.table_explorer(board, {}, {}), tmp_path / "page.html"))
    (select,) = [found for found in opened.all("select") if found.is_displayed()]
    choices = Select(select)
    assert [option.text for option in choices.options] == ["any", "not run", "not supported", "supported"]

    def claims() -> list[str]:
        return [cell.text for cell in opened.all("tbody td")]

    choices.select_by_visible_text("supported")
    assert claims() == ["claim 0", "claim 3", "claim 6"] and opened.trait("only") == {"0": "supported"}
    opened.all("input[type=search]")[0].send_keys("3")
    assert claims() == ["claim 3"]
    browser.execute_script("model.set('query', ''); model.set('only', {})")
    assert len(claims()) == 9 and choices.first_selected_option.text == "any"


CONTRAST = """
const parse = c => (c.match(/[\\d.]+/g) || []).map(Number);
const lum = c => { const f = v => (v /= 255) <= .03928 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4;
  return .2126 * f(c[0]) + .7152 * f(c[1]) + .0722 * f(c[2]); };
const body = parse(getComputedStyle(document.body).backgroundColor);
const b = lum(body.length == 4 ? [255, 255, 255] : body);
return [...document.querySelectorAll('.zw :is(p, th, td, label, output, .zw-right, .zw-wrong)')]
  .filter(e => e.offsetParent && e.textContent.trim())
  .map(e => lum(parse(getComputedStyle(e).color))).map(a => (Math.max(a, b) + .05) / (Math.min(a, b) + .05))
  .filter(ratio => ratio < 4.5);
"""


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_every_widget_is_readable_in_both_themes_and_fits_a_telephone(
    browser: Any, result: Result, tmp_path: Path, theme: str
):
    gates = widgets.gate_explorer(recorded("zoo_tuning", tmp_path), list(TITLES.values()))
    size = {"width": 390, "height": 800, "deviceScaleFactor": 1, "mobile": False}
    for name, widget in {"paths": widgets.explorer(result, TITLES), "gates": gates, "table": table()}.items():
        opened = Page(browser, page(widget, tmp_path / f"{name}.html", theme))
        assert browser.execute_script(CONTRAST) == [], name
        browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
        try:
            assert browser.execute_script("return document.documentElement.scrollWidth") <= 390, name
        finally:
            browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
        assert opened.all("button, select, input")
        browser.save_screenshot(str(tmp_path / f"{name}-{theme}.png"))
