"""How full the two pools are, and what the hybrid cache saves right now."""

from __future__ import annotations

from typing import Any


def usage(allocator: Any) -> dict[str, int]:
    """Tokens that hold a slot, for requests or for the prefix cache, and the bytes that are saved."""
    pool = allocator.get_kvcache()
    full = pool.sizes.full_tokens - allocator.full_available_size()
    window = pool.sizes.window_tokens - allocator.swa_available_size()
    return {
        "full_tokens_used": full,
        "window_tokens_used": window,
        "bytes_saved": (full - window) * pool.shape.window_token_bytes,
    }
