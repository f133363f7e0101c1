#!/usr/bin/env python3
"""Measure a training step on long responses beside its forecast: peak memory and time, on one CUDA device."""

from __future__ import annotations

import argparse
import json
import statistics
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, PreTrainedModel, Qwen3Config

from rlkv.attention import attach_gates, clamp_after_each_step
from rlkv.train.forecast import (
    DecoderShape,
    Device,
    Pass,
    known_device,
    training_bytes,
    training_work,
    weight_bytes,
)
from rlkv.train.packed import token_logprobs
from rlkv.window import Window

QWEN3_4B = Qwen3Config(
    hidden_size=2560,
    intermediate_size=9728,
    num_hidden_layers=36,
    num_attention_heads=32,
    num_key_value_heads=8,
    head_dim=128,
    vocab_size=151936,
    max_position_embeddings=32768,
    tie_word_embeddings=True,
)
GIB = 2**30


def main() -> None:
    args = parse_args()
    if not torch.cuda.is_available():
        raise SystemExit("error: found no CUDA device, expected one")
    window, name = Window.parse(args.window), torch.cuda.get_device_name()
    shape = DecoderShape.of(QWEN3_4B)
    flops = measured_flops()
    device = known_device(name)
    if device is None:
        raise SystemExit(f"error: {name} has no row in rlkv/train/forecast.py, expected one")
    print(f"{name}: {flops / 1e12:.0f} TFLOP/s in a bf16 product; forecast with {device}")
    cases = [Pass(rows, args.tokens, 2, checkpointing=True) for rows in args.sequences]
    for work in cases:
        memory, seconds = forecast(shape, window, work, device)
        print(
            f"forecast, {work.sequences} x {work.tokens}: {memory / GIB:.2f} GiB, {seconds:.2f} s", flush=True
        )
    model = dummy_model()
    results = []
    for attention in ("mixed", "full"):
        prepare(model, attention, window)
        for work in cases:
            results.append({"attention": attention, **asdict(work), **measure(model, work, args.steps)})
            memory, seconds = forecast(shape, window, work, device)
            row = results[-1]
            print(
                f"{attention}, {work.sequences} x {work.tokens}: peak {row['peak_bytes'] / GIB:.2f} GiB "
                f"({row['peak_bytes'] / memory:.2f} of forecast), step {row['seconds']:.2f} s "
                f"({row['seconds'] / seconds:.2f} of forecast)",
                flush=True,
            )
    if args.out:
        head = {"device": name, "flops": flops, "window": str(window), "weights": weight_bytes(shape, 2)}
        args.out.write_text(json.dumps({**head, "torch": torch.__version__, "results": results}, indent=2))


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description="Qwen3-4B's shape with random weights: forward and backward through packed mixed "
        "attention, activation checkpoints and the frozen head, then a step of the gates. Beside it the same "
        "pass with full attention alone, which is the floor."
    )
    parser.add_argument("--tokens", type=int, default=8192, help="tokens of a response (default 8192)")
    parser.add_argument("--sequences", type=int, nargs="+", default=[1, 2], help="responses of a pass")
    parser.add_argument("--steps", type=int, default=4, help="steps timed, after one that is not")
    parser.add_argument("--window", default="128+256", metavar="S+W")
    parser.add_argument("--out", type=Path, metavar="FILE.json", help="write all results here")
    return parser.parse_args()


def forecast(shape: DecoderShape, window: Window, work: Pass, device: Device) -> tuple[int, float]:
    """Bytes and seconds of a step."""
    return training_bytes(shape, work), training_work(shape, window, work).seconds(device)


def measured_flops(size: int = 8192, repeats: int = 20) -> float:
    """What a large bf16 product reaches here."""
    a, b = (torch.randn(size, size, device="cuda", dtype=torch.bfloat16) for _ in range(2))
    for _ in range(3):
        a @ b
    torch.cuda.synchronize()
    begin = time.perf_counter()
    for _ in range(repeats):
        a @ b
    torch.cuda.synchronize()
    return 2 * size**3 * repeats / (time.perf_counter() - begin)


def dummy_model() -> PreTrainedModel:
    with torch.device("cuda"):
        model = AutoModelForCausalLM.from_config(QWEN3_4B, dtype=torch.bfloat16)
    model.gradient_checkpointing_enable({"use_reentrant": False})
    return model.train()


def prepare(model: PreTrainedModel, attention: str, window: Window) -> None:
    """Gates on the model; or, for full attention, a gradient that the embeddings ask for."""
    if attention == "mixed":
        attach_gates(model, window, init=0.7)
    else:
        model.set_attn_implementation("sdpa")
        model.enable_input_require_grads()


def measure(model: PreTrainedModel, work: Pass, steps: int) -> dict[str, Any]:
    """Median seconds of a step, and the most bytes that tensors took."""
    gates = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(gates, lr=0.01, weight_decay=0.0)
    clamp_after_each_step(optimizer)
    ids = torch.randint(QWEN3_4B.vocab_size, (work.sequences, work.tokens), device="cuda")
    mask = torch.ones_like(ids)
    seconds = []
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    for _ in range(steps + 1):
        torch.cuda.synchronize()
        begin = time.perf_counter()
        logprobs, _ = token_logprobs(model, ids, mask, work.tokens - 1)
        (-logprobs.mean()).backward()
        optimizer.step()
        optimizer.zero_grad()
        torch.cuda.synchronize()
        seconds.append(time.perf_counter() - begin)
    return {"peak_bytes": torch.cuda.max_memory_allocated(), "seconds": statistics.median(seconds[1:])}


if __name__ == "__main__":
    main()
