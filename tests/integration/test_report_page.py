"""The report in a real browser."""

from __future__ import annotations

import dataclasses
import json
import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from browser import open_page, opened_browser, requested, settle
from runs import DEMO, dedup

from beam_semdedup.config.parameters import ReportParameters
from beam_semdedup.report.job import read_report, write_report
from beam_semdedup.report.labels import precision_at
from beam_semdedup.report.page import write_page

EPS = (0.0, 0.0005, 0.01, 0.03, 0.05, 0.1, 0.15)
CONTRAST = """
const luminance = ([r, g, b]) => [r, g, b].map((c) => (c /= 255) <= 0.03928 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4)
  .reduce((sum, c, i) => sum + c * [0.2126, 0.7152, 0.0722][i], 0);
const numbers = (color) => color.match(/[\\d.]+/g).map(Number);
const poor = [];
for (const node of document.querySelectorAll("body *")) {
  const own = [...node.childNodes].some((child) => child.nodeType === 3 && child.textContent.trim());
  if (!own || !node.checkVisibility() || node.closest("button:disabled, .skip, script, svg")) continue;
  let behind = node;
  while (behind && (numbers(getComputedStyle(behind).backgroundColor)[3] ?? 1) < 0.8) behind = behind.parentElement;
  const [a, b] = [getComputedStyle(node).color, behind ? getComputedStyle(behind).backgroundColor : "rgb(255,255,255)"]
    .map((color) => color.startsWith("color(") ? numbers(color).slice(0, 3).map((c) => 255 * c) : numbers(color));
  const [light, dark] = [luminance(a), luminance(b)].sort((x, y) => y - x);
  if ((light + 0.05) / (dark + 0.05) < 4.5) poor.push(`${node.tagName}.${node.className}: ${node.textContent}`);
}
return poor;
"""


