"""A server asked for the hybrid cache or mixed attention has it in every process, or does not start."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NoReturn

from rlkv.errors import UnsupportedError


@contextmanager
def refuse_on_error(flag: str = "--rlkv-heads") -> Iterator[None]:
    """Turn any exception into a refusal to serve what a flag asked for, with its reason in one line."""
    try:
        yield
    except Exception as error:
        refuse_to_serve(" ".join(str(error).split()) or type(error).__name__, error, flag)


def refuse_to_serve(reason: str, cause: Exception | None = None, flag: str = "--rlkv-heads") -> NoReturn:
    """End the server from within the start of a scheduler.

    An exception does: SGLang swallows those of a plugin's entry point alone, and for any other it has the
    launching process end all processes. After a ``SystemExit`` that one would wait for ever (tried).

    Raises:
        UnsupportedError: always.
    """
    line = f"{flag} cannot be served, and the server ends: {reason}"
    print(f"error: {line}", file=sys.stderr, flush=True)
    raise UnsupportedError(line) from cause


def check_cache_dtype(model_runner: Any, flag: str = "--rlkv-heads") -> None:
    """The cache has the precision of the model: a checkpoint may ask for another.

    Raises:
        UnsupportedError: it has not.
    """
    found, expected = model_runner.kv_cache_dtype, model_runner.dtype
    if found != expected:
        refuse_to_serve(
            f"the KV cache is {found}, expected {expected}: a quantized one is not supported", flag=flag
        )


def check_process(model_runner: Any) -> None:
    """Pools, slots and layers of this process are as expected; called when the attention backend is made.

    Raises:
        UnsupportedError: they are not.
    """
    from sglang.srt.mem_cache.allocator.swa import SWATokenToKVPoolAllocator
    from sglang.srt.runtime_context import get_parallel

    from .attention_layers import check_layers
    from .head_weights import ATTRIBUTE
    from .pool import HybridHeadPool

    pool, allocator = model_runner.token_to_kv_pool, model_runner.token_to_kv_pool_allocator
    if not isinstance(pool, HybridHeadPool):
        refuse_to_serve(f"the KV pool is {type(pool).__name__}, expected HybridHeadPool")
    settings = pool.settings
    found = (get_parallel().attn_tp_rank, get_parallel().attn_tp_size)
    if found != (settings.rank, settings.ranks):
        refuse_to_serve(f"rank {found[0]} of {found[1]}, expected {settings.rank} of {settings.ranks}")
    if settings.ranks > 1 and getattr(model_runner.model, ATTRIBUTE, None) != settings.order:
        refuse_to_serve("the heads of the model are not in the order of their ranks")
    check_cache_dtype(model_runner)
    with refuse_on_error():
        check_layers(model_runner.model, len(settings.streaming))
    if type(allocator) is not SWATokenToKVPoolAllocator:
        refuse_to_serve(f"the KV allocator is {type(allocator).__name__}, expected SWATokenToKVPoolAllocator")
    if pool.full_to_swa_index_mapping is not allocator.full_to_swa_index_mapping:
        refuse_to_serve("the pool and the allocator map slots differently")
