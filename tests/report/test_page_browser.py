"""The report page in a browser: it draws, searches, prints, stays offline, and runs nothing that a text brings."""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from distal.report.page import page_html, read_runs
from tests.report.run_folders import HOSTILE, add_evaluations, make_run, write_json

_BROWSERS = ("chromium", "chromium-browser", "google-chrome")
_OPTIONS = (
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--window-size=1280,900",
)
PATIENCE = 30.0
MOST_BYTES = 15_000_000

Show = Callable[[Path], Any]


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """One browser for all tests of this file."""
    selenium = pytest.importorskip("selenium.webdriver")
    from selenium.webdriver.chrome.service import Service

    program = next((found for name in _BROWSERS if (found := shutil.which(name))), None)
    driver = shutil.which("chromedriver")
    if program is None or driver is None:
        pytest.skip("no Chromium with chromedriver is installed")
    options = selenium.ChromeOptions()
    options.binary_location = program
    profile = tmp_path_factory.mktemp("profile")
    for option in (*_OPTIONS, f"--user-data-dir={profile}", "about:blank"):
        options.add_argument(option)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    started = selenium.Chrome(options=options, service=Service(driver, log_output=os.devnull))
    yield started
    started.quit()


@pytest.fixture
def show(browser: Any) -> Show:
    """Opens a page, waits until its plots are drawn, and holds it to what every page must keep."""

    def open_page(path: Path) -> Any:
        browser.get_log("performance")
        browser.get_log("browser")
        browser.get(path.as_uri())
        until(browser, "return document.documentElement.dataset.plots === 'drawn'")
        return browser

    return open_page


def until(browser: Any, condition: str) -> None:
    """Waits for a condition in the page."""
    end = time.monotonic() + PATIENCE
    while not browser.execute_script(condition):
        assert time.monotonic() < end, f"never true: {condition}"
        time.sleep(0.02)


def complaints(browser: Any) -> list[str]:
    """What the page wrote to the console, errors and refusals of the policy among it."""
    return [entry["message"] for entry in browser.get_log("browser")]


