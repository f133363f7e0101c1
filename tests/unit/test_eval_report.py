"""Order of work, figures from answers, run folders put together by several commands, table and picture."""

from __future__ import annotations

import json
import re
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console
from rlkv_eval.ablation import as_gates
from rlkv_eval.axis import axis_of
from rlkv_eval.cli import SPARE_COLUMNS, TABLE_WIDTH
from rlkv_eval.config import EvalConfig
from rlkv_eval.folder import Entry, Run, create, keep_problems, read_results, read_run, result_path, write_run
from rlkv_eval.identity import identity
from rlkv_eval.labels import Label, right_limit, spread
from rlkv_eval.methods import Step, plan, streaming_heads
from rlkv_eval.options import options_table
from rlkv_eval.plots import Panel, plot_accuracy
from rlkv_eval.progress import Terminal
from rlkv_eval.published import Published
from rlkv_eval.records import Sample, open_journal
from rlkv_eval.report import grouped, report, table
from rlkv_eval.results import Result, summarise, with_shares
from rlkv_eval.tables import empty_table, narrow
from rlkv_eval.tasks import Example

from rlkv.heads import ModelShape, random_mask

SETTINGS = {
    "samples": 1,
    "seed": 0,
    "temperature": 0.0,
    "top_p": 1.0,
    "engine": {"name": "transformers", "dtype": "float32", "packages": {"torch": "2"}},
}
SHAPE = ModelShape("model", None, "qwen3", 3, 2, 4, 16)


def sample(index: int, **changed: Any) -> Sample:
    base = Sample(
        index, f"id{index}", "text", "7", True, "equal", 9, 10, "stop", False, None, 1000.0, 900.0, 50
    )
    return replace(base, **changed)


def result(method: str, sparsity: float, accuracy: float = 0.5, seed: int | None = None) -> Result:
    answers = [sample(i, correct=i < accuracy * 20) for i in range(20)]
    return summarise("tiny:easy", Step(method, sparsity, seed), answers, 20, 1, "results/x.jsonl")


def test_plan_puts_the_telling_and_cheap_first() -> None:
    config = EvalConfig(out=Path("run"), sparsities=(0.5, 0.3), random_seeds=2, heads={"duo": "duo.json"})
    assert [str(step) for step in plan(config)] == [
        *(
            "full",
            "rlkv at 0.3",
            "rlkv at 0.5",
            "duo at 0.3",
            "duo at 0.5",
            "random-0 at 0.3",
            "random-0 at 0.5",
        ),
        *("ablation at 0.3", "ablation at 0.5", "all-streaming", "random-1 at 0.3", "random-1 at 0.5"),
    ]


def test_plan_at_budgets_takes_what_saves_least_first() -> None:
    methods = ("full", "rlkv", "random", "r-kv", "kvzip-heads")
    config = EvalConfig(out=Path("run"), methods=methods, budgets=(0.5, 0.8), random_seeds=1)
    assert [str(step) for step in plan(config)] == [
        "full",
        *(
            f"{name} at budget {budget}"
            for name in ("rlkv", "random-0", "r-kv", "kvzip-heads")
            for budget in (0.8, 0.5)
        ),
    ]


def test_streaming_heads_of_methods_without_a_file() -> None:
    assert streaming_heads(Step("full", 0.0), SHAPE, {}) is None
    everything = streaming_heads(Step("all-streaming", 1.0), SHAPE, {})
    assert everything is not None and everything.shape == (3, 2) and everything.all()
    drawn = streaming_heads(Step("random", 0.5, 4), SHAPE, {})
    assert drawn is not None and drawn.equal(random_mask(3, 2, 0.5, 4))


def test_figures_of_four_answers() -> None:
    answers = [
        sample(0, length=10),
        sample(1, length=20, correct=False),
        sample(2, length=60, correct=False, finish_reason="length", repetitive=True, extracted=None),
        sample(3, length=30, kv_bytes=3000.0, cached_tokens=100),
    ]
    figures = summarise("tiny:easy", Step("rlkv", 0.5), answers, num_problems=8, draws=1, file="f")
    assert (figures.accuracy, figures.mean_length, figures.num_problems) == (0.5, 30, 4)
    assert (figures.repetitive, figures.overlong, figures.incorrect) == (0.25, 0.0, 0.25)
    assert figures.unparsed == 0.25
    assert figures.kv_bytes == 1500 and figures.kv_bytes_per_token == 6000 / 250
    assert not figures.finished and figures.kv_share is None
    assert (figures.low, figures.high) == pytest.approx((0.1500, 0.8500), abs=5e-5)


