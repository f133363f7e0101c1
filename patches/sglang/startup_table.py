"""The table that a server prints once its pools are made."""

from __future__ import annotations

from itertools import groupby
from typing import TYPE_CHECKING, Any

from rlkv.planner import dense_tokens

if TYPE_CHECKING:
    from rich.table import Table

    from .pool import HybridHeadPool


def print_table(pool: HybridHeadPool, server_args: Any) -> None:
    """Print it to the server's output, and what keeps requests that fit from running fast."""
    from rich.console import Console

    console = Console(width=100)
    console.print(_table(pool))
    hint = graph_hint(pool.sizes.full_tokens // pool.settings.request_tokens, server_args)
    if hint:
        console.print(hint)


def graph_hint(requests: int, server_args: Any) -> str | None:
    """What to say if more requests fit than SGLang records CUDA graphs for.

    A larger batch decodes without graphs, bound by its launches and not by memory: on one H200 a step of
    Llama-8B at 0.5 took 25 ms with 304 requests, and 16 with 217 that held as much.
    """
    graphs = server_args.cuda_graph_config.decode
    running = min(requests, server_args.max_running_requests or requests)
    if graphs.backend == "disabled" or running <= graphs.max_bs:
        return None
    return (
        f"More than {graphs.max_bs} running requests decode without CUDA graphs; "
        f"--cuda-graph-max-bs-decode {running} covers all that fit."
    )


def _table(pool: HybridHeadPool) -> Table:
    from rich.table import Table

    settings, shape = pool.settings, pool.shape
    heads = sum(shape.full_heads) + sum(shape.streaming_heads)
    title = f"RLKV: {sum(shape.streaming_heads)} of {heads} KV heads stream, window {settings.window}"
    if settings.ranks > 1:
        title += f" (rank {settings.rank} of {settings.ranks})"
    table = Table(title=title, title_justify="left", caption=f"{settings.heads_file}", caption_justify="left")
    table.add_column("")
    table.add_column("all heads full", justify="right")
    table.add_column("hybrid", justify="right")
    for layers, full, streaming in _layer_ranges(shape.full_heads, shape.streaming_heads):
        table.add_row(f"layers {layers}", f"{full + streaming} full", f"{full} full, {streaming} streaming")
    table.add_section()
    beyond = f"{shape.full_token_bytes:,}"
    table.add_row("KV bytes of a token beyond the window", f"{shape.dense_token_bytes:,}", beyond)
    nbytes = pool.nbytes()
    before = dense_tokens(nbytes, shape, pool.page_size)
    table.add_row(
        f"tokens in these {nbytes / (1 << 20):,.1f} MiB", f"{before:,}", f"{pool.sizes.full_tokens:,}"
    )
    table.add_row("window slots for streaming heads", "-", f"{pool.sizes.window_tokens:,}")
    length = settings.request_tokens
    table.add_row(
        f"requests of {length:,} tokens", f"{before / length:,.1f}", f"{pool.sizes.full_tokens / length:,.1f}"
    )
    return table


def _layer_ranges(full: tuple[int, ...], streaming: tuple[int, ...]) -> list[tuple[str, int, int]]:
    """Neighbouring layers with equal counts, as ("4-6", full, streaming)."""
    ranges = []
    for counts, group in groupby(enumerate(zip(full, streaming, strict=True)), key=lambda item: item[1]):
        layers = [layer for layer, _ in group]
        name = f"{layers[0]}" if len(layers) == 1 else f"{layers[0]}-{layers[-1]}"
        ranges.append((name, *counts))
    return ranges
