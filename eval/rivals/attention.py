"""Attention weights, summed or at their highest, for methods that look at them; fused kernels keep none.

Work goes a few rows at a time, so that weights of Tq x Tk never exist for a whole batch.
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
        [B, H, Tk].
    """
    weights = _weights(query, key, visible, scaling)
    return torch.cat([part.sum(dim=(2, 3)) for part in weights])


def strongest_attention(
    query: torch.Tensor, key: torch.Tensor, visible: torch.Tensor, asking: torch.Tensor, scaling: float
) -> torch.Tensor:
    """The most that each token receives from any one query that is ``asking`` (bool [B, Tq]); [B, H, Tk]."""
    parts, begin = [], 0
    for part in _weights(query, key, visible, scaling):
        rows = asking[begin : begin + len(part), None, None, :, None]
        parts.append((part * rows).amax(dim=(2, 3)))
        begin += len(part)
    return torch.cat(parts)


def _weights(
    query: torch.Tensor, key: torch.Tensor, visible: torch.Tensor, scaling: float
) -> Iterator[torch.Tensor]:
    """Attention weights [b, H, G, Tq, Tk] of some rows after the other."""
    batch, heads, keys, _ = key.shape
    grouped = query.unflatten(1, (heads, -1))
    seen = visible.unsqueeze(2).expand(batch, *[-1] * 4)
    rows = max(1, CHUNK // (query.shape[1] * query.shape[2] * keys))
    for begin in range(0, batch, rows):
        part = slice(begin, begin + rows)
        logits = torch.einsum("bhgqd,bhkd->bhgqk", grouped[part], key[part]) * scaling
        yield logits.masked_fill_(~seen[part], -torch.inf).softmax(dim=-1)
