#!/usr/bin/env python3
"""Run the MATH-500 replay through the real scheduler without a GPU, and price its steps by what they read.

    scripts/replay_scheduler.py --out runs/scheduler

Servers of one layer whose attention computes nothing take the decisions that a real one takes at the same
steps: all requests come at once and end by count, so that little depends on how long a step lasts. Admission,
prefills in pieces, retraction, eviction and the sizes of both pools are real. Estimated is the time: weights,
keys and values of the shape at a measured bandwidth, and a constant for a step.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.progress import Progress
from rich.table import Table
from rlkv_eval.throughput.client import drive, random_prompts
from rlkv_eval.throughput.config import FULL, MEMORY, ThroughputConfig, shape_folder
from rlkv_eval.throughput.launch import Server
from rlkv_eval.throughput.run import server_flags

from rlkv.heads import HeadsFile, ModelShape
from rlkv.model_size import model_config, weight_bytes

CONTEXT, HEAD_DIM, ELEMENT_BYTES = 16384, 8, 2
STEP_S, REQUEST_S = 1.6e-3, 1.2e-5
"""Of a decode step on an H200 beside what it reads; the second for every request in it."""
PREFILL_S, PREFILL_TOKENS_S = 8e-3, 45_000.0
"""Least time of a prefill, and its tokens a second, on an H200 with the shape of Llama-3.1-8B."""
LOGGED_STEPS = 40
"""Decode steps between two lines of SGLang's log."""

DECODE = re.compile(
    r"Decode batch, #running-req: (\d+), #(?:full )?token: (\d+).*?(?:#swa token: (\d+).*?)?#queue-req: (\d+)"
)
PREFILL = re.compile(r"Prefill batch.*?#new-token: (\d+)")

PLUGIN = """
def skip(original, backend, q, *args, **kwargs):
    return q.new_zeros(q.shape)


def load():
    from sglang.srt.plugins.hook_registry import HookRegistry, HookType

    stock = "sglang.srt.layers.attention.torch_native_backend.TorchNativeAttnBackend"
    for target in (
        "rlkv_patches.sglang.attention_torch.HybridTorchBackend._forward",
        f"{stock}.forward_decode",
        f"{stock}.forward_extend",
    ):
        HookRegistry.register(target, skip, HookType.AROUND)
"""


@dataclass(frozen=True)
class Estimate:
    """What a replay would cost.

    Attributes:
        seconds: of all of it.
        waiting_s: until no request waits any more.
        tokens, waiting_tokens: made in the two.
        prefills, retractions: how often.
        most_running: requests in one step.
    """

    seconds: float
    waiting_s: float
    tokens: int
    waiting_tokens: int
    prefills: int
    retractions: int
    most_running: int


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True, help="folder for logs and scheduler.json")
    parser.add_argument("--shape", default="llama-3.1-8b", help="real model whose bytes are counted")
    parser.add_argument("--sparsities", default="0.5,0.6", help="fractions of KV heads that stream")
    parser.add_argument("--kv-tokens", type=int, default=150_000, help="memory, in full tokens")
    parser.add_argument("--bandwidth", type=float, default=4070.0, help="GB/s of attention on the device")
    parser.add_argument("--chunked-prefill-size", type=int, default=2048, help="SGLang's")
    options, flags = parser.parse_known_args()
    options.out.mkdir(parents=True, exist_ok=True)
    found = {}
    for arm in (FULL, *options.sparsities.split(",")):
        found[arm] = run(arm, options, flags)
        (options.out / "scheduler.json").write_text(
            json.dumps({name: vars(estimate) for name, estimate in found.items()}, indent=1) + "\n"
        )
    show(found)


