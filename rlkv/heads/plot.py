"""A picture of the gates: layers down, KV heads across, streaming heads hatched."""

from __future__ import annotations

from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING

from rlkv.errors import ConfigError
from rlkv.heads.rank import GatesLike

if TYPE_CHECKING:
    import torch
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

CELL_WIDTH, CELL_HEIGHT = 0.42, 0.2
"""Inches of one head. Wider than tall, so that 36 layers still fit on a page."""

BAR_WIDTH = 0.12
"""Inches of the colour bar, whatever its height."""

INK = "#33373d"
BRIGHT = 0.6
"""Gates above this have a colour so bright that white hatching would not show."""


def heat_map(
    gates: GatesLike, path: str | PathLike[str], title: str, streaming: torch.Tensor | None = None
) -> None:
    """Draw the gates into a PNG or SVG file.

    Args:
        gates: ``[num_layers, num_kv_heads]``, each in [0, 1].
        path: where to; the suffix, ``.png`` or ``.svg``, picks the format.
        title: line above the picture.
        streaming: bool ``[num_layers, num_kv_heads]``; heads that stream are hatched.

    Raises:
        ConfigError: another suffix, no matplotlib, or a file that cannot be written.
    """
    if Path(path).suffix.lower() not in (".png", ".svg"):
        raise ConfigError(f"{path}: suffix is {Path(path).suffix!r}, expected .png or .svg")
    try:
        figure = _draw(gates, title, streaming)
    except ImportError as error:
        raise ConfigError(f"{path}: found no matplotlib, expected it for a heat map: {error}") from error
    try:
        figure.savefig(path, dpi=200)
    except OSError as error:
        raise ConfigError(f"{path}: cannot write: {error.strerror or error}") from error


def _draw(gates: GatesLike, title: str, streaming: torch.Tensor | None) -> Figure:
    from matplotlib.figure import Figure  # here: an optional package, and half a second to import

    num_layers, num_kv_heads = len(gates), len(gates[0])
    size = (max(num_kv_heads * CELL_WIDTH, 2.6) + 1.5, num_layers * CELL_HEIGHT + 1.5)
    figure = Figure(figsize=size, layout="constrained")  # no pyplot: nothing global, no display needed
    axes = figure.add_subplot()
    rows = [[float(gate) for gate in row] for row in gates]
    mesh = axes.pcolormesh(rows, cmap="viridis", vmin=0, vmax=1, edgecolors="white", linewidth=0.6)
    _label_axes(axes, num_layers, num_kv_heads)
    aspect = num_layers * CELL_HEIGHT / BAR_WIDTH
    bar = figure.colorbar(mesh, ticks=[0, 0.25, 0.5, 0.75, 1], fraction=0.06, pad=0.03, aspect=aspect)
    bar.set_label("gate", color=INK)
    bar.outline.set_visible(False)
    bar.ax.tick_params(colors=INK, length=0, labelsize=8)
    figure.suptitle(title, fontsize=10, color=INK)
    if streaming is not None:
        _hatch(axes, gates, streaming)
    return figure


def _label_axes(axes: Axes, num_layers: int, num_kv_heads: int) -> None:
    """Layer 0 on top; every head named while they are few, every fourth layer."""
    axes.invert_yaxis()
    layers = range(0, num_layers, 4 if num_layers > 12 else 1)
    heads = range(0, num_kv_heads, 4 if num_kv_heads > 16 else 1)
    axes.set_yticks([layer + 0.5 for layer in layers], [str(layer) for layer in layers])
    axes.set_xticks([head + 0.5 for head in heads], [str(head) for head in heads])
    axes.set_xlabel("KV head", color=INK)
    axes.set_ylabel("layer", color=INK)
    axes.tick_params(colors=INK, length=0, labelsize=8)
    axes.spines[:].set_visible(False)


def _hatch(axes: Axes, gates: GatesLike, streaming: torch.Tensor) -> None:
    """Hatch the streaming heads and say below the picture how many they are."""
    from matplotlib.patches import Patch, Rectangle

    for layer, head in streaming.nonzero().tolist():
        ink = INK if gates[layer][head] > BRIGHT else "white"
        axes.add_patch(
            Rectangle((head, layer), 1, 1, fill=False, hatch="////", edgecolor=ink, linewidth=0, alpha=0.6)
        )
    label = f"streaming: {int(streaming.sum())} of {streaming.numel()} heads"
    sample = Patch(facecolor="#3b528b", hatch="////", edgecolor="white", linewidth=0)
    axes.figure.legend(
        [sample], [label], loc="outside lower center", frameon=False, fontsize=8, labelcolor=INK
    )
