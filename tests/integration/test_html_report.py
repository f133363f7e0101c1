"""The HTML report in a real headless Chromium: no error, no network request, and what was recorded."""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from rlkv_eval.folder import Entry, Run, create, keep_heads, keep_problems, result_path, write_run
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


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run folder of 1,000 problems answered by two methods, with its report."""
    folder = tmp_path_factory.mktemp("run")
    create(folder)
    keep_problems(folder, TASK, [Example(f"id{i}", f"problem <i>number</i> {i}", "7") for i in range(N)])
    heads = keep_heads(folder, "rlkv", HeadsFile.read(resolve("tiny-reasoner")))
    entries = []
    for method, sparsity, own in (("full", 0.0, None), ("rlkv", 0.5, heads)):
        identity = {"method": method}
        path = result_path(TASK, method, f"{sparsity:g}", identity)
        with open_journal(folder / path, identity, N, 1) as journal:
            journal.append([sample(i, method) for i in range(N)])
        entries.append(Entry(TASK, method, sparsity, None, path, own))
    write_run(folder, Run("tiny-reasoner", "4+28", SETTINGS, {TASK: {"num_problems": N}}, entries))
    (folder / "published.tsv").write_text(
        "model\tbench\tfull\tmethod\tsp0.5\nA\tTiny\t90\tRLKV\t88.5\nA\tAIME24\t90\tRLKV\t12.3\n"
    )
    report(folder, folder / "published.tsv")
    return folder


@pytest.fixture(scope="module")
def page(run: Path) -> Iterator[Any]:
    """The open page; leaving it checks that nothing went wrong on it."""
    sync_api = pytest.importorskip("playwright.sync_api")
    troubles: list[str] = []
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 1280, "height": 900})
        page.on("console", lambda message: troubles.append(f"console: {message.text}"))
        page.on("pageerror", lambda error: troubles.append(f"error: {error}"))
        page.on("request", lambda request: troubles.append(f"request: {request.url}"))
        page.goto((run / "report.html").as_uri())
        page.wait_for_selector("body[data-ready=yes]")
        yield page
        browser.close()
    assert troubles == [f"request: {(run / 'report.html').as_uri()}"]


def test_a_thousand_long_answers_stay_below_five_megabytes(run: Path) -> None:
    size = (run / "report.html").stat().st_size
    assert 500_000 < size < 5_000_000


def test_figures_are_those_of_the_summary(run: Path, page: Any) -> None:
    full, rlkv = json.loads((run / "summary.json").read_text())["results"]
    rows = [row.split("\t") for row in page.locator("#figures tbody tr").all_inner_texts()]
    assert [row[0].strip() for row in rows] == ["full", "rlkv"]
    assert rows[0][2] == f"{full['accuracy']:.1%}" and rows[1][2] == f"{rlkv['accuracy']:.1%}"
    assert rows[1][-1] == "<0.001" and rlkv["against_full"]["lost"] == round((1 - rlkv["accuracy"]) * N)


def test_a_point_tells_its_figures(page: Any) -> None:
    page.hover("#chart .point")
    tip = page.inner_text("#tip")
    assert "rlkv at 0.5" in tip and "overlong 33.4%" in tip and "334 lost" in tip


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
