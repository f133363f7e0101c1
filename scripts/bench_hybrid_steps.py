#!/usr/bin/env python3
"""Time single forward passes of stock SGLang and of the hybrid cache, in one process, on one loaded model.

    scripts/bench_hybrid_steps.py --model MODEL --heads heads.json --out results [SGLang's flags]

Decode steps go through SGLang's own CUDA graphs, planned and launched one ahead, as its overlap scheduler
does; the requests' slots are laid out as a server lays them out (prompts in one piece, decoded tokens of all
requests in turn), and the caches hold random numbers. The scheduler is left out. Every arm first decodes for
some seconds: a cool device clocks higher, which would favour the one that comes first. Contexts are timed in
rounds: a device at its power cap changes its clock several times a second. Attention time is the sum of the
attention kernels in a profile of the same steps.
"""

from __future__ import annotations

import argparse
import gc
import json
import re
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from plot_hybrid_steps import draw

ATTENTION = re.compile(r"(Paged|Ragged)KVCache|MergeStates|write_heads|copy_full|(decode|prefill)_window")
"""Kernels that read or merge keys and values; the hybrid cache's write is among them, stock's is not. Kernels
that run beside one another count in full."""

WARM_STEPS, STEPS, PROFILED_STEPS = 4, 24, 12


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", required=True, help="folder with a config.json")
    parser.add_argument("--heads", required=True, help="heads file")
    parser.add_argument("--out", type=Path, required=True, help="folder for steps.json and steps.png")
    parser.add_argument("--sparsities", default="0,0.2,0.4,0.5,0.6,0.8")
    parser.add_argument("--requests", type=int, default=256)
    parser.add_argument("--contexts", default="2048,2304,2560")
    parser.add_argument("--prompt", type=int, default=8192, help="tokens of the prompt of the prefill")
    parser.add_argument("--sharing", type=int, default=64, help="requests that share that prompt as a prefix")
    parser.add_argument("--warm-seconds", type=float, default=8.0, help="of decoding before an arm is timed")
    parser.add_argument("--rounds", type=int, default=5, help="times that every context is timed")
    options, flags = parser.parse_known_args()
    contexts = [int(text) for text in options.contexts.split(",")]
    options.out.mkdir(parents=True, exist_ok=True)
    tokens = options.requests * (max(contexts) + WARM_STEPS + STEPS + PROFILED_STEPS)
    tokens += options.prompt + options.sharing * 64
    given = ["--model-path", options.model, "--load-format", "dummy", "--skip-tokenizer-init"]
    given += ["--max-total-tokens", str(tokens), "--max-running-requests", str(options.requests)]
    given += ["--cuda-graph-bs-decode", str(options.requests), "--disable-prefill-cuda-graph", *flags]
    sparsities = options.sparsities.split(",")
    settings = {s: read([*given, "--rlkv-heads", options.heads, "--rlkv-sparsity", s]) for s in sparsities}
    runner = load(given)
    results: list[dict[str, Any]] = []
    for sparsity in ("stock", *sparsities):
        if sparsity != "stock":
            switch(runner, settings[sparsity])
        result = {"sparsity": sparsity, **measure(runner, options, contexts)}
        results.append(result)
        compare(results[0], result, statistics.mean(contexts))
        short = {k: v for k, v in result.items() if k not in ("kernels_ms", "rounds_ms")}
        print(json.dumps(short), flush=True)
        (options.out / "steps.json").write_text(json.dumps(results, indent=2))
    draw(results, options.out / "steps.png")


def read(flags: list[str]) -> Any:
    """The hybrid cache that a server with these flags would have."""
    from rlkv_patches.sglang.carry import settings_of
    from sglang.srt.plugins import load_plugins
    from sglang.srt.server_args import prepare_server_args

    load_plugins()
    return settings_of(prepare_server_args(flags))


