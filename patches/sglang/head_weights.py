"""Puts KV heads into the order of their ranks as weights are loaded, and their query heads with them.

Tensor parallelism cuts a layer's heads into equal parts in sequence. The attention of a model is the same in
any order of its heads, as long as the rows of the query, key and value projections and the columns of the
output projection are reordered alike.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import torch

from rlkv.errors import UnsupportedError

from .state import state

ATTRIBUTE = "_rlkv_order"
"""Attribute of a model whose weights are in the order of their ranks."""

PARAMETER = re.compile(r"layers\.(\d+)\.self_attn\.(\w+)\.(.+)$")

HEAD_ROWS = {("q_proj", "weight"), ("q_proj", "bias"), ("k_proj", "weight"), ("k_proj", "bias")} | {
    ("v_proj", "weight"),
    ("v_proj", "bias"),
}
"""Parameters that have a block of rows for each head."""

HEAD_COLUMNS = {("o_proj", "weight")}
"""Parameters that have a block of columns for each head."""

REORDERED_FORMATS = (None, "flattened_bucket")
"""Of ``/update_weights_from_tensor``: those that go through the model's ``load_weights``."""


def reorder(name: str, tensor: torch.Tensor, order: Sequence[Sequence[int]], head_dim: int) -> torch.Tensor:
    """A parameter with its KV heads, or groups of query heads, in another order.

    Args:
        name: of the parameter, as checkpoints have it.
        tensor: ``[heads * head_dim, ...]`` or ``[..., heads * head_dim]`` for what belongs to heads.
        order: ``[num_layers][num_kv_heads]``, the head that comes to each place.
        head_dim: channels of one head.

    Returns:
        A new tensor for what belongs to heads, ``tensor`` itself for everything else.

    Raises:
        UnsupportedError: a parameter of the attention that may belong to heads in a way that is not known.
    """
    found = PARAMETER.search(name)
    if found is None:
        return tensor
    layer, part = int(found[1]), (found[2], found[3])
    index = torch.tensor(order[layer], device=tensor.device)
    if part in HEAD_ROWS:
        return tensor.unflatten(0, (len(index), -1)).index_select(0, index).flatten(0, 1)
    if part in HEAD_COLUMNS:
        return tensor.unflatten(1, (len(index), -1)).index_select(1, index).flatten(1, 2)
    if part == ("o_proj", "bias") or tensor.numel() in (1, head_dim):
        return tensor
    raise UnsupportedError(
        f"{name}: found shape {list(tensor.shape)}, expected plain projections: with more than one "
        "tensor-parallel rank it is not known how this parameter belongs to heads"
    )


def reorder_on_load(model: Any, model_config: Any, load_config: Any, *rest: Any, **options: Any) -> Any:
    """Have a model reorder what it loads, now and in updates (after ``loader._initialize_model``).

    It is marked once it has loaded all of its attention, or at once where there is nothing to load: weights
    that come to it by another way are in another order, and the server does not start.
    """
    from sglang.srt.configs.load_config import LoadFormat

    settings = state().settings
    if settings.ranks == 1:
        return model
    load, order, head_dim = model.load_weights, settings.order, model_config.head_dim
    seen: set[tuple[int, str]] = set()

    def reordered(weights: Iterable[tuple[str, torch.Tensor]]) -> Iterator[tuple[str, torch.Tensor]]:
        for name, tensor in weights:
            found = PARAMETER.search(name)
            if found is not None:
                seen.add((int(found[1]), found[2]))
            yield name, reorder(name, tensor, order, head_dim)

    def load_weights(weights: Iterable[tuple[str, torch.Tensor]], *args: Any, **kwargs: Any) -> Any:
        result = load(reordered(weights), *args, **kwargs)
        if not hasattr(model, ATTRIBUTE):  # an update may bring its weights in several parts
            missing = _missing(seen, len(order))
            if missing:
                raise UnsupportedError(
                    f"weights: found no {missing}, expected plain projections in every layer"
                )
            setattr(model, ATTRIBUTE, order)
        return result

    model.load_weights = load_weights
    if load_config.load_format == LoadFormat.DUMMY:
        setattr(model, ATTRIBUTE, order)
    return model


def refuse_other_ways(
    original: Callable[..., tuple[bool, str]],
    updater: Any,
    named_tensors: Any,
    load_format: str | None = None,
) -> tuple[bool, str]:
    """No update that goes past ``load_weights`` (around ``WeightUpdater.update_weights_from_tensor``)."""
    if state().settings.ranks > 1 and load_format not in REORDERED_FORMATS:
        return False, (
            f"rlkv: load_format: found {load_format!r}, expected none or 'flattened_bucket': on several "
            "tensor-parallel ranks heads are in another order, which only load_weights knows; "
            "the old weights are kept"
        )
    return original(updater, named_tensors, load_format)


def _missing(seen: set[tuple[int, str]], num_layers: int) -> str | None:
    """The first projection of any layer that was never loaded."""
    for layer in range(num_layers):
        for part in ("q_proj", "k_proj", "v_proj", "o_proj"):
            if (layer, part) not in seen:
                return f"layers.{layer}.self_attn.{part}"
    return None
