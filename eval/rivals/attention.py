"""Attention weights, summed or at their highest, for methods that look at them; fused kernels keep none.

Work goes a few rows at a time, or a part of one long row, so that weights of Tq x Tk never exist for a whole
batch. Weights and sums are in float32 whatever the model's dtype: a sum in bfloat16 stops growing at some
hundred times what is added to it.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch

CHUNK = 2**27
"""Most weights that are in memory at once."""


def received_attention(
    query: torch.Tensor, key: torch.Tensor, visible: torch.Tensor, scaling: float
) -> torch.Tensor:
    """What each token receives from all queries of its KV head's group together.

    Args:
        query: [B, Hq, Tq, D].
        key: [B, H, Tk, D].
        visible: bool, broadcastable to [B, H, Tq, Tk]; at least one key for each query.
        scaling: factor of the logits.

    Returns:
        float32 [B, H, Tk].
    """
    total = torch.zeros(key.shape[:3], device=key.device)
    for rows, _, weights in _weights(query, key, visible, scaling):
        total[rows] += weights.sum(dim=(2, 3))
    return total


def strongest_attention(
    query: torch.Tensor, key: torch.Tensor, visible: torch.Tensor, asking: torch.Tensor, scaling: float
) -> torch.Tensor:
    """The most that each token receives from any one query that is ``asking`` (bool [B, Tq]).

    Returns:
        float32 [B, H, Tk].
    """
    strongest = torch.zeros(key.shape[:3], device=key.device)
    for rows, queries, weights in _weights(query, key, visible, scaling):
        asked = weights * asking[rows, None, None, queries, None]
        strongest[rows] = torch.maximum(strongest[rows], asked.amax(dim=(2, 3)))
    return strongest


def pieces(batch: int, queries: int, weights: int) -> Iterator[tuple[slice, slice]]:
    """Parts of a batch with at most ``CHUNK`` weights each: some rows, or some queries of one row.

    Args:
        batch: rows.
        queries: of a row.
        weights: of a query, all heads together.
    """
    rows = max(1, CHUNK // (queries * weights))
    some = queries if queries * weights <= CHUNK else max(1, CHUNK // weights)
    for row in range(0, batch, rows):
        for query in range(0, queries, some):
            yield slice(row, row + rows), slice(query, query + some)


def _weights(
    query: torch.Tensor, key: torch.Tensor, visible: torch.Tensor, scaling: float
) -> Iterator[tuple[slice, slice, torch.Tensor]]:
    """Attention weights float32 [b, H, G, q, Tk] of one piece after the other, and its rows and queries."""
    batch, heads, keys, _ = key.shape
    grouped = query.unflatten(1, (heads, -1))
    queries = grouped.shape[3]
    seen = visible.unsqueeze(2).expand(batch, -1, -1, queries, -1)
    for rows, part in pieces(batch, queries, query.shape[1] * keys):
        logits = torch.einsum("bhgqd,bhkd->bhgqk", grouped[rows, :, :, part], key[rows]) * scaling
        logits.masked_fill_(~seen[rows, :, :, part], -torch.inf)
        yield rows, part, logits.softmax(dim=-1, dtype=torch.float32)
