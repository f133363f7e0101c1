"""How ``rlkv heads`` lays its answers out in a terminal."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from rlkv.heads import HeadsFile, Overlap
from rlkv.heads.fields import Gates

VIRIDIS = ((68, 1, 84), (59, 82, 139), (33, 145, 140), (94, 201, 98), (253, 231, 37))
"""The heat map's colours at gates 0, 1/4, 1/2, 3/4 and 1; matplotlib would take half a second to say so."""

BARS = "▁▂▃▄▅▆▇█"
"""What stands for a full head's gate where there are no colours."""

STREAMS = "·"

Mask = Sequence[Sequence[bool]]
"""``[num_layers][num_kv_heads]``, True where the head streams."""


def print_file(heads: HeadsFile, sparsity: float, streaming: Mask) -> None:
    """Print summary, heat map and gates of a heads file."""
    console = _console(width=18 + 7 * heads.model.num_kv_heads)
    console.print(_summary(heads, sparsity, streaming))
    console.print()
    _print_heat_map(console, heads.gates, streaming)
    console.print()
    console.print(_gate_table(heads.gates, streaming))


def print_ranking(rows: Sequence[dict[str, Any]]) -> None:
    """Print a line per head in ranked order, from ``rank``, ``layer``, ``head``, ``gate``, ``streaming``."""
    table = _table("rank", "layer", "head", "gate", "cache")
    for place, row in enumerate(rows):
        cache = "streaming" if row["streaming"] else "full"
        table.add_row(str(place), str(row["layer"]), str(row["head"]), f"{row['gate']:.4f}", cache)
    _console().print(table)


def print_overlap(names: tuple[str, str], result: Overlap, sparsity: float) -> None:
    """Print how many full heads two files share, beside what blind draws would."""
    console = _console()
    console.print(f"A  {names[0]}\nB  {names[1]}\n", markup=False, soft_wrap=True)
    counts = f"{result.full_a}" if result.full_a == result.full_b else f"{result.full_a} and {result.full_b}"
    console.print(f"sparsity {sparsity:g}: {counts} of {result.num_heads} heads are full")
    console.print(f"shared   {result.shared}")
    line = f"chance   {result.chance:.1f} ± {result.chance_std:.1f}"
    if result.chance_std > 0:
        line += f"  ({(result.shared - result.chance) / result.chance_std:+.1f} standard deviations)"
    console.print(line)


def print_ties(name: str, tied: int) -> None:
    """Warn where (layer, head), not the gate, decided who is full."""
    if tied:
        _console().print(
            f"note     {name}: {tied} heads tie at the cut; (layer, head) decided among them",
            markup=False,
            soft_wrap=True,
        )


def print_layers(mask_a: Mask, mask_b: Mask) -> None:
    """Print the full heads of two masks layer by layer."""
    table = _table("layer", "full in A", "full in B", "shared", "heads")
    for layer, (row_a, row_b) in enumerate(zip(mask_a, mask_b, strict=True)):
        pairs = list(zip(row_a, row_b, strict=True))
        shared = sum(not a and not b for a, b in pairs)
        marks = "".join(_COMPARED[pair] for pair in pairs)
        table.add_row(str(layer), str(row_a.count(False)), str(row_b.count(False)), str(shared), marks)
    console = _console(width=40 + len(mask_a[0]))
    console.print()
    console.print(table)
    console.print(f"\n# full in both   A, B full in one   {STREAMS} streaming in both")


_COMPARED = {(False, False): "#", (False, True): "A", (True, False): "B", (True, True): STREAMS}


def _console(width: int = 0) -> Console:
    """The terminal, or one wide enough: a folded row of gates cannot be read, a cut one would mislead."""
    console = Console(highlight=False)
    console.width = max(console.width, width)
    return console


def _table(*columns: str) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
    for name in columns:
        table.add_column(name, justify="right", no_wrap=True)
    return table