def test_shares_are_of_full() -> None:
    full, half = result("full", 0.0), replace(result("rlkv", 0.5), kv_bytes_per_token=11.0)
    assert [r.kv_share for r in with_shares([full, half])] == [1.0, 0.55]
    assert [r.kv_share for r in with_shares([half])] == [None]


def entry(method: str, sparsity: float, heads: str | None = None, seed: int | None = None) -> Entry:
    return Entry("tiny:easy", method, sparsity, seed, f"results/{method}-{sparsity}.jsonl", heads)


def test_a_folder_is_put_together_by_several_commands(tmp_path: Path) -> None:
    def run(*entries: Entry, window: str | None = "4+16", n: int = 20) -> list[Entry]:
        write_run(tmp_path, Run("model", window, {}, {"tiny:easy": {"num_problems": n}}, list(entries)))
        return read_run(tmp_path).entries

    full, low, high = entry("full", 0.0), entry("rlkv", 0.5, "heads/a"), entry("rlkv", 0.7, "heads/a")
    assert run(full, window=None) == [full]
    assert run(low) == [low, full]
    assert run(full, window=None) == [full, low]
    assert read_run(tmp_path).window == "4+16"
    assert run(high) == [high, full, low]
    assert run(low) == [low, high, full]
    other = entry("rlkv", 0.5, "heads/b")
    assert run(other) == [other, full]  # no line of one picture may mix two heads files
    assert run(full, window="4+32") == [full]
    assert run(low, window="4+32", n=30) == [low]


def r_kv(budget: float, window: int = 8, schedule: str = "growing") -> Entry:
    return Entry(
        *("tiny:easy", "r-kv", 0.0, None, f"results/r-kv-{budget}.jsonl", None, budget),
        options={"window": window, "importance": 0.1, "request": []},
        schedule=schedule,
    )


@pytest.mark.parametrize(
    "other", [r_kv(0.5, window=16), r_kv(0.5, schedule="fixed")], ids=["options", "schedule"]
)
def test_no_curve_mixes_options_or_schedules(tmp_path: Path, other: Entry) -> None:
    def run(*entries: Entry) -> list[Entry]:
        write_run(tmp_path, Run("model", None, {}, {"tiny:easy": {}}, list(entries)))
        return read_run(tmp_path).entries

    full, high, low = entry("full", 0.0), r_kv(0.5), r_kv(0.3)
    run(full, high)
    assert run(low) == [low, full, high]
    assert run(other) == [other, full]


def test_a_folder_without_options_is_read_and_not_mixed(tmp_path: Path) -> None:
    full, high, low = entry("full", 0.0), r_kv(0.5), r_kv(0.3)
    write_run(tmp_path, Run("model", None, {}, {"tiny:easy": {}}, [full, high]))
    data = json.loads((tmp_path / "run.json").read_text())
    for old in data["entries"]:
        del old["options"], old["schedule"]
    (tmp_path / "run.json").write_text(json.dumps(data))
    assert read_run(tmp_path).entries == [full, replace(high, options=None, schedule=None)]
    write_run(tmp_path, Run("model", None, {}, {"tiny:easy": {}}, [low]))
    assert read_run(tmp_path).entries == [low, full]


def test_report_names_options_and_schedule(tmp_path: Path) -> None:
    create(tmp_path)
    keep_problems(tmp_path, "tiny:easy", [Example("id0", "problem", "7")])
    entries = [entry("full", 0.0), r_kv(0.5, schedule="fixed")]
    write_run(tmp_path, Run("m", None, SETTINGS, {"tiny:easy": {"num_problems": 1}}, entries))
    for one in entries:
        with open_journal(tmp_path / one.file, {}, 1, 1) as journal:
            journal.append([sample(0)])
    _, options, _ = report(tmp_path)
    assert [list(column.cells) for column in options.columns] == [
        ["r-kv"],
        ["fixed"],
        ["window 8, importance 0.1"],
    ]
    assert "| r-kv | fixed | window 8, importance 0.1 |" in (tmp_path / "report.md").read_text()
    assert "r-kv: fixed budget schedule, window 8, importance 0.1" in (tmp_path / "report.html").read_text()
    _, figures = json.loads((tmp_path / "summary.json").read_text())["results"]
    assert (figures["options"]["window"], figures["schedule"]) == (8, "fixed")