def run(arm: str, options: argparse.Namespace, flags: list[str]) -> Estimate:
    """One server, the whole replay, and what its log says."""
    model = model_config(str(shape_folder(options.shape)))
    heads = model.num_hidden_layers * model.num_key_value_heads
    streaming = 0 if arm == FULL else round(float(arm) * heads)
    element = 2 * model.head_dim * ELEMENT_BYTES
    full_bytes, window_bytes = (heads - streaming) * element, streaming * element
    with tempfile.TemporaryDirectory() as scratch:
        folder, plugin = model_folder(Path(scratch)), plugin_folder(Path(scratch))
        config = ThroughputConfig(
            options.out,
            str(folder),
            dummy_weights=True,
            heads=str(folder / "heads.json"),
            kv_tokens=options.kv_tokens,
            chunked_prefill_size=options.chunked_prefill_size,
            server_flags=("--context-length", str(CONTEXT), *flags),
        )
        load = config.workload(MEMORY)
        given = server_flags(config, HeadsFile.read(config.heads), MEMORY, arm, load, CONTEXT)
        log = options.out / f"{arm}.log"
        path = os.pathsep.join([str(plugin), *filter(None, [os.environ.get("PYTHONPATH")])])
        quiet = {"PYTHONPATH": path, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
        with (
            Server(str(folder), given, log, quiet) as server,
            Progress(console=Console(stderr=True)) as progress,
        ):
            bar = progress.add_task(f"{arm} tokens", total=sum(load.lengths))
            _, prompts = random_prompts(load, model_config(str(folder)).vocab_size)
            drive(server.url, prompts, load.lengths, lambda new: progress.advance(bar, new))
    weights = weight_bytes(model, ELEMENT_BYTES)
    return price(log.read_text(errors="replace"), weights, full_bytes, window_bytes, options.bandwidth * 1e9)


def price(log: str, weights: int, full_bytes: int, window_bytes: int, bandwidth: float) -> Estimate:
    """Seconds of the steps in a server's log."""
    clock = waiting_s = 0.0
    tokens = waiting_tokens = prefills = most = 0
    for line in log.splitlines():
        if decode := DECODE.search(line):
            running, full, window, queue = (int(text or 0) for text in decode.groups())
            read = weights + full * full_bytes + window * window_bytes
            clock += LOGGED_STEPS * (read / bandwidth + STEP_S + REQUEST_S * running)
            tokens += LOGGED_STEPS * running
            most = max(most, running)
            if queue:
                waiting_s, waiting_tokens = clock, tokens
        elif prefill := PREFILL.search(line):
            clock += max(PREFILL_S, int(prefill[1]) / PREFILL_TOKENS_S)
            prefills += 1
    retractions = log.count("Retract requests")
    return Estimate(clock, waiting_s, tokens, waiting_tokens, prefills, retractions, most)


def model_folder(scratch: Path) -> Path:
    """A model of one layer, whose heads file has a gate of its own for every head."""
    from transformers import AutoConfig, Qwen3Config

    from rlkv.heads import Provenance
    from rlkv.window import PAPER_SERVE_WINDOW, PAPER_TRAIN_WINDOW

    kv_heads = 20
    config = Qwen3Config(
        architectures=["Qwen3ForCausalLM"], vocab_size=512, hidden_size=16, intermediate_size=16,
        num_hidden_layers=1, num_attention_heads=kv_heads, num_key_value_heads=kv_heads, head_dim=HEAD_DIM,
        max_position_embeddings=CONTEXT, tie_word_embeddings=True, dtype="bfloat16",
    )  # fmt: skip
    folder = scratch / "model"
    config.save_pretrained(folder)
    shape = ModelShape.from_config(AutoConfig.from_pretrained(folder), model_id="one-layer")
    HeadsFile(
        model=shape,
        gates=[[1 - head / kv_heads for head in range(kv_heads)]],
        training_window=PAPER_TRAIN_WINDOW,
        serving_window=PAPER_SERVE_WINDOW,
        recommended_sparsity=0.5,
        provenance=Provenance(recipe={"name": "made up"}, data="none", steps=None, seed=0, packages={}),
    ).write(folder / "heads.json")
    return folder


def plugin_folder(scratch: Path) -> Path:
    """A package on ``PYTHONPATH`` whose entry point SGLang loads in every process."""
    folder = scratch / "plugin"
    info = folder / "replay_nothing-0.dist-info"
    info.mkdir(parents=True)
    (folder / "replay_nothing.py").write_text(PLUGIN)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: replay-nothing\nVersion: 0\n")
    (info / "entry_points.txt").write_text("[sglang.srt.plugins]\nreplay_nothing = replay_nothing:load\n")
    return folder


def show(found: dict[str, Estimate]) -> None:
    """A table, with ratios to the stock server."""
    table = Table(box=None, pad_edge=False, header_style="dim")
    for name in (
        "cache", "tokens/s while requests wait", "x full", "tokens/s end to end", "x full", "seconds",
        "prefills", "retractions", "most running",
    ):  # fmt: skip
        table.add_column(name, justify="left" if name == "cache" else "right")
    stock = found[FULL]
    waiting, whole = stock.waiting_tokens / stock.waiting_s, stock.tokens / stock.seconds
    for arm, one in found.items():
        rates = one.waiting_tokens / one.waiting_s, one.tokens / one.seconds
        table.add_row(
            arm, f"{rates[0]:,.0f}", f"{rates[0] / waiting:.2f}", f"{rates[1]:,.0f}",
            f"{rates[1] / whole:.2f}", f"{one.seconds:.0f}", str(one.prefills), str(one.retractions),
            str(one.most_running),
        )  # fmt: skip
    Console(width=None if sys.stdout.isatty() else 140).print(table)


if __name__ == "__main__":
    main()
