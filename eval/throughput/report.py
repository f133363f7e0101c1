"""Table, ``throughput.json`` and ``throughput.png`` of a throughput run, made again at any time."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.table import Table

from rlkv.model_size import model_config, weight_bytes

from ..folder import write_text
from .config import CONCURRENCY, FULL, MEMORY, PREFIX, ThroughputConfig
from .figures import Figure, figures
from .plot import plot
from .run import arm_file
from .theory import Device
from .timeline import Timeline

TITLES = {
    MEMORY: "Equal memory: MATH-500 replay",
    CONCURRENCY: "Equal concurrency",
    PREFIX: "Shared prefix",
}


def report(config: ThroughputConfig) -> list[Table]:
    """Write JSON and picture into the run folder, and return a table for each case."""
    found: list[Figure] = []
    cases, tables = [], []
    for case in config.cases:
        records = {arm: json.loads(arm_file(config.out, case, arm).read_text()) for arm in config.arms}
        caches = {arm: record["cache"] for arm, record in records.items()}
        measured = {
            arm: [Timeline(tuple(line["times"]), tuple(line["tokens"])) for line in record["timelines"]]
            for arm, record in records.items()
        }
        device = Device(_weights(config, caches), config.bandwidth * 1e9)
        rows = figures(case, config.workload(case), measured, caches, device)
        found += rows
        cases.append({"case": case, "caches": caches, "weight_bytes": device.weight_bytes})
        tables.append(_table(_title(config, case), rows))
    settings = {
        name: str(value) if isinstance(value, Path) else value for name, value in vars(config).items()
    }
    result = {"settings": settings, "cases": cases, "figures": [asdict(figure) for figure in found]}
    write_text(config.out / "throughput.json", json.dumps(result, indent=1) + "\n")
    plot(found, Path(config.model).name, config.out / "throughput.png")
    return tables


def _weights(config: ThroughputConfig, caches: dict[str, dict[str, Any]]) -> int:
    """Bytes of the weights, with numbers of as many bytes as the cache's."""
    hybrid = next(cache for arm, cache in caches.items() if arm != FULL)
    heads = sum(hybrid["full_heads"]) + sum(hybrid["streaming_heads"])
    model = model_config(config.model)
    head_dim = getattr(model, "head_dim", None) or model.hidden_size // model.num_attention_heads
    return weight_bytes(model, hybrid["dense_token_bytes"] // (2 * heads * head_dim))


def _title(config: ThroughputConfig, case: str) -> str:
    load = config.workload(case)
    if case == MEMORY:
        memory = f"the memory of {config.kv_tokens:,} full tokens" if config.kv_tokens else "all memory"
        return f"{TITLES[case]}, {len(load.lengths)} requests, {memory}"
    if case == PREFIX:
        own = load.prompt_tokens - load.shared_tokens
        shared = f"{load.shared_tokens:,} cached tokens and {own} of their own"
        return f"{TITLES[case]}: {len(load.lengths)} requests of {shared}, median of {load.bursts} bursts"
    return (
        f"{TITLES[case]}: {len(load.lengths)} requests of {load.prompt_tokens:,} + {load.lengths[0]:,} tokens"
    )


def _table(title: str, rows: Sequence[Figure]) -> Table:
    table = Table(title=title, title_justify="left", box=None, pad_edge=False, header_style="dim")
    table.padding = (0, 2, 0, 0)
    for name in (
        "stretch",
        "cache",
        "tokens/s",
        "bound",
        "of the bound",
        "x full",
        "bound",
        "step, ms",
        "bound",
        "first token, ms",
        "x full",
    ):
        table.add_column(name, justify="left" if name in ("stretch", "cache") else "right")
    last = rows[0].stretch
    for row in rows:
        if row.stretch != last:
            table.add_section()
            last = row.stretch
        reached = row.measured / row.theory if row.measured and row.theory else None
        table.add_row(
            row.stretch,
            row.arm,
            _cell(row.measured, ",.0f"),
            _cell(row.theory, ",.0f"),
            _cell(reached, ".0%"),
            _cell(row.measured_ratio, ".2f"),
            _cell(row.theory_ratio, ".2f"),
            _cell(row.step_ms, ".2f"),
            _cell(row.theory_step_ms, ".2f"),
            _cell(row.first_token_ms, ",.0f"),
            _cell(row.first_token_ratio, ".2f"),
        )
    return table


def _cell(value: float | None, form: str) -> str:
    return "-" if value is None else format(value, form)
