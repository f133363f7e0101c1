"""The HTML report in a real headless Chromium: no error, no network request, and what was recorded."""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from rlkv_eval.folder import Entry, Run, create, keep_heads, keep_problems, result_path, write_run
from rlkv_eval.glossary import MEANINGS
from rlkv_eval.methods import Step
from rlkv_eval.records import Sample, open_journal
from rlkv_eval.report import report
from rlkv_eval.tasks import Example

from rlkv.heads import HeadsFile, resolve

CHROMIUM = next(
    filter(None, map(shutil.which, ("chromium-headless-shell", "chromium", "google-chrome"))), None
)
pytestmark = pytest.mark.skipif(
    CHROMIUM is None, reason="needs Chromium: apt-get install chromium-headless-shell"
)

N = 1000
TASK = "tiny:easy"
SETTINGS = {
    "samples": 1,
    "seed": 0,
    "temperature": 0.0,
    "top_p": 1.0,
    "engine": {"name": "transformers", "dtype": "float32", "packages": {"torch": "2"}},
}


def sample(index: int, method: str) -> Sample:
    """An answer of thousands of characters that deflate hardly shrinks; every third of rlkv is wrong."""
    rng = random.Random(f"{method} {index}")
    text = f"<b>{method} {index}</b> " + "".join(rng.choices("abcdefghijklmnopqrstuvwxyz \n", k=9000))
    correct = method == "full" or index % 3 > 0
    base = Sample(index, f"id{index}", text, "7", True, "equal", 9, 40, "stop", False, None, 1e4, 9e3, 50)
    return base if correct else replace(base, correct=False, finish_reason="length", extracted=None)


def answer_all(folder: Path, steps: list[Step], n: int) -> None:
    """Make a run folder of ``n`` problems, each answered in every step."""
    create(folder)
    keep_problems(folder, TASK, [Example(f"id{i}", f"problem <i>number</i> {i}", "7") for i in range(n)])
    heads = keep_heads(folder, "rlkv", HeadsFile.read(resolve("tiny-reasoner")))
    entries = []
    for step in steps:
        path = result_path(TASK, step.method, step.level, {"step": str(step)})
        with open_journal(folder / path, {"step": str(step)}, n, 1) as journal:
            journal.append([replace(sample(i, step.method), kv_bytes=held(step)) for i in range(n)])
        own = heads if step.method == "rlkv" else None
        entries.append(Entry(TASK, step.method, step.sparsity, None, path, own, step.budget))
    write_run(folder, Run("tiny-reasoner", "4+28", SETTINGS, {TASK: {"num_problems": n}}, entries))