def test_options_of_an_old_folder_are_called_unrecorded() -> None:
    table = options_table([result("full", 0.0), result("r-kv", 0.0)])
    assert table is not None
    assert [list(column.cells) for column in table.columns] == [["r-kv"], ["not recorded"], ["not recorded"]]


def test_report_of_an_unfinished_run(tmp_path: Path) -> None:
    shared, tasks = SETTINGS, {"tiny:easy": {"num_problems": 10}}
    create(tmp_path)
    keep_problems(tmp_path, "tiny:easy", [Example(f"id{i}", f"problem {i}", "7") for i in range(10)])
    own = identity(shared, tasks["tiny:easy"], None)
    path = result_path("tiny:easy", "full", 0.0, own)
    entries = [Entry("tiny:easy", "full", 0.0, None, path, None), entry("random", 0.5, seed=0)]
    (tmp_path / entries[1].file).touch()  # its run was killed before it wrote the header
    write_run(tmp_path, Run("some/model", None, shared, tasks, entries))
    with open_journal(tmp_path / path, own, 10, 4) as journal:
        journal.append([sample(i) for i in range(4)])
    one, meanings = report(tmp_path)
    assert list(meanings.columns[0].cells) == [column.header for column in one.columns]
    text = rendered(one, meanings)
    assert "model, tiny:easy, n = 10" in text and "[51.0%, 100.0%] of 4 answered" in text
    written = {"summary.json", "accuracy.png", "accuracy.svg", "report.md", "report.html"}
    assert written <= {file.name for file in tmp_path.iterdir()}
    assert (
        (tmp_path / "report.md").read_text().startswith("![Accuracy](accuracy.png)\n\n### model, tiny:easy")
    )
    assert "| full | 0 | 100.0% | [51.0%, 100.0%] of 4 answered |" in (tmp_path / "report.md").read_text()
    before = {name: (tmp_path / name).read_bytes() for name in written}
    report(tmp_path)
    assert {name: (tmp_path / name).read_bytes() for name in written} == before
    assert [r.num_problems for r in read_results(tmp_path, read_run(tmp_path))] == [4]


def rendered(*what: Any) -> str:
    console = Console(width=TABLE_WIDTH, color_system=None)
    with console.capture() as capture:
        console.print(*what)
    return capture.get()


MANY = [
    *(result("random", 0.5, accuracy, seed) for seed, accuracy in enumerate((0.1, 0.2, 0.6))),
    *(
        result("all-streaming", 1.0, 0.0),
        result("ablation", 0.7),
        result("rlkv", 0.7),
        result("full", 0.0, 1.0),
    ),
    *(result("rlkv", 0.5, 0.9), result("ablation", 0.5)),
]


def test_table_groups_draws_and_sorts() -> None:
    order = [("full", 0.0), ("rlkv", 0.5), ("rlkv", 0.7), ("ablation", 0.5), ("ablation", 0.7)]
    assert list(grouped(MANY)) == [*order, ("random", 0.5), ("all-streaming", 1.0)]
    text = rendered(table(MANY, "title"))
    assert "30.0%  3 draws 10.0% to 60.0%" in text
    assert "90.0%          [69.9%, 97.2%]" in text
    assert len(re.findall(r"^rlkv +0\.[57] ", text, re.MULTILINE)) == 2  # named in every row
    assert "…" not in text  # nothing is cut off at the terminal's width


def test_table_shows_the_share_in_which_nothing_was_found() -> None:
    answers = [sample(i, correct=False, extracted=None if i < 3 else "8") for i in range(20)]
    some = summarise("tiny:easy", Step("rlkv", 0.5), answers, 20, 1, "results/x.jsonl")
    (cells,) = (
        list(column.cells) for column in table([some], "title").columns if column.header == "unparsed"
    )
    assert cells == ["15.0%"]


def test_lines_of_finished_steps_stand_below_each_other() -> None:
    console = Console(width=TABLE_WIDTH, color_system=None)
    with console.capture() as capture, Terminal(console) as terminal:
        terminal.planned(40, ["full", "streaming-llm at budget 0.6"])
        terminal.finished("full", result("full", 0.0))
        terminal.finished("streaming-llm at budget 0.6", result("streaming-llm", 0.0))
    lines = [line for line in capture.get().splitlines() if " accuracy " in line]
    assert len(lines) == 2 and len({line.index(" accuracy ") for line in lines}) == 1


@pytest.mark.parametrize("results", [MANY, MANY[:1], [MANY[6]], [MANY[3]]], ids=len)
def test_picture_of_any_set_of_methods(tmp_path: Path, results: list[Result]) -> None:
    plot_accuracy([Panel("title", results), Panel("other", results)], tmp_path / "accuracy.png")
    assert (tmp_path / "accuracy.png").read_bytes().startswith(b"\x89PNG")


