"""Puts a comparison into one HTML page: figures as JSON, answers deflated, no address of anything else."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from importlib.resources import files
from pathlib import Path
from statistics import quantiles
from string import Template
from typing import Any

from rlkv.errors import DataError
from rlkv.heads import HeadsFile

from ..axis import Axis, axis_of
from ..config import TOKEN_DROPPERS
from ..failures import failure
from ..folder import Run, read_problems
from ..glossary import MEANINGS
from ..methods import Step
from ..options import options_lines
from ..plots import DASHED, Panel, colours, dashes
from ..published import Published, of_task
from ..records import Sample
from ..results import Answered, Result
from .cut import fitted, packed

SAMPLES_LIMIT = 4_000_000
"""Most characters of the deflated answers: the whole page stays below 5 MB."""

THROUGHPUT_FILE = "throughput.json"


def page(
    folder: Path,
    run: Run,
    panels: Mapping[str, Panel],
    answers: Sequence[Answered],
    published: Sequence[Published],
) -> str:
    """The page's text, the same for the same run.

    Args:
        folder: of the run, with heads files, problems, and ``throughput.json`` where that was measured.
        run: the comparison.
        panels: what the chart of each task shows, by the task's label.
        answers: all results in the order of the table, and their answers.
        published: all rows of the table of published figures.

    Raises:
        DataError: a file of the run is missing or damaged.
    """
    figures = {
        "settings": "; ".join([_settings(run), *options_lines([result for result, _ in answers])]),
        "draws": run.settings["samples"],
        "tasks": [
            _task(label, panel, [(i, *a) for i, a in enumerate(answers) if a[0].task == label], published)
            for label, panel in panels.items()
        ],
        "heads": _heads(folder, run),
        "throughput": _throughput(folder),
        "glossary": MEANINGS,
        "published_dash": DASHED,
    }
    return Template(_asset("template.html")).substitute(
        title=_escaped(f"{Path(run.model).name}: KV cache and accuracy"),
        style=_asset("style.css"),
        script=_asset("report.js"),
        figures=json.dumps(figures).replace("<", "\\u003c"),
        samples=_samples(folder, panels, answers),
    )


def _settings(run: Run) -> str:
    engine = run.settings["engine"]
    packages = ", ".join(f"{name} {version}" for name, version in engine["packages"].items())
    sampling = "greedy"
    if run.settings["temperature"]:
        sampling = f"temperature {run.settings['temperature']:g}, top_p {run.settings['top_p']:g}"
    window = f"window {run.window}, " if run.window else ""
    return f"{engine['name']}, {engine['dtype']}, {window}{sampling}, seed {run.settings['seed']}; {packages}"


def _task(
    label: str, panel: Panel, answered: list[tuple[int, Result, list[Sample]]], published: Sequence[Published]
) -> dict[str, Any]:
    colour, axis = colours(panel.results), axis_of(panel.results)
    return {
        "label": label,
        "caption": panel.title,
        "axis": {
            "name": axis.name,
            "note": axis.note,
            "of_bytes": axis.of_bytes,
            "marks": list(axis.marks(panel.results, panel.published).items()),
        },
        "results": [
            _result(place, result, own, colour[result.method], axis.place(result))
            for place, result, own in answered
        ],
        "source": panel.source,
        "published": [asdict(row) for row in of_task(published, label)],
        "drawn": [_drawn(row, axis, colour[row.method]) for row in panel.published],
    }


def _drawn(row: Published, axis: Axis, colour: str) -> dict[str, Any]:
    """A published curve; its points from left to right."""
    points = [
        {"x": axis.place_published(sparsity), "sparsity": sparsity, "accuracy": accuracy}
        for sparsity, accuracy in sorted(row.accuracy.items())
    ]
    return {"method": row.method, "model": row.model, "full": row.full, "colour": colour, "points": points}


def _result(
    place: int, result: Result, samples: list[Sample], colour: str, x: float | None
) -> dict[str, Any]:
    lengths = [sample.length for sample in samples]
    cuts = quantiles(lengths, n=10, method="inclusive") if len(lengths) > 1 else lengths * 9
    step = Step(result.method, result.sparsity, result.seed, result.budget)
    return {
        **asdict(result),
        "id": place,
        "label": step.name,
        "name": str(step),
        "x": x,
        "level": result.level,
        "drops_tokens": result.method in TOKEN_DROPPERS,
        "colour": colour,
        "dash": dashes(result.method),
        "median_length": round(cuts[4]),
        "p90_length": round(cuts[8]),
    }


def _heads(folder: Path, run: Run) -> list[dict[str, Any]]:
    """Gates of each heads file that took part."""
    paths = {entry.method: entry.heads for entry in run.entries if entry.heads}
    found = {name: HeadsFile.read(folder / path) for name, path in paths.items()}
    return [
        {"name": name, "gates": heads.gates, "sparsity": heads.recommended_sparsity}
        for name, heads in found.items()
    ]


def _throughput(folder: Path) -> list[dict[str, Any]] | None:
    """Figures of ``rlkv eval throughput``, where it was given the same folder."""
    path = folder / THROUGHPUT_FILE
    if not path.exists():
        return None
    try:
        rows: list[dict[str, Any]] = json.loads(path.read_text(encoding="utf-8"))["figures"]
    except (OSError, ValueError, KeyError) as error:
        raise DataError(f"{path}: is damaged ({error}), expected a file of rlkv eval throughput") from error
    return rows or None


def _samples(folder: Path, tasks: Iterable[str], shown: Sequence[Answered]) -> str:
    """Problems and answers, deflated and in base64; long ones lose their middle where that is too much."""
    problems = {label: [[e.id, e.prompt, e.answer] for e in read_problems(folder, label)] for label in tasks}
    texts: dict[str, int] = {}  # equal answers of several methods are stored once
    results = {
        str(place): {
            str(sample.index): _row(sample, texts.setdefault(sample.text, len(texts))) for sample in samples
        }
        for place, (_, samples) in enumerate(shown)
    }
    prompts = [problem[1] for some in problems.values() for problem in some]
    rest = [results, [(name, answer) for some in problems.values() for name, _, answer in some]]
    short_prompts, short_texts = fitted(prompts, list(texts), SAMPLES_LIMIT - len(packed(rest)))
    cut = iter(short_prompts)
    shown_problems = {
        label: [[name, next(cut), answer] for name, _, answer in some] for label, some in problems.items()
    }
    return packed({"texts": short_texts, "problems": shown_problems, "results": results})


def _row(sample: Sample, text: int) -> list[Any]:
    return [
        text,
        int(sample.correct),
        failure(sample),
        sample.extracted,
        sample.reason,
        sample.length,
        sample.finish_reason,
        sample.kv_bytes,
    ]


def _asset(name: str) -> str:
    return files(__package__).joinpath(name).read_text(encoding="utf-8")


def _escaped(text: str) -> str:
    return text.replace("&", "&amp;").replace("<", "&lt;")
