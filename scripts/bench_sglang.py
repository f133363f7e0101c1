#!/usr/bin/env python3
"""Time stock SGLang against the hybrid cache on one GPU, in process, one engine after the other.

    scripts/bench_sglang.py decode --model MODEL --heads heads.json --sparsities stock,0,0.5 --out results

Every configuration gets a process of its own, so that memory and CUDA graphs are its own too. Step times are
read from the scheduler's log, as a server's operator would; attention time from a profile of the same run.
Weights are random: speed does not depend on them, and a config.json is all that a model needs to have.
"""

from __future__ import annotations

import argparse
import asyncio
import gzip
import json
import random
import re
import statistics
import subprocess
import sys
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

DECODE_LINE = re.compile(
    r"Decode batch.*#running-req: (\d+),.*gen throughput \(token/s\): ([\d.]+), #queue-req: (\d+)"
)
TOKENS = re.compile(r"#(?:full )?token: (\d+)")
PROFILED_STEPS = 8


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("workload", choices=sorted(WORKLOADS))
    parser.add_argument("--model", required=True, help="folder with a config.json")
    parser.add_argument("--heads", required=True, help="heads file")
    parser.add_argument(
        "--sparsities", default="stock,0.5", help="comma separated; 'stock' is no --rlkv-heads"
    )
    parser.add_argument("--out", type=Path, required=True, help="folder for logs and results.json")
    parser.add_argument("--requests", type=int, default=256)
    parser.add_argument("--prompt-tokens", type=int, default=2048)
    parser.add_argument("--output-tokens", type=int, default=512)
    parser.add_argument("--profile", action="store_true", help="profile some steps of decoding")
    parser.add_argument("--timeout", type=float, default=280, help="seconds for each configuration")
    parser.add_argument("--only", help=argparse.SUPPRESS)  # the configuration of a process of its own
    options, flags = parser.parse_known_args()
    options.out.mkdir(parents=True, exist_ok=True)
    if options.only is not None:
        run_one(options, flags)
        return
    results = []
    for sparsity in options.sparsities.split(","):
        log = options.out / f"{options.workload}-{sparsity}.log"
        began = time.monotonic()
        with log.open("w") as out:
            command = [sys.executable, __file__, *sys.argv[1:], "--only", sparsity]
            try:
                done = subprocess.run(command, stdout=out, stderr=out, timeout=options.timeout, check=False)
                status: object = done.returncode
            except subprocess.TimeoutExpired:
                status = "timeout"
        found = options.out / f"{options.workload}-{sparsity}.json"
        result = json.loads(found.read_text()) if found.is_file() else {}
        result |= {"sparsity": sparsity, "status": status, "seconds": round(time.monotonic() - began, 1)}
        if options.workload == "decode":
            result |= steps_of(log.read_text(errors="replace"), options.requests)
        results.append(result)
        print(json.dumps(result), flush=True)
    (options.out / f"{options.workload}.json").write_text(json.dumps(results, indent=2))


def run_one(options: argparse.Namespace, flags: list[str]) -> None:
    """Start an engine in this process, run the workload, write what it measured."""
    import sglang
    from sglang.srt.plugins import load_plugins
    from sglang.srt.server_args import prepare_server_args

    load_plugins()
    given = ["--model-path", options.model, "--load-format", "dummy", "--skip-tokenizer-init"]
    given += ["--grammar-backend", "none", "--attention-backend", "flashinfer", "--decode-log-interval", "16"]
    if options.only != "stock":
        given += ["--rlkv-heads", options.heads, "--rlkv-sparsity", options.only]
    began = time.monotonic()
    engine = sglang.Engine(server_args=prepare_server_args([*given, *flags]))
    result = {"launch_seconds": round(time.monotonic() - began, 1)}
    info = engine.get_server_info()["internal_states"][0]
    result["cache"] = info.get("rlkv")
    try:
        result |= WORKLOADS[options.workload](engine, options)
    finally:
        (options.out / f"{options.workload}-{options.only}.json").write_text(json.dumps(result))
        engine.shutdown()


def prompts_of(count: int, tokens: int, seed: int) -> list[list[int]]:
    rng = random.Random(seed)
    return [[rng.randrange(1000, 100_000) for _ in range(tokens)] for _ in range(count)]


def greedy(new_tokens: int) -> dict[str, Any]:
    return {"temperature": 0, "max_new_tokens": new_tokens, "ignore_eos": True}