def at_budget(method: str, budget: float, share: float, sparsity: float = 0.0) -> Result:
    return replace(result(method, sparsity), budget=budget, kv_share=share)


AT_BUDGETS = [
    replace(result("full", 0.0, 1.0), kv_share=1.0),
    *(
        at_budget("rlkv", 0.6, 0.584, 0.52),
        at_budget("rlkv", 0.4, 0.381, 0.77),
        at_budget("r-kv", 0.6, 0.598),
    ),
    result("ablation", 0.5),
]


def test_budgets_stand_at_the_bytes_held_and_published_figures_at_what_full_heads_hold() -> None:
    axis = axis_of(AT_BUDGETS)
    assert [axis.place(r) for r in AT_BUDGETS] == [None, 0.584, 0.381, 0.598, None]
    row = Published("A", "Tiny", 0.95, "rlkv", {0.2: 0.9, 0.4: 0.8})
    assert axis.marks(AT_BUDGETS, [row]) == {0.8: "80%", 0.6: "60%", 0.4: "40%"}
    plain = axis_of(MANY)
    assert plain.place(MANY[4]) == 0.7 and plain.place(MANY[6]) is None
    assert plain.marks(MANY, [row]) == {0.2: "0.2", 0.4: "0.4", 0.5: "0.5", 0.7: "0.7", 1.0: "1"}


@pytest.mark.parametrize("results", [MANY, AT_BUDGETS], ids=["sparsities", "budgets"])
def test_picture_names_published_curves(tmp_path: Path, results: list[Result]) -> None:
    row = Published("Model A", "Tiny", 0.95, "rlkv", {0.2: 0.9, 0.4: 0.8})
    for name, published in (("without", []), ("with", [row])):
        plot_accuracy([Panel("title", results, published, "table.tsv")], tmp_path / f"{name}.svg")
    without, beside = ((tmp_path / f"{name}.svg").read_text() for name in ("without", "with"))
    for text in ("rlkv, published", "full, published 95.0%", "dashed: published, Model A (table.tsv)"):
        assert f"<!-- {text} -->" in beside and f"<!-- {text} -->" not in without
    assert ("<!-- dotted: methods that drop tokens -->" in beside) == (results is AT_BUDGETS)
    assert beside.count("stroke-dasharray") == without.count("stroke-dasharray") + 2


def test_labels_keep_apart_below_the_top() -> None:
    assert spread([0.1, 0.5], 0.05, 1.06) == [0.1, 0.5]
    assert spread([0.5, 0.5, 0.52], 0.05, 1.06) == pytest.approx([0.5, 0.55, 0.6])
    assert spread([1.0, 1.0, 1.0], 0.05, 1.06) == pytest.approx([0.96, 1.01, 1.06])
    assert spread([], 0.05, 1.06) == []


def test_the_axis_ends_where_the_longest_label_does() -> None:
    short, long = Label(0.5, 0.9, "rlkv", "k"), Label(0.5, 0.9, "a-method-of-a-long-name", "k")
    assert 0.5 < right_limit(short, 0.1, 0.2, 0.5) < right_limit(long, 0.1, 0.2, 0.5)
    inner = Label(0.3, 0.9, long.text, "k")
    assert right_limit(inner, 0.1, 0.2, 0.5) < right_limit(long, 0.1, 0.2, 0.5)
    falling = right_limit(long, 0.9, 0.8, 0.4)
    assert falling < 0.4  # budgets fall to the right


def test_ablation_gates_keep_the_order_of_the_falls() -> None:
    falls = torch.tensor([[3.0, -0.1, 0.0], [0.0, 0.002, 0.001]], dtype=torch.float64)
    assert as_gates(falls).flatten().tolist() == pytest.approx([1.0, 0.0, 0.2, 0.4, 0.8, 0.6])


def test_a_narrow_terminal_shows_the_columns_that_matter_most() -> None:
    lines = empty_table("n")
    for name in ("method", "length", "unparsed"):
        lines.add_column(name, no_wrap=True)
    lines.add_row("rlkv", "163", "0.0%")
    whole = deepcopy(lines)
    assert narrow(whole, Console(width=80), SPARE_COLUMNS) == []
    assert narrow(lines, Console(width=18), SPARE_COLUMNS) == ["unparsed"]
    assert [column.header for column in lines.columns] == ["method", "length"]
