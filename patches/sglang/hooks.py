"""Hooks: what is put before, around or after a function of SGLang, by SGLang's own registry."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple


class Hook(NamedTuple):
    """One function of SGLang and what is put before, around or after it; LEDGER.md says why."""

    target: str
    kind: str
    function: Callable[..., Any]


def put_in_place(wanted: list[Hook]) -> None:
    """Register hooks, apply them and check each.

    Raises:
        RuntimeError: names the first target that is not hooked.
    """
    from sglang.srt.plugins.hook_registry import HookRegistry, HookSource, HookType

    for hook in wanted:
        HookRegistry.register(
            hook.target, hook.function, HookType(hook.kind), source=HookSource("rlkv", "rlkv")
        )
    HookRegistry.apply_hooks()
    _check(wanted)


def _check(wanted: list[Hook]) -> None:
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
