"""Put every hook in place in a scheduler process, or end it."""

from __future__ import annotations

from typing import Any

from rlkv.planner import EVICTION_INTERVAL

from .hooks import Hook, put_in_place
from .settings import Settings


def hooks() -> list[Hook]:
    """All hooks of the hybrid cache; the imports wait until a server asks for it."""
    from . import (
        admission,
        build,
        eviction,
        fused_write,
        head_weights,
        metrics,
        model_config,
        server_info,
        sinks,
        sizing,
    )

    cache, managers = "sglang.srt.mem_cache", "sglang.srt.managers"
    checker = f"{managers}.scheduler_components.invariant_checker.SchedulerInvariantChecker"
    adder = f"{managers}.schedule_policy.PrefillAdder"
    collector = "sglang.srt.observability.metrics_collector.SchedulerMetricsCollector"
    return [
        Hook(
            "sglang.srt.configs.model_config.ModelConfig.from_server_args",
            "after",
            model_config.declare_two_pools,
        ),
        Hook("sglang.srt.model_loader.loader._initialize_model", "after", head_weights.reorder_on_load),
        Hook(
            "sglang.srt.model_executor.model_runner_components.weight_updater"
            ".WeightUpdater.update_weights_from_tensor",
            "around",
            head_weights.refuse_other_ways,
        ),
        Hook(
            "sglang.srt.model_executor.pool_configurator.create_memory_pool_configurator",
            "around",
            sizing.create_configurator,
        ),
        Hook(
            f"{cache}.kv_cache_configurator.KVCacheConfigurator._build_token_to_kv_pool",
            "around",
            build.build_pool,
        ),
        Hook("sglang.srt.models.utils.enable_fused_set_kv_buffer", "around", fused_write.never),
        Hook(f"{adder}.__init__", "after", admission.reserve_for_running),
        Hook(f"{adder}._swa_reserved_tokens", "around", admission.reserve_for_new),
        Hook(f"{adder}._swa_budget_for_req", "around", admission.no_more_than_it_has),
        Hook(f"{adder}._swa_chunk_cap", "around", admission.no_small_pieces),
        Hook(f"{adder}.add_one_req", "around", admission.one_cut_at_a_time),
        Hook(f"{managers}.schedule_batch.ScheduleBatch.maybe_evict_swa", "around", eviction.evict_together),
        Hook(f"{cache}.common.free_swa_out_of_window_slots", "around", sinks.free_after_sinks),
        Hook(f"{checker}._get_total_uncached_sizes", "after", sinks.uncached_with_sinks),
        Hook(f"{managers}.scheduler.Scheduler.get_internal_state", "after", server_info.add_cache),
        Hook(f"{collector}.__init__", "after", metrics.add_gauges),
        Hook(f"{collector}.log_stats", "after", metrics.log_gauges),
    ]


def install(settings: Settings, scheduler: Any, device: str) -> None:
    """Serve with a hybrid cache in the process of this scheduler, on a device of SGLang's name.

    Raises:
        UnsupportedError: a hook could not be put in place.
    """
    from sglang.srt.environ import envs
    from sglang.srt.layers.attention.attention_registry import register_attention_backend

    from . import fail_closed
    from .backends import backend_of
    from .state import activate

    with fail_closed.refuse_on_error():
        activate(settings, scheduler)
        put_in_place(hooks())
        backend = backend_of(device)
        register_attention_backend(backend.replaced)(backend.create)
        if not envs.SGLANG_SWA_EVICTION_INTERVAL.is_set():
            envs.SGLANG_SWA_EVICTION_INTERVAL.set(EVICTION_INTERVAL)
        if not envs.SGLANG_OPT_SWA_RELEASE_LEAF_LOCK_AFTER_WINDOW.is_set():
            # Otherwise a request holds the window of its prompt in the tree for as long as it decodes.
            envs.SGLANG_OPT_SWA_RELEASE_LEAF_LOCK_AFTER_WINDOW.set(True)
