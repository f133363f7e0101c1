"""The table that a server prints once its pools are made."""

from __future__ import annotations

from itertools import groupby
from typing import TYPE_CHECKING

from rlkv.planner import dense_tokens

if TYPE_CHECKING:
    from rich.table import Table

    from .pool import HybridHeadPool


def print_table(pool: HybridHeadPool) -> None:
    """Print it to the server's output."""
    from rich.console import Console

    Console(width=100).print(_table(pool))


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