def decode(engine: Any, options: argparse.Namespace) -> dict[str, Any]:
    """All requests decode together; step times are in the log."""
    engine.generate(input_ids=prompts_of(1, 32, 1), sampling_params=greedy(8))
    traces = options.out / f"trace-{options.only}"
    if options.profile:
        # After the prefill, whose number of steps is not known exactly, and in the middle of decoding.
        prefills = options.requests * options.prompt_tokens // 8192 + 1
        start = prefills + 10 + options.output_tokens // 2
        engine.start_profile(
            output_dir=str(traces), start_step=start, num_steps=PROFILED_STEPS, activities=["GPU"]
        )
    began = time.monotonic()
    prompts = prompts_of(options.requests, options.prompt_tokens, 2)
    engine.generate(input_ids=prompts, sampling_params=greedy(options.output_tokens))
    result: dict[str, Any] = {"total_seconds": round(time.monotonic() - began, 2)}
    if options.profile:
        time.sleep(5)
        result["kernel_ms"] = kernels_of(traces)
    return result


def prefill(engine: Any, options: argparse.Namespace) -> dict[str, Any]:
    """One long prompt at a time, none cached."""
    seconds = []
    for prompt in prompts_of(8, 8192, 3):
        began = time.perf_counter()
        engine.generate(input_ids=prompt, sampling_params=greedy(1))
        seconds.append(time.perf_counter() - began)
    return {"prefill_ms": 1e3 * statistics.median(seconds[2:]), "all_ms": [1e3 * s for s in seconds]}


def prefix(engine: Any, options: argparse.Namespace) -> dict[str, Any]:
    """64 requests that share a prefix of 8,192 tokens: time to their first tokens."""
    rounds = []
    for seed in (4, 5, 6):
        shared, *tails = prompts_of(1, 8192, seed) + prompts_of(64, 64, seed + 10)
        for warm in (False, True):
            # Cold: nobody has seen the prefix. Warm: it is cached, and the tails are new.
            tails = tails if not warm else prompts_of(64, 64, seed + 20)
            rounds.append({"warm": warm, **first_tokens(engine, [shared + tail for tail in tails])})
    result: dict[str, Any] = {"rounds": rounds}
    for warm in (False, True):
        part = [r for r in rounds if r["warm"] == warm]
        name = "warm" if warm else "cold"
        for key in ("mean_ms", "last_ms"):
            result[f"{name}_{key}"] = statistics.median(r[key] for r in part)
        result[f"{name}_cached_tokens"] = statistics.median(r["cached_tokens"] for r in part)
    return result


def first_tokens(engine: Any, prompts: list[list[int]]) -> dict[str, float]:
    """Milliseconds until requests that are sent together have their first token."""

    async def one(prompt: list[int]) -> tuple[float, int]:
        reply = await engine.async_generate(input_ids=prompt, sampling_params=greedy(1))
        return time.perf_counter() - began, reply["meta_info"]["cached_tokens"]

    async def together() -> list[tuple[float, int]]:
        return list(await asyncio.gather(*map(one, prompts)))

    began = time.perf_counter()
    replies = engine.loop.run_until_complete(together())
    seconds = [s for s, _ in replies]
    return {
        "mean_ms": 1e3 * statistics.mean(seconds),
        "last_ms": 1e3 * max(seconds),
        "cached_tokens": statistics.mean(c for _, c in replies),
    }


def steps_of(log: str, requests: int) -> dict[str, Any]:
    """Milliseconds of the decode steps of a full batch, from the scheduler's log."""
    steps = []
    for line in log.splitlines():
        match = DECODE_LINE.search(line)
        if match and int(match[1]) == requests and float(match[2]) > 0:
            tokens = TOKENS.search(line)
            steps.append((1e3 * requests / float(match[2]), int(tokens[1]) // requests if tokens else None))
    # The first line spans the prefill as well.
    steps = steps[1:]
    if not steps:
        return {}
    return {
        "step_ms": round(statistics.median(ms for ms, _ in steps), 3),
        "context": [steps[0][1], steps[-1][1]],
        "steps_ms": [round(ms, 2) for ms, _ in steps],
    }


def kernels_of(folder: Path) -> dict[str, float]:
    """Milliseconds of GPU time a step by kernel, from the profiler's trace; the largest ones."""
    found: dict[str, float] = defaultdict(float)
    for path in folder.rglob("*.json.gz"):
        events = json.loads(gzip.decompress(path.read_bytes()))["traceEvents"]
        for event in events:
            if event.get("cat") in ("kernel", "gpu_memcpy", "gpu_memset"):
                found[event["name"][:120]] += event["dur"] / 1e3 / PROFILED_STEPS
    return dict(sorted(((k, round(v, 4)) for k, v in found.items()), key=lambda item: -item[1])[:24])


WORKLOADS = {"decode": decode, "prefill": prefill, "prefix": prefix}

if __name__ == "__main__":
    main()
