"""What a backend of mixed attention does first: find its settings, put the gates on the model."""

from __future__ import annotations

from typing import Any

import torch

from rlkv.window import Window

from ..carry import settings_of
from ..fail_closed import check_cache_dtype, refuse_on_error, refuse_to_serve
from . import gates
from .settings import FLAG, MixedSettings


def prepare(model_runner: Any) -> tuple[Window, list[torch.Tensor]]:
    """Put the gates on the model of this process.

    Returns:
        The window, and the gates by layer, float32 [KV heads of this rank], which updates change in place.

    Raises:
        UnsupportedError: the process was not told of mixed attention, or its model cannot have it.
    """
    from sglang.srt.mem_cache.memory_pool import MHATokenToKVPool
    from sglang.srt.runtime_context import get_parallel

    settings = settings_of(model_runner.server_args)
    pool = model_runner.token_to_kv_pool
    if not isinstance(settings, MixedSettings):
        refuse_to_serve("a scheduler process has no gates", flag=FLAG)
    if type(pool) is not MHATokenToKVPool:
        refuse_to_serve(f"the KV pool is {type(pool).__name__}, expected MHATokenToKVPool", flag=FLAG)
    check_cache_dtype(model_runner, FLAG)
    rank, size = get_parallel().attn_tp_rank, get_parallel().attn_tp_size
    with refuse_on_error(FLAG):
        gates.attach(model_runner.model, settings, rank, size, model_runner.server_args.weight_version)
    return settings.window, list(gates.served_gates(model_runner.model).parameters.values())


def create_prefix_cache(context: Any) -> Any:
    """SGLang's own prefix cache, once the attention is known to be ours; see ``backends.PREFIX_CACHE``."""
    from sglang.srt.mem_cache.registry import default_radix_cache_factory

    if not hasattr(context.tp_worker.model_runner.model, gates.ATTRIBUTE):
        refuse_to_serve("the model of a scheduler process has no gates", flag=FLAG)
    return default_radix_cache_factory(context)