def load(flags: list[str]) -> Any:
    """A model runner with stock pools, as a scheduler process makes it."""
    from sglang.srt.configs.model_config import ModelConfig
    from sglang.srt.distributed.parallel_state_wrapper import ParallelState
    from sglang.srt.entrypoints.engine import _set_envs_and_config
    from sglang.srt.layers.moe import initialize_moe_config
    from sglang.srt.model_executor.model_runner import ModelRunner
    from sglang.srt.plugins import load_plugins
    from sglang.srt.server_args import PortArgs, prepare_server_args

    load_plugins()
    server_args = prepare_server_args(flags)
    _set_envs_and_config(server_args)
    initialize_moe_config(server_args)
    one = {"tp_size": 1, "pp_size": 1, "dp_size": 1, "attn_tp_size": 1, "attn_cp_size": 1, "attn_dp_size": 1}
    one |= {"moe_ep_size": 1, "moe_dp_size": 1, "dcp_size": 1}
    first = {"tp_rank": 0, "pp_rank": 0, "attn_tp_rank": 0, "attn_cp_rank": 0, "attn_dp_rank": 0, "gpu_id": 0}
    ranks = ParallelState(dp_rank=None, moe_ep_rank=0, moe_dp_rank=None, **one, **first)
    runner = ModelRunner(
        model_config=ModelConfig.from_server_args(server_args),
        mem_fraction_static=server_args.mem_fraction_static,
        gpu_id=0,
        ps=ranks,
        nccl_port=PortArgs.init_new(server_args).nccl_port,
        server_args=server_args,
    )
    make_pools(runner)
    return runner


def make_pools(runner: Any) -> None:
    """Pools, attention backend and CUDA graphs, in SGLang's order."""
    runner.alloc_memory_pool()
    runner.init_attention_backends()
    runner.init_cuda_graphs()


def switch(runner: Any, settings: Any) -> None:
    """Replace the pools by those of a server with these settings, with a scheduler's hooks."""
    from rlkv_patches.sglang import install, model_config, state
    from sglang.srt.plugins.hook_registry import HookRegistry

    for name in (
        "decode_cuda_graph_runner", "prefill_cuda_graph_runner", "eager_runner", "attn_backend",
        "decode_attn_backend", "token_to_kv_pool", "token_to_kv_pool_allocator", "req_to_token_pool",
        "kv_cache_configurator", "memory_pool_config", "graph_shared_output",
    ):  # fmt: skip
        setattr(runner, name, None)
    hooked = install.hooks()[0].target in HookRegistry._patched
    if hooked:
        state.activate(settings, None)  # drops the pools of the one before
    gc.collect()
    if runner.device == "cuda":
        torch.cuda.empty_cache()
    if not hooked:
        install.install(settings, None, runner.device)
    model_config.declare_two_pools(runner.model_config)
    runner.is_hybrid_swa, runner.is_hybrid_swa_compress = True, False
    runner.sliding_window_size = runner.model_config.sliding_window_size
    make_pools(runner)


