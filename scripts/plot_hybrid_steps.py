#!/usr/bin/env python3
"""Draw what bench_hybrid_steps.py measured: decode steps, and where reading fewer bytes would put them.

scripts/plot_hybrid_steps.py results/steps.json steps.png
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import typer
from rlkv_eval.config import ABLATION, RLKV
from rlkv_eval.plots import COLOURS, FAINT, INK


def draw(results: list[dict[str, Any]], path: Path) -> None:
    """A bar an arm, cut into attention and the rest, into a PNG file.

    Args:
        results: of ``bench_hybrid_steps.py``, stock first.
        path: of the picture.
    """
    from matplotlib.figure import Figure

    stock, *hybrid = results
    rest = stock["step_ms"] - stock["attention_ms"]
    figure = Figure(figsize=(7.2, 1.3 + 0.36 * len(results)), layout="constrained")
    axes = figure.add_subplot()
    places = range(len(results))[::-1]
    colours = [INK, *[COLOURS[RLKV]] * len(hybrid)]
    steps = [result["step_ms"] for result in results]
    axes.barh(places, steps, 0.6, color=colours)
    axes.barh(places, [rest] * len(results), 0.6, color=FAINT, label="all but attention, as in stock's step")
    ideal = [stock["step_ms"] - (1 - result["kv_ratio"]) * stock["attention_ms"] for result in hybrid]
    axes.plot(
        ideal, places[1:], "|", color=COLOURS[ABLATION], markersize=14, markeredgewidth=2,
        label="if attention took exactly as much less time as it reads fewer KV bytes",
    )  # fmt: skip
    for place, step in zip(places, steps, strict=True):
        axes.annotate(
            f"{step:.1f}", (step, place), (6, 0), textcoords="offset points", va="center", fontsize=8
        )
    names = [f"sparsity {result['sparsity']}, {result['kv_ratio']:.0%} of the KV bytes" for result in hybrid]
    axes.set_yticks(places, ["stock SGLang", *names], fontsize=8)
    axes.set_xlabel("ms a decode step", color=INK)
    axes.spines[:].set_visible(False)
    axes.tick_params(left=False)
    figure.legend(frameon=False, fontsize=8, loc="outside lower center", ncols=1)
    figure.savefig(path, dpi=200)


def main(steps: Path, picture: Path) -> None:
    """Draw the results in STEPS into PICTURE."""
    draw(json.loads(steps.read_text()), picture)


if __name__ == "__main__":
    typer.run(main)
