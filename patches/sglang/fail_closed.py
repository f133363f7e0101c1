"""A server that was asked for the hybrid cache has it in every process, or does not start."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .install import Hook


@contextmanager
def end_process_on_error() -> Iterator[None]:
    """Turn any exception into the end of the process, with its reason in one line."""
    try:
        yield
    except Exception as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        end_process(reason, error)


def end_process(reason: str, cause: Exception | None = None) -> None:
    """End the process; a ``SystemExit`` passes through SGLang's ``except Exception``.

    Raises:
        SystemExit: always.
    """
    print(f"error: --rlkv-heads cannot be served, and the server ends: {reason}", file=sys.stderr, flush=True)
    raise SystemExit(2) from cause


def check_hooks(wanted: list[Hook]) -> None:
    """Every hook is really around its target, which SGLang's registry only logs when it fails.

    Raises:
        RuntimeError: names the first target that is not hooked.
    """
    from pkgutil import resolve_name

    from sglang.srt.plugins.hook_registry import HookRegistry

    for hook in wanted:
        owner, _, name = hook.target.rpartition(".")
        found = getattr(resolve_name(owner), name, None)
        if hook.target not in HookRegistry._patched or not hasattr(found, "__wrapped__"):
            raise RuntimeError(f"the hook {hook.kind} {hook.target} is not in place")


def check_process(model_runner: Any) -> None:
    """The pools and the slots of this process are ours; called when the attention backend is made.

    Raises:
        SystemExit: they are not.
    """
    from sglang.srt.mem_cache.allocator.swa import SWATokenToKVPoolAllocator

    from .pool import HybridHeadPool

    pool, allocator = model_runner.token_to_kv_pool, model_runner.token_to_kv_pool_allocator
    if not isinstance(pool, HybridHeadPool):
        end_process(f"the KV pool is {type(pool).__name__}, expected HybridHeadPool")
    if type(allocator) is not SWATokenToKVPoolAllocator:
        end_process(f"the KV allocator is {type(allocator).__name__}, expected SWATokenToKVPoolAllocator")
    if pool.full_to_swa_index_mapping is not allocator.full_to_swa_index_mapping:
        end_process("the pool and the allocator map slots differently")
