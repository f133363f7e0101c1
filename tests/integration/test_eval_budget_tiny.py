"""``rlkv eval run --budgets`` on the shipped tiny reasoner: every kind of method within the same bytes."""

from __future__ import annotations

from pathlib import Path

import pytest
from rlkv_eval.config import EvalConfig
from rlkv_eval.report import report
from rlkv_eval.results import Result
from rlkv_eval.runner import evaluate

METHODS = ("full", "rlkv", "random", "kvzip-heads", "streaming-llm", "r-kv", "kvzip")
BUDGETS = (0.8, 0.5)
A_HEAD = 1 / 48


def config(out: Path, **changed: object) -> EvalConfig:
    settings: dict = {"methods": METHODS, "budgets": BUDGETS, "tasks": ("tiny:easy",), "n": 10}
    settings |= {"random_seeds": 1, "ablation_problems": 2, "max_new_tokens": 24, "device": "cpu"}
    return EvalConfig(out=out, **(settings | changed))


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[Result]]:
    out = tmp_path_factory.mktemp("run")
    return out, evaluate(config(out))


def test_every_method_holds_its_budget_and_little_less(run: tuple[Path, list[Result]]) -> None:
    _, results = run
    found = {(r.method, r.budget) for r in results if r.method != "full"}
    assert found == {(method, budget) for method in METHODS[1:] for budget in BUDGETS}
    for result in results:
        if result.method == "full":
            assert result.kv_share == 1 and result.budget is None
        elif result.method == "kvzip":  # which holds all of the prompt before it drops any
            prompt = 79 / (79 + 23)  # of the tokens of an answer at its limit
            assert result.kv_share == pytest.approx(max(result.level, prompt), abs=0.02)
        else:
            spared = A_HEAD if result.sparsity else 0.01  # heads are whole, tokens are too
            assert result.kv_share is not None
            assert result.level - spared < result.kv_share <= result.level + 1e-3
            assert 0 < result.kv_mean_bytes <= result.kv_bytes


def test_the_report_names_the_budgets(run: tuple[Path, list[Result]]) -> None:
    out, _ = run
    table, options, glossary = report(out)
    columns = {str(column.header): list(column.cells) for column in table.columns}
    assert columns["budget"][:3] == ["-", "0.8", "0.5"]
    assert list(glossary.columns[0].cells) == list(columns)
    assert list(options.columns[0].cells) == ["streaming-llm", "r-kv", "kvzip"]
    assert set(options.columns[1].cells) == {"growing"}
    assert "-" in columns["sparsity"] and (out / "accuracy.png").stat().st_size > 10_000


def test_every_result_has_the_options_of_its_method(run: tuple[Path, list[Result]]) -> None:
    _, results = run
    for result in results:
        drops = result.method in ("streaming-llm", "r-kv", "kvzip")
        assert (result.options is not None) == drops and (result.schedule == "growing") == drops
    assert {r.options["window"] for r in results if r.method == "r-kv" and r.options} == {8}


def test_run_again_answers_nothing_again_but_another_schedule(run: tuple[Path, list[Result]]) -> None:
    out, _ = run
    written = {path: path.stat().st_mtime_ns for path in (out / "results").iterdir()}
    evaluate(config(out))
    assert {path: path.stat().st_mtime_ns for path in (out / "results").iterdir()} == written
    other = evaluate(config(out, methods=("full", "streaming-llm"), budgets=(0.5,), budget_schedule="fixed"))
    assert [(r.budget, r.schedule) for r in other if r.method == "streaming-llm"] == [(0.5, "fixed")]
    (added,) = set((out / "results").iterdir()) - set(written)
    assert added.name.startswith("tiny-easy-streaming-llm-budget-0.5-")