def requests_of(browser: Any, page: Path) -> list[str]:
    """Addresses that the page asked for, itself left out."""
    messages = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
    sent = [m["params"] for m in messages if m["method"] == "Network.requestWillBeSent"]
    assert any(one["request"]["url"] == page.as_uri() for one in sent), "the log of requests does not work"
    ours = [one["request"]["url"] for one in sent if one["documentURL"].startswith("file:")]
    return [url for url in ours if url != page.as_uri() and not url.startswith("data:")]


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Two pages: one run with 5,000 samples; two runs full of hostile texts."""
    folder = tmp_path_factory.mktemp("pages")
    large = add_evaluations(make_run(folder / "large"), n=5000, words=150)
    names = ("<img src=x onerror=window.hacked=1>", "two & 'more'")
    hostile = [add_evaluations(make_run(folder / name, options={"model": HOSTILE}), n=12) for name in names]
    for run in hostile:
        for stage in ("before", "after"):
            path = run / "evaluation" / "generations" / f"{stage}.json"
            rows = json.loads(path.read_text("utf-8"))
            write_json(path, [row | {"output": HOSTILE, "dataset": HOSTILE} for row in rows])
    made: dict[str, Path] = {}
    for name, runs in (("large", [large]), ("hostile", hostile)):
        made[name] = folder / f"{name}.html"
        made[name].write_bytes(page_html(read_runs(runs), made="today").encode())
    return made


def test_a_page_with_5000_samples(
    show: Show, pages: dict[str, Path], record_property: Callable[..., None]
) -> None:
    assert 8_000_000 < pages["large"].stat().st_size < MOST_BYTES
    begin = time.monotonic()
    browser = show(pages["large"])
    record_property("seconds_to_draw", time.monotonic() - begin)
    assert complaints(browser) == []
    assert requests_of(browser, pages["large"]) == []
    drawn = browser.execute_script(
        "return [...document.querySelectorAll('[data-plot]')].map(node => ["
        "node.id, [...node.querySelectorAll('.scatterlayer path.js-line')].map(path => path.getTotalLength())])"
    )
    assert {name for name, _ in drawn} >= {"quantiles-0", "gap", "training-loss", "training-rewards"}
    for name, lengths in drawn:
        assert max(lengths) > 100, f"{name} has no curve"
    assert browser.execute_script("return document.documentElement.scrollWidth <= innerWidth")


def count(browser: Any) -> str:
    return str(browser.execute_script("return document.getElementById('count').textContent"))


def choose(browser: Any, control: str, value: str) -> str:
    """Sets a filter as a reader would, and returns the count."""
    browser.execute_script(
        "const [id, value] = arguments; const node = document.getElementById(id); node.value = value;"
        "node.dispatchEvent(new Event(node.tagName === 'INPUT' ? 'input' : 'change'))",
        control,
        value,
    )
    before = count(browser)
    if control == "search":
        time.sleep(0.2)
        until(browser, "return document.getElementById('count').textContent !== ''")
    return count(browser) or before


def test_search_and_filters(show: Show, pages: dict[str, Path]) -> None:
    browser = show(pages["large"])
    generations = pages["large"].parent / "large" / "evaluation" / "generations"
    before, after = (
        json.loads((generations / f"{name}.json").read_text("utf-8")) for name in ("before", "after")
    )
    pairs = list(zip(before, after, strict=True))
    assert count(browser) == "5,000 samples"
    wanted = sum("word77" in f"{b['output']} {a['output']}".split() for b, a in pairs)
    assert wanted > 10
    whole = sum("word77" in b["output"] or "word77" in a["output"] for b, a in pairs)
    assert choose(browser, "search", "WORD77") == f"{whole:,} of 5,000 samples"
    marked = browser.execute_script(
        "return [...document.querySelectorAll('mark')].map(node => node.textContent)"
    )
    assert set(marked) == {"word77"}
    longer = [len(a["output"]) > len(b["output"]) for b, a in pairs]
    choose(browser, "search", "")
    assert choose(browser, "length", "longer") == f"{sum(longer):,} of 5,000 samples"
    koala = [b["dataset"] == "koala" for b, _ in pairs]
    both = sum(a and b for a, b in zip(longer, koala, strict=True))
    assert choose(browser, "source", "0") == f"{both:,} of 5,000 samples"
    wins = sum(a and b and place % 3 == 1 for place, (a, b) in enumerate(zip(longer, koala, strict=True)))
    assert choose(browser, "outcome", "0w") == f"{wins} of 5,000 samples"
    for control in ("length", "source"):
        choose(browser, control, "")
    assert choose(browser, "outcome", "0w") == "1,667 of 5,000 samples"
    assert browser.execute_script("return document.querySelector('.sample .chip').textContent") == "win"
    choose(browser, "outcome", "")
    choose(browser, "order", "longest")
    first = browser.execute_script("return document.querySelector('.sample h3').textContent")
    lengths = [max(len(b["output"]), len(a["output"])) for b, a in pairs]
    assert first == f"Sample {lengths.index(max(lengths)) + 1:,}"
    assert choose(browser, "search", "no such words") == "0 of 5,000 samples"
    assert browser.execute_script("return document.querySelectorAll('.sample').length") == 0


def test_pages_of_samples_and_long_texts(show: Show, pages: dict[str, Path]) -> None:
    browser = show(pages["large"])
    browser.execute_script("document.getElementById('next').click()")
    titles = browser.execute_script(
        "return [...document.querySelectorAll('.sample h3')].map(node => node.textContent)"
    )
    assert titles == [f"Sample {place}" for place in range(11, 21)]
    more = "document.querySelector('.more')"
    assert browser.execute_script(f"return {more}.getAttribute('aria-expanded')") == "false"
    grown = browser.execute_script(
        f"const body = {more}.parentElement.querySelector('.text'); const before = body.offsetHeight; {more}.click();"
        "return body.offsetHeight - before"
    )
    assert grown > 0
    assert browser.execute_script(f"return {more}.getAttribute('aria-expanded')") == "true"


def test_texts_stay_texts(show: Show, pages: dict[str, Path]) -> None:
    browser = show(pages["hostile"])
    assert complaints(browser) == []
    assert requests_of(browser, pages["hostile"]) == []
    assert browser.execute_script("return window.hacked") is None
    assert (
        browser.execute_script("return document.querySelectorAll('main script, main img, main a').length")
        == 0
    )
    shown = browser.execute_script("return document.querySelectorAll('.answer .text')[1].textContent")
    assert shown == HOSTILE
    name = browser.execute_script("return document.querySelector('.verdict .eyebrow').textContent")
    assert "<img src=x onerror=window.hacked=1>" in name
    legend = browser.execute_script("return document.querySelector('#gap .legendtext').textContent")
    assert legend == "<img src=x onerror=window.hacked=1>"
    for trick in (
        "const one = document.createElement('script'); one.textContent = 'window.hacked = 1';"
        "document.body.append(one)",
        "document.body.insertAdjacentHTML('beforeend', '<img src=x onerror=\"window.hacked=1\">')",
    ):
        browser.execute_script(trick)  # what a hole would allow is stopped by the policy all the same
    time.sleep(0.1)
    assert browser.execute_script("return window.hacked") is None
    assert "Content Security Policy" in " ".join(complaints(browser))


def test_light_dark_and_print(show: Show, pages: dict[str, Path]) -> None:
    browser = show(pages["hostile"])
    paper = "return getComputedStyle(document.body).backgroundColor"
    curve = "return document.querySelector('#quantiles-0 .scatterlayer path.js-line').style.stroke"
    browser.execute_cdp_cmd(
        "Emulation.setEmulatedMedia", {"features": [{"name": "prefers-color-scheme", "value": "light"}]}
    )
    light = [browser.execute_script(one) for one in (paper, curve)]
    assert light[1] == "rgb(0, 114, 178)"
    browser.execute_script("document.getElementById('theme').click()")
    dark = [browser.execute_script(one) for one in (paper, curve)]
    assert all(a != b for a, b in zip(light, dark, strict=True))
    assert browser.execute_script("return document.getElementById('theme').textContent") == "Light"
    browser.execute_script("window.dispatchEvent(new Event('beforeprint'))")
    assert browser.execute_script(curve) == light[1]
    widths = browser.execute_script(
        "return [...document.querySelectorAll('.main-svg')].map(n => n.getAttribute('width'))"
    )
    assert max(float(width) for width in widths) < 680  # a sheet of A4 between its margins
    browser.execute_script("window.dispatchEvent(new Event('afterprint'))")
    assert browser.execute_script(paper) == dark[0]


def test_zoom_and_keyboard(show: Show, pages: dict[str, Path]) -> None:
    from selenium.webdriver.common.action_chains import ActionChains
    from selenium.webdriver.common.keys import Keys

    browser = show(pages["large"])
    label = (
        "const node = document.activeElement; return node.id || node.dataset.zoom || node.getAttribute('href')"
        " || node.getAttribute('aria-labelledby') || node.tagName"
    )
    order: list[str] = []
    while len(order) < 120 and "next" not in order:
        ActionChains(browser).send_keys(Keys.TAB).perform()
        order.append(str(browser.execute_script(label)))
    assert order[:3] == ["#main", "theme", "#verdict"]
    reached = [
        order.index(name)
        for name in ("theme", "#citation", "in", "reset", "search", "outcome", "order", "next")
    ]
    assert reached == sorted(reached)
    limits = "return document.getElementById('gap').layout.xaxis.range"
    for how, expected in (("in", [0.2, 0.8]), ("out", [0.0, 1.0]), ("in", [0.2, 0.8]), ("reset", [0.0, 1.0])):
        browser.execute_script(
            "const [how] = arguments; const plot = document.getElementById('gap').parentElement;"
            "plot.querySelector(`[data-zoom=${how}]`).click()",
            how,
        )
        assert browser.execute_script(limits) == pytest.approx(expected)


def test_every_control_and_section_has_a_name(show: Show, pages: dict[str, Path]) -> None:
    browser = show(pages["hostile"])
    nameless = browser.execute_script(
        "return [...document.querySelectorAll('button, select, input, section, figure, table, nav, [role]')]"
        ".filter(node => !(node.getAttribute('aria-label') || node.closest('label')?.textContent.trim()"
        " || (node.getAttribute('aria-labelledby') && document.getElementById(node.getAttribute('aria-labelledby')))"
        " || (node.tagName === 'BUTTON' && node.textContent.trim()) || node.role === 'status'))"
        ".map(node => node.outerHTML.slice(0, 120))"
    )
    assert nameless == []
    twice = browser.execute_script(
        "const ids = [...document.querySelectorAll('[id]')].map(node => node.id);"
        "return ids.filter((id, place) => ids.indexOf(id) !== place && !document.getElementById(id).closest('svg'))"
    )
    assert twice == []
    levels = browser.execute_script(
        "return [...document.querySelectorAll('h1, h2, h3, h4')].map(n => +n.tagName[1])"
    )
    assert levels.count(1) == 1
    assert (
        browser.execute_script("return document.getElementById('count').getAttribute('aria-live')")
        == "polite"
    )