def measure(runner: Any, options: argparse.Namespace, contexts: list[int]) -> dict[str, Any]:
    """Milliseconds of decode steps and of prefills."""
    fill(runner)
    batches = Batches(runner, options.requests, max(contexts) + WARM_STEPS + STEPS + PROFILED_STEPS)
    warm(runner, batches, max(contexts), options.warm_seconds)
    rounds: dict[int, list[float]] = {context: [] for context in contexts}
    for context in contexts * options.rounds:
        rounds[context].append(timed(runner, lambda i, c=context: batches.decode(c + i)))
    steps = {context: statistics.mean(times) for context, times in rounds.items()}
    middle = contexts[len(contexts) // 2]
    kernels = profiled(runner, lambda i: batches.decode(middle + i))
    attention = sum(ms for name, ms in kernels.items() if ATTENTION.search(name))
    bytes_per_token = kv_bytes(runner)
    prefill = [timed(runner, lambda i: batches.prefill(1, 0, options.prompt), steps=5) for _ in range(2)][1]
    shared = timed(runner, lambda i: batches.prefill(options.sharing, options.prompt, 64), steps=5)
    return {
        "step_ms": statistics.mean(steps.values()),
        "steps_ms": steps,
        "rounds_ms": rounds,
        "attention_ms": attention,
        "prefill_ms": prefill,
        "shared_prefix_ms": shared,
        "kv_bytes": bytes_per_token,
        "kernels_ms": dict(sorted(kernels.items(), key=lambda item: -item[1])[:16]),
    }


def compare(stock: dict[str, Any], result: dict[str, Any], context: float) -> None:
    """Add what was saved, and 95% of what the saved bytes should save."""
    dense = stock["kv_bytes"][0] * context
    full, window, size = result["kv_bytes"]
    ratio = (full * context + window * size) / dense
    result["kv_ratio"] = ratio
    result["saved_ms"] = stock["step_ms"] - result["step_ms"]
    result["wanted_ms"] = 0.95 * (1 - ratio) * stock["attention_ms"]
    for name in ("step", "prefill", "shared_prefix"):
        result[f"{name}_of_stock"] = result[f"{name}_ms"] / stock[f"{name}_ms"]


def kv_bytes(runner: Any) -> tuple[int, int, int]:
    """Bytes of a token in full heads and in streaming heads, and the window's size; all full for stock."""
    pool = runner.token_to_kv_pool
    if hasattr(pool, "shape"):
        return pool.shape.full_token_bytes, pool.shape.window_token_bytes, pool.settings.window.size
    return sum(x[0].nbytes for x in (*pool.k_buffer, *pool.v_buffer)), 0, 0


def fill(runner: Any) -> None:
    """Random numbers: zeros would take less power than a real cache."""
    pool = runner.token_to_kv_pool
    buffers = [*pool.k_buffer, *pool.v_buffer] if hasattr(pool, "k_buffer") else []
    if not buffers:
        buffers = [x for part in (pool.full_kv_pool, pool.swa_kv_pool) for x in (*part.keys, *part.values)]
    for buffer in buffers:
        buffer.normal_()


class Batches:
    """Batches over slots that are laid out once."""

    def __init__(self, runner: Any, requests: int, length: int) -> None:
        self.runner, self.requests = runner, requests
        self.device = runner.device
        self.table = runner.req_to_token_pool.req_to_token
        self.vocabulary = runner.model_config.vocab_size
        prompt = length * 4 // 5
        decoded = length - prompt
        slots = torch.arange(1, requests * length + 1, device=self.device, dtype=torch.int32)
        self.table[:requests, :prompt] = slots[: requests * prompt].view(requests, prompt)
        self.table[:requests, prompt:length] = slots[requests * prompt :].view(decoded, requests).T
        self.free = requests * length + 1
        pool = runner.token_to_kv_pool
        if hasattr(pool, "mapping"):
            # Every token has some window slot; those that are seen at the same time have different ones.
            ring = (pool.sizes.window_tokens - 1) // requests
            position = torch.arange(length, device=self.device)
            row = torch.arange(requests, device=self.device)[:, None]
            order = torch.randperm(requests * ring, device=self.device) + 1
            pool.mapping[self.table[:requests, :length].long()] = order[row * ring + position % ring]
            rest = torch.arange(len(pool.mapping) - 1 - self.free, device=self.device)
            pool.mapping[self.free : -1] = 1 + rest % (pool.sizes.window_tokens - 1)

    def decode(self, length: int) -> Any:
        """One step in which every request has ``length`` tokens, the new one included."""
        from sglang.srt.model_executor.forward_batch_info import ForwardMode

        lengths = torch.full((self.requests,), length)
        on_device = lengths.to(self.device, non_blocking=True)
        return self._batch(
            ForwardMode.DECODE,
            self.requests,
            seq_lens=on_device,
            seq_lens_cpu=lengths,
            orig_seq_lens=on_device,
            out_cache_loc=self.table[: self.requests, length - 1].long(),
            positions=on_device - 1,
        )

    def prefill(self, requests: int, cached: int, new: int) -> Any:
        """New prompts; those with a cached part share it."""
        from sglang.srt.model_executor.forward_batch_info import CaptureHiddenMode, ForwardMode

        slots = self.free + torch.arange(cached + requests * new, device=self.device, dtype=torch.int32)
        self.table[:requests, :cached] = slots[:cached]
        self.table[:requests, cached : cached + new] = slots[cached:].view(requests, new)
        counts = torch.full((requests,), new, device=self.device)
        return self._batch(
            ForwardMode.EXTEND,
            requests,
            seq_lens=counts + cached,
            seq_lens_cpu=torch.full((requests,), cached + new),
            orig_seq_lens=counts + cached,
            out_cache_loc=slots[cached:].long(),
            positions=(cached + torch.arange(new, device=self.device)).repeat(requests),
            extend_num_tokens=requests * new,
            extend_seq_lens=counts,
            extend_prefix_lens=torch.full((requests,), cached, device=self.device),
            extend_start_loc=new * torch.arange(requests, device=self.device),
            extend_seq_lens_cpu=[new] * requests,
            extend_prefix_lens_cpu=[cached] * requests,
            extend_logprob_start_lens_cpu=[new] * requests,
            capture_hidden_mode=CaptureHiddenMode.NULL,
            num_token_non_padded_cpu=requests * new,
        )

    def _batch(self, mode: Any, requests: int, **fields: Any) -> Any:
        from sglang.srt.model_executor.forward_batch_info import CaptureHiddenMode, ForwardBatch
        from sglang.srt.speculative.spec_info import SpeculativeAlgorithm

        tokens = len(fields["out_cache_loc"])
        fields.setdefault("capture_hidden_mode", CaptureHiddenMode.NULL)
        return ForwardBatch(
            forward_mode=mode,
            batch_size=requests,
            input_ids=torch.randint(0, self.vocabulary, (tokens,), device=self.device),
            req_pool_indices=torch.arange(requests, device=self.device),
            seq_lens_sum=int(fields["seq_lens_cpu"].sum()),
            spec_algorithm=SpeculativeAlgorithm.NONE,
            global_forward_mode=mode,
            **fields,
        )


@torch.no_grad()
def run(runner: Any, batch: Any) -> None:
    """A forward pass and its greedy tokens."""
    runner.forward(batch).logits_output.next_token_logits.argmax(-1)


def warm(runner: Any, batches: Batches, length: int, seconds: float) -> None:
    """Decode steps for so many seconds."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        run(runner, batches.decode(length))
        wait(runner)


def timed(runner: Any, batch_of: Callable[[int], Any], steps: int = STEPS) -> float:
    """Milliseconds a pass; the next one is prepared while one runs."""
    cuda = runner.device == "cuda"
    done: list[Any] = []
    began = 0.0
    for i in range(WARM_STEPS + steps):
        if i == WARM_STEPS:
            wait(runner)
            began = time.perf_counter()
        run(runner, batch_of(i))
        if cuda:
            done.append(torch.cuda.Event())
            done[-1].record()
            if len(done) > 1:
                done[-2].synchronize()
    wait(runner)
    return 1e3 * (time.perf_counter() - began) / steps


def profiled(runner: Any, batch_of: Callable[[int], Any]) -> dict[str, float]:
    """Milliseconds of GPU time a pass by kernel."""
    from torch.profiler import ProfilerActivity, profile

    wait(runner)
    if runner.device != "cuda":
        return {}
    with profile(activities=[ProfilerActivity.CUDA]) as seen:
        for i in range(PROFILED_STEPS):
            run(runner, batch_of(i))
        wait(runner)
    found: dict[str, float] = {}
    for event in seen.key_averages():
        found[event.key[:100]] = (
            found.get(event.key[:100], 0.0) + event.device_time_total / 1e3 / PROFILED_STEPS
        )
    return found


def wait(runner: Any) -> None:
    if runner.device == "cuda":
        torch.cuda.synchronize()


if __name__ == "__main__":
    main()
