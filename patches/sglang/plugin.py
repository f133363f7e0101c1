"""Entry point that SGLang calls in the launching process and in every scheduler process.

Without ``--rlkv-heads`` or ``--rlkv-gates`` only three hooks are in place, and all of them pass their calls
through: the flags, their reading, and the look at the arguments when a scheduler starts.
"""

from __future__ import annotations

from typing import Any


def load() -> None:
    """Register the flags, the prefix cache and the hook that installs the rest where it is asked for."""
    from sglang.srt.mem_cache.registry import register_radix_cache_backend
    from sglang.srt.plugins.hook_registry import HookRegistry, HookType

    from . import args
    from .backends import PREFIX_CACHE

    register = HookRegistry.register
    register("sglang.srt.server_args.ServerArgs.add_cli_args", args.add_flags, HookType.AFTER)
    register("sglang.srt.server_args.ServerArgs.from_cli_args", args.read_flags, HookType.AROUND)
    register("sglang.srt.managers.scheduler.Scheduler.__init__", _before_scheduler, HookType.BEFORE)
    register_radix_cache_backend(PREFIX_CACHE, _prefix_cache)


def _before_scheduler(
    scheduler: Any,
    server_args: Any,
    port_args: Any,
    gpu_id: int,
    tp_rank: int,
    *rest: Any,
    **options: Any,
) -> None:
    from .carry import settings_of
    from .mixed.settings import MixedSettings

    settings = settings_of(server_args)
    if settings is None:
        return
    if isinstance(settings, MixedSettings):
        from .mixed.install import install_in_scheduler

        install_in_scheduler(server_args.device)
    else:
        from .install import install

        install(settings.of_rank(tp_rank), scheduler, server_args.device)


def _prefix_cache(context: Any) -> Any:
    from .carry import settings_of
    from .mixed.settings import MixedSettings

    if isinstance(settings_of(context.server_args), MixedSettings):
        from .mixed.process import create_prefix_cache as create_for_mixed

        return create_for_mixed(context)
    from .radix import create_prefix_cache

    return create_prefix_cache(context)
