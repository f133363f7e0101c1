"""Which KV heads each tensor-parallel rank holds: equal numbers of full ones, so that none is slowest."""

from __future__ import annotations

from collections.abc import Sequence


def head_order(streaming: Sequence[Sequence[bool]], ranks: int) -> tuple[tuple[int, ...], ...]:
    """The KV heads of every layer, reordered so that equal parts in sequence are the heads of rank 0, 1, ...

    Every rank gets as many heads of a layer as any other. The full heads of a layer are spread evenly; what
    is left over goes to the ranks that have the fewest so far, so that over all layers no rank has more than
    one full head more than another. One rank keeps the model's own order.

    Args:
        streaming: ``[num_layers][num_kv_heads]``, True where the head streams.
        ranks: number of ranks, a divisor of the number of heads.

    Returns:
        ``[num_layers][num_kv_heads]``, indices of heads.
    """
    if ranks == 1:
        return tuple(tuple(range(len(row))) for row in streaming)
    totals = [0] * ranks
    order = []
    for row in streaming:
        full = [head for head, streams in enumerate(row) if not streams]
        window = [head for head, streams in enumerate(row) if streams]
        each, left = divmod(len(full), ranks)
        behind = sorted(range(ranks), key=lambda rank: (totals[rank], rank))[:left]
        layer: list[int] = []
        for rank in range(ranks):
            count = each + (rank in behind)
            rest = len(row) // ranks - count
            layer += sorted(full[:count] + window[:rest])
            full, window = full[count:], window[rest:]
            totals[rank] += count
        order.append(tuple(layer))
    return tuple(order)


def heads_of_rank(order: Sequence[Sequence[int]], rank: int, ranks: int) -> list[tuple[int, ...]]:
    """The heads of one rank, layer by layer, as ``head_order`` puts them."""
    size = len(order[0]) // ranks
    return [tuple(row[rank * size : (rank + 1) * size]) for row in order]