def _summary(heads: HeadsFile, sparsity: float, streaming: Mask) -> Table:
    model, source = heads.model, heads.provenance
    gates = [gate for row in heads.gates for gate in row]
    num_streaming = sum(map(sum, streaming))
    table = Table.grid(padding=(0, 2, 0, 0))
    table.add_column(style="dim", no_wrap=True)
    revision = f" @ {model.revision[:12]}" if model.revision else ""
    shape = f"{model.num_layers} layers x {model.num_kv_heads} KV heads"
    rows = [
        ("model", f"{model.model_id}{revision} ({model.model_type})"),
        ("shape", f"{shape}, {model.num_query_heads} query heads, head_dim {model.head_dim}"),
        ("gates", f"mean {sum(gates) / len(gates):.3f}, lowest {min(gates):.3f}, highest {max(gates):.3f}"),
        ("windows", f"trained {heads.training_window}, serve {heads.serving_window}"),
        ("sparsity", f"recommended {heads.recommended_sparsity:g}"),
        ("shown at", f"sparsity {sparsity:g}: {num_streaming} of {len(gates)} heads stream"),
        ("trained on", f"{source.data}, steps {_known(source.steps)}, seed {_known(source.seed)}"),
        ("measured", "nothing yet" if not heads.measured else ""),
    ]
    rows += [
        (
            f"  {item.task}",
            f"{item.accuracy:.1%} of {item.num_problems} at sparsity {item.sparsity:g}, window {item.window}",
        )
        for item in heads.measured
    ]
    for name, value in rows:
        table.add_row(Text(name), Text(value))
    return table


def _known(value: int | None) -> str:
    return "unknown" if value is None else str(value)


def _print_heat_map(console: Console, gates: Gates, streaming: Mask) -> None:
    """A line per KV head, a cell per layer; the gate is the cell's colour, or a bar without colours."""
    num_layers, num_kv_heads = len(gates), len(gates[0])
    cell = 2 if 2 * num_layers + 6 <= console.width else 1
    coloured = console.color_system is not None
    ruler = "".join(str(layer).ljust(4 * cell) for layer in range(0, num_layers, 4))
    console.print(Text(f"layer {ruler}", style="dim"), no_wrap=True, crop=False)
    for head in range(num_kv_heads):
        line = Text.assemble((f"kv {head:>2} ", "dim"))
        for layer in range(num_layers):
            gate, streams = gates[layer][head], streaming[layer][head]
            full = " " if coloured else BARS[min(int(gate * len(BARS)), len(BARS) - 1)]
            line.append((STREAMS if streams else full) * cell, style=_colour(gate) if coloured else "none")
        console.print(line, no_wrap=True, crop=False)
    scale = (
        "colour from purple, gate 0, to yellow, gate 1" if coloured else f"{BARS} gate of a full head, 0 to 1"
    )
    console.print(Text(f"      {STREAMS} streaming   {scale}", style="dim"))


def _gate_table(gates: Gates, streaming: Mask) -> Table:
    """A line per layer with the gate of every head, streaming ones marked."""
    table = _table("layer", *(f"{head} " for head in range(len(gates[0]))), "mean", "full")
    for layer, (row, streams) in enumerate(zip(gates, streaming, strict=True)):
        cells = [
            Text(f"{gate:.2f}{STREAMS if stream else ' '}", style="dim" if stream else "bold")
            for gate, stream in zip(row, streams, strict=True)
        ]
        mean = f"{sum(row) / len(row):.2f}"
        table.add_row(str(layer), *cells, mean, f"{streams.count(False)}/{len(row)}")
    return table


def _colour(gate: float) -> str:
    """Background of a gate's cell, between the two nearest of ``VIRIDIS``, and ink that shows on it."""
    place = gate * (len(VIRIDIS) - 1)
    below = min(int(place), len(VIRIDIS) - 2)
    mix = [round(a + (b - a) * (place - below)) for a, b in zip(*VIRIDIS[below : below + 2], strict=True)]
    return f"{'white' if gate < 0.6 else 'black'} on rgb({mix[0]},{mix[1]},{mix[2]})"
