#!/usr/bin/env python3
"""Time rollouts with mixed attention against stock SGLang on one GPU.

    scripts/bench_rollouts.py --model qwen3-4b --out results

Both engines are up at once, each with its own memory, and take turns on the card, so that they share its
temperature and clocks. Every point is a batch at one context length: its prompts are put into the prefix
cache first, then the same prompts are continued, so that what is timed is decoding. Weights are random: speed
does not depend on them, and a config.json is all that a model needs to have.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import random
import statistics
import time
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

SHAPES = {
    "qwen3-4b": {
        "architectures": ["Qwen3ForCausalLM"],
        "hidden_size": 2560,
        "intermediate_size": 9728,
        "num_hidden_layers": 36,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "head_dim": 128,
        "vocab_size": 151936,
        "max_position_embeddings": 40960,
        "tie_word_embeddings": True,
        "dtype": "bfloat16",
    },
}
"""Models by name, from their published config.json."""

POINTS = ["128x512", "64x3840", "32x7680"]
"""Beginning, middle and end of responses of 8,192 tokens."""

CONFIGURATIONS: dict[str, list[str]] = {"stock": [], "mixed": ["--rlkv-gates", "ones"]}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="qwen3-4b", help=f"{', '.join(SHAPES)}, or a folder")
    parser.add_argument("--out", type=Path, required=True, help="folder for logs and rollouts.json")
    parser.add_argument("--points", nargs="+", default=POINTS, metavar="BATCHxCONTEXT")
    parser.add_argument("--output-tokens", type=int, default=256)
    parser.add_argument("--rounds", type=int, default=3)
    options, flags = parser.parse_known_args()
    options.out.mkdir(parents=True, exist_ok=True)
    model = folder_of(options.model, options.out)
    points = [tuple(map(int, point.split("x"))) for point in options.points]
    engines = start(model, points, flags, options.out)
    try:
        results = [measure(engines, batch, context, options) for batch, context in points]
        info = engines["mixed"].recv_info
    finally:
        for engine in engines.values():
            engine.stop()
    (options.out / "rollouts.json").write_text(
        json.dumps({"points": results, "mixed": info}, indent=2) + "\n"
    )


def folder_of(model: str, out: Path) -> str:
    """A folder with a config.json."""
    if model not in SHAPES:
        return model
    from transformers import Qwen3Config

    folder = out / model
    Qwen3Config(**SHAPES[model]).save_pretrained(folder)
    return str(folder)


class Process:
    """An engine in a process of its own."""

    def __init__(self, name: str, model: str, flags: list[str], out: Path) -> None:
        self.pipe, child = multiprocessing.get_context("spawn").Pipe()
        self.process = multiprocessing.get_context("spawn").Process(
            target=serve, args=(child, model, flags, str(out / f"{name}.log"))
        )
        self.process.start()
        child.close()

    def wait_until_up(self) -> None:
        self.recv_info = self.pipe.recv()

    def generate(self, prompts: list[list[int]], new_tokens: int) -> float:
        """Seconds for a batch."""
        self.pipe.send((prompts, new_tokens))
        seconds: float = self.pipe.recv()
        return seconds

    def stop(self) -> None:
        self.pipe.close()
        self.process.join(20)
        self.process.kill()


def start(model: str, points: list[tuple[int, ...]], flags: list[str], out: Path) -> dict[str, Process]:
    most = max(batch for batch, _ in points)
    batches = [str(batch) for batch in sorted({batch for batch, _ in points})]
    common = ["--mem-fraction-static", "0.85", "--max-total-tokens", "280000"]
    common += ["--max-running-requests", str(most)]
    common += ["--cuda-graph-bs-decode", *batches, "--disable-prefill-cuda-graph", *flags]
    engines = {
        name: Process(name, model, [*own, *common, "--port", str(31000 + 1000 * place)], out)
        for place, (name, own) in enumerate(CONFIGURATIONS.items())
    }
    for engine in engines.values():
        engine.wait_until_up()
    return engines


def serve(pipe: Connection, model: str, flags: list[str], log: str) -> None:
    """Start an engine and generate whatever comes through the pipe, until it is closed."""
    with Path(log).open("w") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    import sglang
    from sglang.srt.plugins import load_plugins
    from sglang.srt.server_args import prepare_server_args

    load_plugins()
    given = ["--model-path", model, "--load-format", "dummy", "--skip-tokenizer-init"]
    given += ["--grammar-backend", "none", "--attention-backend", "flashinfer"]
    engine = sglang.Engine(server_args=prepare_server_args([*given, *flags]))
    try:
        pipe.send(engine.get_server_info()["internal_states"][0].get("rlkv"))
        while True:
            prompts, new_tokens = pipe.recv()
            sampling = {"temperature": 0, "max_new_tokens": new_tokens, "ignore_eos": True}
            began = time.perf_counter()
            engine.generate(input_ids=prompts, sampling_params=sampling)
            pipe.send(time.perf_counter() - began)
    except EOFError:
        engine.shutdown()


def measure(
    engines: dict[str, Process], batch: int, context: int, options: argparse.Namespace
) -> dict[str, Any]:
    """Tokens a second of both engines in turn; the median of the rounds."""
    rng = random.Random(batch * context)
    prompts = [[rng.randrange(1000, 100_000) for _ in range(context)] for _ in range(batch)]
    prefill = {name: engine.generate(prompts, 1) for name, engine in engines.items()}
    seconds: dict[str, list[float]] = {name: [] for name in engines}
    for _ in range(options.rounds):
        for name, engine in engines.items():
            cached = engine.generate(prompts, 1)
            seconds[name].append(engine.generate(prompts, options.output_tokens) - cached)
    steps = options.output_tokens - 1
    result: dict[str, Any] = {"batch": batch, "context": [context, context + options.output_tokens]}
    for name in engines:
        median = statistics.median(seconds[name])
        result[name] = {
            "step_ms": round(1e3 * median / steps, 3),
            "tokens_per_second": round(batch * steps / median),
            "prefill_tokens_per_second": round(batch * context / prefill[name]),
            "rounds_ms": [round(1e3 * s / steps, 3) for s in seconds[name]],
        }
    result["mixed_to_stock"] = round(result["stock"]["step_ms"] / result["mixed"]["step_ms"], 3)
    print(json.dumps(result), flush=True)
    return result


if __name__ == "__main__":
    main()