@pytest.fixture(scope="module")
def driver(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """A browser for this module."""
    with opened_browser(tmp_path_factory.mktemp("profile")) as found:
        yield found


@pytest.fixture(scope="module")
def swept(tmp_path_factory: pytest.TempPathFactory) -> dict[float, Any]:
    """Runs of a sweep over eps, by it; that with 0.05 has a report."""
    home = tmp_path_factory.mktemp("sweep")
    common = {"n_clusters": 40, "metadata_fields": ["text"], "cache_path": home / "cache", "n_probes": "exact"}
    return {eps: dedup(DEMO, home / f"eps={eps}", eps=eps, reach=max(EPS), report=eps == 0.05, **common) for eps in EPS}


@pytest.fixture
def page(driver: Any, swept: dict[float, Any]) -> Path:
    """The report of the sweep's run with 0.05, opened anew, without labels from before."""
    path = Path(swept[0.05].paths["report"])
    open_page(driver, path)
    driver.execute_script("localStorage.clear()")
    open_page(driver, path)
    return path


def number(driver: Any, name: str) -> int:
    return int(driver.find_element("id", name).text.replace(",", ""))


def give(driver: Any, eps: float) -> None:
    """Types a threshold."""
    driver.execute_script(
        "const field = document.getElementById('eps'); field.value = arguments[0];"
        "field.dispatchEvent(new Event('change'))",
        str(eps),
    )
    settle(driver)


def test_the_slider_shows_at_each_eps_of_a_sweep_what_the_sweep_found(
    driver: Any, page: Path, swept: dict[float, Any]
) -> None:
    for eps, run in swept.items():
        give(driver, eps)
        assert (number(driver, "removed"), number(driver, "kept")) == (run.num_duplicates, run.rows_kept)
        assert driver.find_element("id", "removed-share").text == f"{run.num_duplicates / 50:.2f} %"
        # The slider and the line went with it, and the pairs are on their sides of the threshold.
        position = float(driver.find_element("id", "slider").get_property("value")) / 10_000
        assert position == pytest.approx((eps / 0.15) ** 0.5, abs=2e-4)
        kinds = driver.find_elements("css selector", "#pairs .kind")
        scores = [[float(s.text.split()[0]) for s in k.find_elements("css selector", ".score")] for k in kinds]
        assert all(score < 1 - eps + 1e-6 for score in scores[0])
        assert all(score >= 1 - eps - 1e-6 for score in [*scores[1], *scores[2]])
    assert driver.get_log("browser") == []


def test_the_slider_is_moved_by_keys_and_by_hand(driver: Any, page: Path, swept: dict[float, Any]) -> None:
    from selenium.webdriver.common.action_chains import ActionChains
    from selenium.webdriver.common.keys import Keys

    slider = driver.find_element("id", "slider")
    slider.send_keys(Keys.ARROW_LEFT * 10, Keys.PAGE_DOWN)
    settle(driver)
    assert driver.find_element("id", "eps").get_property("value") == "0.03"
    assert number(driver, "removed") == swept[0.03].num_duplicates
    assert f"{swept[0.03].num_duplicates:,} rows removed" in slider.get_attribute("aria-valuetext")
    slider.send_keys(Keys.HOME)
    settle(driver)
    assert number(driver, "removed") == swept[0.0].num_duplicates
    slider.send_keys(Keys.END)
    settle(driver)
    assert number(driver, "removed") == swept[0.15].num_duplicates
    width = slider.size["width"]
    ActionChains(driver).move_to_element_with_offset(slider, 0, 20).click().perform()
    settle(driver)
    assert float(driver.find_element("id", "eps").get_property("value")) == pytest.approx(0.15 / 4, abs=0.6 / width)
    driver.find_element("id", "reset").click()
    settle(driver)
    assert number(driver, "removed") == swept[0.05].num_duplicates


def test_labels_give_the_precision_that_python_computes(
    driver: Any, page: Path, swept: dict[float, Any], tmp_path: Path
) -> None:
    output = swept[0.05].paths["output"]
    run, content = read_report(ReportParameters(output_path=output))
    drawn = {f"{pair.score:.6f}": pair for pair in content.pairs if pair.band >= 0}
    body = driver.find_element("tag name", "body")
    for count in range(60):  # as a person would who finds all above 0.96 the same, by keys and by buttons
        score = driver.find_element("css selector", "#question .score").text.split()[0]
        assert score in drawn
        same = float(score) >= 0.96
        if count % 2:
            body.send_keys("s" if same else "d")
        else:
            driver.find_element("id", "same" if same else "different").click()
    body.send_keys("d", "u")  # one that was wrong
    settle(driver)
    stored = driver.execute_script(
        "return Object.entries(localStorage).find(([key]) => key.startsWith('semdedup-labels:'))[1]"
    )
    labels = json.loads(stored)
    assert len(labels) == 60
    by_key = {pair.key: pair for pair in content.pairs if pair.band >= 0}
    assert all(same == (round(by_key[key].score, 6) >= 0.96) for key, same in labels.items())
    places = [by_key[key].place for key in labels]
    collected = content.collected

    def shown() -> tuple[str, str]:
        return tuple(driver.find_element("id", f"precision-{what}").text for what in ("said", "interval"))  # type: ignore[return-value]

    for eps in (0.02, 0.05, 0.07):
        expected = precision_at(collected.scale, collected.found, places, list(labels.values()), eps)
        assert expected is not None
        give(driver, eps)
        told = f"{100 * expected.estimate:.1f} %", f"{100 * expected.low:.1f} % and {100 * expected.high:.1f} %"
        assert shown() == told
    # The suggestion is the last threshold whose lower end reaches what is wanted.
    lows = [
        precision_at(collected.scale, collected.found, places, list(labels.values()), float(eps))
        for eps in collected.scale.values[: collected.scale.place(0.15) + 1]
    ]
    driver.execute_script(
        "const field = document.getElementById('wanted'); field.value = 80; field.dispatchEvent(new Event('input'))"
    )
    last = max(place for place, precision in enumerate(lows) if precision and precision.low >= 0.8)
    driver.find_element("id", "use").click()
    settle(driver)
    suggested = float(driver.find_element("id", "eps").get_property("value"))
    assert number(driver, "removed") == collected.found[last]
    assert suggested <= collected.scale.values[last]
    # Saved labels are read again by the command, and by the page.
    saved = tmp_path / "labels.json"
    entries = [{"pair": pair, "same": same} for pair, same in labels.items()]
    saved.write_text(json.dumps({"program": "beam-semdedup", "labels": entries}))
    driver.execute_script("localStorage.clear()")
    open_page(driver, page)
    driver.find_element("id", "load").send_keys(str(saved))
    for _ in range(50):
        if "60 labels read" in driver.find_element("id", "file-said").text:
            break
        time.sleep(0.05)
    expected = precision_at(collected.scale, collected.found, places, list(labels.values()), 0.05)
    assert expected is not None
    assert shown()[0] == f"{100 * expected.estimate:.1f} %"
    driver.execute_script("localStorage.clear()")
    p = ReportParameters(output_path=output, labels=str(saved))
    write_report(p, *read_report(p))
    open_page(driver, page)
    assert shown()[0] == f"{100 * expected.estimate:.1f} %"
    write_report(ReportParameters(output_path=output), run, content)


def test_it_saves_what_it_loads(driver: Any, page: Path, tmp_path: Path) -> None:
    driver.execute_cdp_cmd("Browser.setDownloadBehavior", {"behavior": "allow", "downloadPath": str(tmp_path)})
    body = driver.find_element("tag name", "body")
    body.send_keys("s", "d", "k", "s")
    driver.find_element("id", "save").click()
    for _ in range(100):
        if (tmp_path / "labels.json").exists():
            break
        time.sleep(0.05)
    saved = json.loads((tmp_path / "labels.json").read_text())
    assert [label["same"] for label in saved["labels"]] == [True, False, True]
    assert set(saved["labels"][0]) == {"pair", "same", "score", "id", "max_id"}


@pytest.mark.parametrize(
    ("recall", "said"),
    [
        (None, "All|proven: n_probes=exact"),
        ({"estimate": 1.0, "low": 1.0, "high": 1.0, "sample": 0}, "All|proven: n_probes=exact"),
        ({"estimate": 0.95999, "low": 0.9, "high": 0.99, "sample": 500}, "95.9 %|90.0 % to 99.0 %, by 500 rows"),
        ({"estimate": None, "low": 0.0, "high": 1.0, "sample": 500}, "none there|none among 500 rows drawn"),
        ({"estimate": 0.5, "low": 0.0, "high": 1.0, "sample": 0}, "not known|no kept row was drawn"),
    ],
)
def test_the_recall_of_a_run_is_told(
    driver: Any, swept: dict[float, Any], tmp_path: Path, recall: Any, said: str
) -> None:
    run, content = read_report(ReportParameters(output_path=swept[0.05].paths["output"]))
    page = tmp_path / "report.html"
    page.write_bytes(write_page(dataclasses.replace(run, recall=recall), content))
    open_page(driver, page)
    facts = {
        name: "|".join(value.split("\n"))
        for name, value in (fact.text.split("\n", 1) for fact in driver.find_elements("css selector", "#facts div"))
    }
    assert facts["Recall"] == said


HOSTILE = [
    "<script>window.hacked = 1</script>",
    "</script><script>window.hacked = 2</script>",
    "<img src=x onerror='window.hacked = 3'>",
    "<!--<script>",
    "]]>\"'`${window.hacked = 4}",
    "javascript:window.hacked=5//",
    "\u202egnp.exe \u2066 عربي עברית",
    "👩‍👩‍👧‍👦 \u0000\u0007\u001b[31m \ud7ff \u2028 \u2029 e\u0301",
    "https://tracker.example/pixel.png",
    "x" * 100_000,
    "😀" * 25_000,
    "",
]


@pytest.fixture(scope="module")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The report of a dataset whose ids, texts and names of files and columns are meant to do harm."""
    home, rng = tmp_path_factory.mktemp("hostile"), np.random.default_rng(0)
    rows = 20 * len(HOSTILE)
    base = rng.normal(size=(rows, 16))
    base[1::2] = base[::2] + 0.02 * rng.normal(size=(rows // 2, 16))
    texts = [HOSTILE[(row // 2 + row % 2) % len(HOSTILE)] for row in range(rows)]
    column = "<b onclick=window.hacked=6>text"
    table = pa.table(
        {
            "id": [f"{row:04d}{text[:200]}" for row, text in enumerate(texts)],
            "embeddings": list(base.astype(np.float32)),
            column: texts,
            "nothing": pa.array([None if row % 3 else text for row, text in enumerate(texts)]),
            "bytes": pa.array([bytes([255, row % 256, 0]) * 40_000 for row in range(rows)]),
            "nested": pa.array([{"<i>": [text[:50]]} for text in texts]),
        }
    )
    data = home / "<script>window.hacked=7<" / "script>"
    data.mkdir(parents=True)
    pq.write_table(table, data / "part.parquet")
    fields = [column, "nothing", "bytes", "nested"]
    summary = dedup(data, home / "out", metadata_fields=fields, group_field=column, eps=0.05, report=True)
    assert summary.num_duplicates
    return Path(summary.paths["report"])


@pytest.mark.parametrize("as_image", [False, True])
def test_hostile_texts_are_shown_and_not_run(driver: Any, hostile: Path, as_image: bool) -> None:
    if as_image:
        p = ReportParameters(output_path=str(hostile.parent), image_field="<b onclick=window.hacked=6>text")
        write_report(p, *read_report(p))
    assert hostile.stat().st_size < 5_000_000
    open_page(driver, hostile)
    requested(driver)
    open_page(driver, hostile)
    for eps in (0, 0.01, 0.05, 0.3, 2):
        give(driver, eps)
    driver.execute_script("document.querySelectorAll('details').forEach((each) => each.open = true)")
    for _ in range(30):
        driver.find_element("tag name", "body").send_keys("s")
    settle(driver)
    assert driver.execute_script("return window.hacked ?? null") is None
    assert (
        driver.execute_script(
            "return document.querySelectorAll('main script, main b[onclick], main i[onclick]').length"
        )
        == 0
    )
    text = driver.execute_script("return document.body.textContent")
    for shown in (
        "<script>window.hacked = 1</script>",
        "<img src=x onerror=",
        "\\u202egnp.exe",
        "(100,000 bytes)",
        "0xff",
    ):
        assert shown in text
    images = driver.execute_script("return [...document.querySelectorAll('main img')].map((image) => image.src)")
    asked = [url for url in requested(driver) if not url.startswith("file:")]
    if as_image:
        assert "https://tracker.example/pixel.png" in images
        assert not any(re.match("javascript:|data:", source) for source in images)
        assert set(asked) <= {"https://tracker.example/pixel.png"}
    else:
        assert (images, asked) == ([], [])
        assert driver.get_log("browser") == []


def test_nothing_is_fetched(driver: Any, page: Path) -> None:
    requested(driver)
    open_page(driver, page)
    give(driver, 0.02)
    assert requested(driver) == [page.as_uri()]
    policy = driver.execute_script("return document.querySelector('meta[http-equiv]').content")
    assert policy.startswith("default-src 'none'; style-src 'sha256-")
    assert "img-src" not in policy


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_texts_have_contrast(driver: Any, page: Path, scheme: str) -> None:
    open_page(driver, page, scheme=scheme)
    dark = driver.execute_script("return getComputedStyle(document.body).backgroundColor") == "rgb(19, 21, 24)"
    assert dark == (scheme == "dark")
    for _ in range(3):
        driver.find_element("tag name", "body").send_keys("s")
    driver.execute_script("document.querySelectorAll('details').forEach((each) => each.open = true)")
    settle(driver)
    assert driver.execute_script(CONTRAST) == []
    driver.find_element("id", "theme").click()
    settle(driver)
    assert (
        driver.execute_script("return getComputedStyle(document.body).backgroundColor") == "rgb(19, 21, 24)"
    ) != dark
    assert driver.execute_script(CONTRAST) == []


def test_it_fits_a_phone_and_a_keyboard(driver: Any, page: Path) -> None:
    open_page(driver, page, width=360)
    assert driver.execute_script("return document.documentElement.scrollWidth") == 360
    small = driver.execute_script(
        "return [...document.querySelectorAll('button, .button')].filter((b) => b.checkVisibility())"
        ".filter((b) => b.getBoundingClientRect().height < 40).map((b) => b.id)"
    )
    assert small == []
    open_page(driver, page)
    nameless = driver.execute_script(
        "return [...document.querySelectorAll('input, button')].filter((each) => !(each.labels?.length ||"
        " each.getAttribute('aria-label') || each.textContent.trim())).map((each) => each.id)"
    )
    assert nameless == []
    from selenium.webdriver.common.action_chains import ActionChains
    from selenium.webdriver.common.keys import Keys

    reached = []
    for _ in range(20):
        ActionChains(driver).send_keys(Keys.TAB).perform()
        reached.append(driver.execute_script("return document.activeElement.id"))
    wanted = ["theme", "eps", "slider", "same", "different", "later", "wanted", "save", "load", "forget"]
    assert [name for name in reached if name in wanted] == wanted
