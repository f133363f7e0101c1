"""``rlkv plan``: what the hybrid cache will save on a given device, from the model's config alone."""

from __future__ import annotations

import json
import math
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer

from rlkv.errors import ConfigError
from rlkv.planner import EVICTION_INTERVAL
from rlkv.window import Window

if TYPE_CHECKING:
    from transformers import PretrainedConfig

    from rlkv.planner import CacheShape, Forecast

app = typer.Typer(
    help="Predict memory, concurrency and speed of serving with a heads file.", add_completion=False
)

GIB = 1 << 30


@app.command()
def plan(
    *,
    model: Annotated[str, typer.Option(help="A shipped model, a folder with a config.json, or a hub id.")],
    heads: Annotated[str, typer.Option(help="Heads file: a path, or the name of a shipped one.")],
    sparsity: Annotated[
        float | None, typer.Option(help="Fraction of KV heads that stream.", show_default="the file's")
    ] = None,
    window: Annotated[
        str | None, typer.Option(metavar="SINK+RECENT", help="Serving window.", show_default="the file's")
    ] = None,
    gpu_memory: Annotated[float | None, typer.Option(help="Memory of the device in GiB.")] = None,
    kv_bytes: Annotated[
        int | None,
        typer.Option(help="In place of --gpu-memory: bytes for KV alone, budget_bytes of a running server."),
    ] = None,
    memory_fraction: Annotated[
        float, typer.Option(help="Part of it for weights and KV cache; SGLang's --mem-fraction-static.")
    ] = 0.88,
    bandwidth: Annotated[
        float, typer.Option(help="Memory bandwidth in GB/s, measured; 4,300 is a copy on one H200.")
    ] = 4300.0,
    prompt_tokens: Annotated[int, typer.Option(min=0, help="Tokens of a prompt.")],
    output_tokens: Annotated[int, typer.Option(min=1, help="Mean tokens of an answer.")],
    requests: Annotated[
        int | None, typer.Option(min=1, help="Requests at the same time.", show_default="as many as fit")
    ] = None,
    page_size: Annotated[int, typer.Option(min=1, help="SGLang's --page-size.")] = 1,
    chunked_prefill_size: Annotated[int, typer.Option(help="SGLang's --chunked-prefill-size.")] = 8192,
    eviction_interval: Annotated[
        int, typer.Option(min=1, help="Decode steps between two evictions; SGLANG_SWA_EVICTION_INTERVAL.")
    ] = EVICTION_INTERVAL,
    element_bytes: Annotated[
        int | None,
        typer.Option(min=1, help="Bytes of a number in weights and KV cache.", show_default="the config's"),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Predict bytes per token, concurrency, decode step time and speed-up over the full cache."""
    from rlkv.model_size import model_config, weight_bytes
    from rlkv.planner import (
        Demand,
        Load,
        PoolSizes,
        caveats,
        forecast_dense,
        forecast_hybrid,
        prefill_in_flight,
        split_memory,
    )

    if (gpu_memory is None) == (kv_bytes is None):
        raise ConfigError("--gpu-memory and --kv-bytes: found both or none, expected one of them")
    for flag, value in (("--gpu-memory", gpu_memory), ("--bandwidth", bandwidth), ("--kv-bytes", kv_bytes)):
        if value is not None and not 0 < value < math.inf:
            raise ConfigError(f"{flag}: found {value}, expected more than 0")
    if not 0 < memory_fraction <= 1:
        raise ConfigError(f"--memory-fraction: found {memory_fraction}, expected more than 0, at most 1")
    config = model_config(model)
    shape, serving_window, streaming = _cache(config, heads, sparsity, window, element_bytes)
    load = Load(prompt_tokens, output_tokens, requests)
    context = getattr(config, "max_position_embeddings", chunked_prefill_size)
    demand = Demand(
        window=serving_window,
        request_tokens=min(load.held_tokens, context),
        page_size=page_size,
        eviction_interval=eviction_interval,
        prefill_tokens=prefill_in_flight(chunked_prefill_size, context),
    )
    weights = weight_bytes(config, shape.element_bytes)
    budget = kv_bytes if kv_bytes is not None else _budget(gpu_memory, memory_fraction, weights)
    bytes_a_second = bandwidth * 1e9
    dense = forecast_dense(budget, load, page_size, shape, weights, bytes_a_second)
    hybrid = forecast_hybrid(budget, load, demand, shape, weights, bytes_a_second)
    sizes: PoolSizes = split_memory(budget, demand, shape)
    notes = caveats(dense, hybrid, load, serving_window)
    report = {
        "streaming_heads": streaming,
        "window": str(serving_window),
        "weight_bytes": weights,
        "kv_budget_bytes": budget,
        "dense_token_bytes": shape.dense_token_bytes,
        "full_token_bytes": shape.full_token_bytes,
        "window_token_bytes": shape.window_token_bytes,
        "full_tokens": sizes.full_tokens,
        "window_tokens": sizes.window_tokens,
        "pool_bytes": sizes.nbytes(shape, page_size),
        "dense": _figures(dense),
        "hybrid": _figures(hybrid),
        "speed_up": hybrid.tokens_per_second / dense.tokens_per_second if dense.running else None,
        "caveats": notes,
    }
    if as_json:
        typer.echo(json.dumps(report))
    else:
        _print(report, dense, hybrid)


def _budget(gpu_memory: float | None, fraction: float, weights: int) -> int:
    """Bytes of a device that are left for keys and values."""
    assert gpu_memory is not None, "one of the two options is given"
    budget = int(gpu_memory * fraction * GIB) - weights
    if budget <= 0:
        raise ConfigError(
            f"--gpu-memory: found {gpu_memory:g} GiB, of which {fraction:.0%} may be used, expected "
            f"more than the weights, {weights / GIB:.1f} GiB"
        )
    return budget


def _cache(
    config: PretrainedConfig,
    heads: str,
    sparsity: float | None,
    window: str | None,
    element_bytes: int | None,
) -> tuple[CacheShape, Window, int]:
    """The cache's shape, its window, and how many heads stream."""
    from rlkv.heads import HeadsFile, num_streaming, ranking, resolve
    from rlkv.planner import CacheShape

    path = resolve(heads)
    file = HeadsFile.read(path)
    file.check_model(config, path)
    sparsity = file.recommended_sparsity if sparsity is None else sparsity
    count = num_streaming(sparsity, file.model.num_layers * file.model.num_kv_heads)
    mask = [[False] * file.model.num_kv_heads for _ in range(file.model.num_layers)]
    for layer, head in ranking(file.gates)[:count]:
        mask[layer][head] = True
    size = _dtype_bytes(config) if element_bytes is None else element_bytes
    chosen = file.serving_window if window is None else Window.parse(window)
    return CacheShape.of(mask, file.model.head_dim, size), chosen, count


def _dtype_bytes(config: PretrainedConfig) -> int:
    import torch

    dtype = getattr(config, "dtype", None) or torch.bfloat16
    return torch.empty(0, dtype=dtype).element_size()


def _figures(forecast: Forecast) -> dict[str, Any]:
    return {
        **asdict(forecast),
        "step_seconds": forecast.step_seconds,
        "tokens_per_second": forecast.tokens_per_second,
    }


def _print(report: dict[str, Any], dense: Forecast, hybrid: Forecast) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(title=f"{report['streaming_heads']} streaming heads, window {report['window']}")
    for name in ("", "full cache", "hybrid cache", "ratio"):
        table.add_column(name, justify="right" if name else "left")
    rows = (
        ("KV bytes a token", report["dense_token_bytes"], report["full_token_bytes"], ",.0f"),
        ("tokens held", dense.tokens, hybrid.tokens, ",.0f"),
        ("requests at once", dense.running, hybrid.running, ",.1f"),
        ("decode step, ms", dense.step_seconds * 1e3, hybrid.step_seconds * 1e3, ",.2f"),
        ("tokens a second", dense.tokens_per_second, hybrid.tokens_per_second, ",.0f"),
    )
    for name, before, after, form in rows:
        table.add_row(
            name, format(before, form), format(after, form), f"{after / before:.2f} x" if before else "-"
        )
    console = Console(width=100)
    console.print(table)
    console.print(
        f"weights {report['weight_bytes'] / GIB:.2f} GiB, KV pools {report['pool_bytes'] / GIB:.2f} GiB; "
        "reading memory is taken to be all that a decode step does"
    )
    for note in report["caveats"]:
        console.print(f"caution: {note}")