def held(step: Step) -> float:
    """Bytes of an answer: a little less than the budget."""
    return 1e4 if step.budget is None else 1e4 * (step.budget - 0.02)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run folder of 1,000 problems answered by two methods, with its report."""
    folder = tmp_path_factory.mktemp("run")
    answer_all(folder, [Step("full", 0.0), Step("rlkv", 0.5)], N)
    (folder / "published.tsv").write_text(
        "model\tbench\tfull\tmethod\tsp0.5\tsp0.7\n"
        "A\tTiny\t90\tRLKV\t88.5\t71.5\nA\tTiny\t90\tH2O\t50\t40\nA\tAIME24\t90\tRLKV\t12.3\t4.5\n"
    )
    report(folder, folder / "published.tsv")
    return folder


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    sync_api = pytest.importorskip("playwright.sync_api")
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@contextmanager
def opened(browser: Any, folder: Path) -> Iterator[Any]:
    """The open page of a run; leaving it checks that nothing went wrong on it."""
    troubles: list[str] = []
    page = browser.new_page(viewport={"width": 1280, "height": 900})
    page.on("console", lambda message: troubles.append(f"console: {message.text}"))
    page.on("pageerror", lambda error: troubles.append(f"error: {error}"))
    page.on("request", lambda request: troubles.append(f"request: {request.url}"))
    page.goto((folder / "report.html").as_uri())
    page.wait_for_selector("body[data-ready=yes]")
    yield page
    page.close()
    assert troubles == [f"request: {(folder / 'report.html').as_uri()}"]


@pytest.fixture(scope="module")
def page(run: Path, browser: Any) -> Iterator[Any]:
    with opened(browser, run) as page:
        yield page


def test_a_thousand_long_answers_stay_below_five_megabytes(run: Path) -> None:
    size = (run / "report.html").stat().st_size
    assert 500_000 < size < 5_000_000


def test_figures_are_those_of_the_summary(run: Path, page: Any) -> None:
    full, rlkv = json.loads((run / "summary.json").read_text())["results"]
    rows = [row.split("\t") for row in page.locator("#figures tbody tr").all_inner_texts()]
    assert [row[0].strip() for row in rows] == ["full", "rlkv"]
    columns = page.locator("#figures th").all_inner_texts()
    for name, figure in (("accuracy", "accuracy"), ("unparsed", "unparsed"), ("KV of full", "kv_share")):
        shown = [row[columns.index(name)] for row in rows]
        assert shown == [f"{full[figure]:.1%}", f"{rlkv[figure]:.1%}"]
    assert rows[1][-1] == "<0.001" and rlkv["against_full"]["lost"] == round((1 - rlkv["accuracy"]) * N)


def test_a_point_tells_its_figures(page: Any) -> None:
    page.hover("#chart .point[data-result]")
    tip = page.inner_text("#tip")
    assert "rlkv at 0.5" in tip and "overlong 33.4%" in tip and "334 lost" in tip and "unparsed 33.4%" in tip


def test_a_column_tells_what_it_means(page: Any) -> None:
    page.hover("#figures th >> text=unparsed")
    assert MEANINGS["unparsed"] in page.inner_text("#tip")


def test_figures_are_rounded_as_in_the_tables(page: Any) -> None:
    for value, digits in ((6.25, 1), (93.75, 1), (18.75, 1), (98.5, 0), (2674.5, 0), (0.05, 1), (33.4, 1)):
        assert page.evaluate(f"fixed({value}, {digits})") == f"{value:.{digits}f}"


def test_published_curves_are_dashed_and_tell_their_figures(page: Any) -> None:
    assert page.locator("#chart g[data-published]").count() == 2  # rlkv and full; h2o took no part
    assert page.get_attribute("#chart g[data-published=rlkv] path", "stroke-dasharray")
    assert page.get_attribute("#chart g[data-method=rlkv] path", "stroke-dasharray") is None
    assert {"rlkv, published", "full, published"} <= set(page.locator("#legend li").all_inner_texts())
    assert "Dashed: published figures of A (published.tsv)" in page.inner_text("#note")
    page.hover("#chart g[data-published=rlkv] circle >> nth=1")
    tip = page.inner_text("#tip")
    assert "rlkv, published" in tip and "A, published.tsv" in tip and "accuracy 71.5% at sparsity 0.7" in tip


def test_text_of_the_chart_is_never_scaled(page: Any) -> None:
    for width in (390, 1280):
        page.set_viewport_size({"width": width, "height": 900})
        page.wait_for_function(
            "$('chart').viewBox.baseVal.width === Math.round($('chart').getBoundingClientRect().width)"
        )
        assert page.evaluate("document.documentElement.scrollWidth") == width


def test_published_figures_of_the_task_only(page: Any) -> None:
    assert "88.5%" in page.inner_text("#published") and "12.3%" not in page.inner_text("#published")


def test_heads_follow_the_slider(page: Any) -> None:
    assert page.locator("#map rect.head").count() == 48
    for sparsity, streaming in ((0.5, 24), (1, 48), (0, 0)):
        page.eval_on_selector(
            "#sparsity", "(e, v) => { e.value = v; e.dispatchEvent(new Event('input')) }", str(sparsity)
        )
        assert f"{streaming} of 48 heads stream" in page.eval_on_selector("#streaming", "e => e.value")
        assert page.locator("#map path").count() == streaming


def test_answers_stand_side_by_side(page: Any) -> None:
    page.select_option("#filter", label="left right, right wrong")
    assert page.inner_text("#count") == "334 of 1000"
    page.click("#list li >> nth=1")
    detail = page.inner_text("#detail")
    assert "problem <i>number</i> 3" in detail  # text, never markup
    left, right = page.locator("#detail .answer").all_inner_texts()
    assert left.startswith("<b>full 3</b>") and right.startswith("<b>rlkv 3</b>")
    assert left[: len(left) // 3] == sample(3, "full").text[: len(left) // 3]
    page.fill("#find", "number</i> 999")
    assert page.inner_text("#count") == "1 of 1000"
    page.fill("#find", "")


def test_budgets_are_drawn_at_the_bytes_held(tmp_path: Path, browser: Any) -> None:
    budgets = [Step(name, share, budget=1 - share) for name in ("rlkv", "r-kv") for share in (0.25, 0.5)]
    answer_all(tmp_path, [Step("full", 0.0), *budgets], 10)
    report(tmp_path)
    with opened(browser, tmp_path) as page:
        columns = page.locator("#figures th").all_inner_texts()
        rows = [row.split("\t") for row in page.locator("#figures tbody tr").all_inner_texts()]
        assert [row[columns.index("budget")] for row in rows] == ["–", "0.75", "0.5", "0.75", "0.5"]
        assert [row[columns.index("sparsity")] for row in rows] == ["0", "0.25", "0.5", "–", "–"]
        assert [row[columns.index("KV of full")] for row in rows][1:3] == ["73.0%", "48.0%"]
        assert "KV bytes held" in page.inner_html("#chart") and "sparsity" not in page.inner_html("#chart")
        left, right = (
            [
                float(mark.get_attribute("cx"))
                for mark in page.locator(f"#chart g[data-method={name}] circle").all()
            ]
            for name in ("rlkv", "r-kv")
        )
        assert left[0] < left[1] and right[0] < right[1]  # what saves least is on the left
        assert 0 < right[0] - left[0] < 10  # beside each other, not on each other
        assert page.get_attribute("#chart g[data-method=r-kv] path", "stroke-dasharray")
        assert "Dotted: methods that drop tokens" in page.inner_text("#note")
        names = page.locator("#list li span:last-child").all_inner_texts()
        assert names == [str(i) for i in range(10)]  # not what all problems begin with
