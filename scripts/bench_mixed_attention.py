#!/usr/bin/env python3
"""Time mixed attention against full causal attention, and check it, on one CUDA device.

Floor at T=8192, B=1, Hq=32, Hkv=8, D=128, bfloat16, window 128+256, on an H200 (790 TFLOP/s, 4.3 TB/s):

    full causal attention      0.55 TFLOP forward, 1.37 backward: 2.4 ms at the ceiling, 3.4 to 3.9 expected
    streaming, visible pairs   0.05 TFLOP forward, 0.13 backward
    streaming, as computed     0.07 forward (blocks of 128 x 64 hold 512 keys a query, 384 seen);
                               0.10 for dq and 0.14 for dk, dv (scores are computed in both): 0.31 TFLOP
    bytes of streaming, mix    0.34 GB forward, 0.9 GB backward: 0.29 ms if nothing overlapped

At the 350 to 400 TFLOP/s that Triton reaches on such blocks the streaming branch costs 0.8 to 0.9 ms, bytes
hidden behind arithmetic: a ratio of 1.2 to 1.27 with full attention.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from rlkv.attention.layout import SequenceLayout
from rlkv.attention.mixed import mixed_attention_reference
from rlkv.window import Window

SDPA = {
    "cudnn": SDPBackend.CUDNN_ATTENTION,
    "flash": SDPBackend.FLASH_ATTENTION,
    "efficient": SDPBackend.EFFICIENT_ATTENTION,
}
NAMES = ("out", "dq", "dk", "dv", "dgates")


class Shape(NamedTuple):
    """Sizes of one problem."""

    batch: int
    heads: int
    kv_heads: int
    tokens: int
    head_dim: int


def main() -> None:
    args = parse_args()
    report: dict[str, Any] = {"device": torch.cuda.get_device_name(), "torch": torch.__version__}
    if args.sweep:
        report["sweep"] = sweep(args)
    if not args.skip_checks:
        report["checks"] = check_all()
    report["timings"] = [row for tokens in args.tokens for row in time_size(args, tokens)]
    if args.out:
        args.out.parent.mkdir(parents=True, exist_ok=True)
        args.out.write_text(json.dumps(report, indent=1))
    print_table(report["timings"])


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description="Check mixed attention against a float64 reference and time it against full causal "
        "attention through every kernel torch has. Prints milliseconds (medians) and the ratio to the "
        "fastest full attention; 1.35 is the target for forward + backward at 8192 tokens.",
        epilog="example: PYTHONPATH=. python3 scripts/bench_mixed_attention.py --tokens 8192 --sweep",
    )
    parser.add_argument("--tokens", type=int, nargs="+", default=[2048, 4096, 8192, 16384], metavar="T")
    parser.add_argument(
        "--window",
        nargs="+",
        default=["128+256", "16+64"],
        metavar="S+W",
        help="sink+recent sizes, in tokens",
    )
    parser.add_argument("--heads", type=int, default=32, help="query heads (default 32)")
    parser.add_argument("--kv-heads", type=int, default=8, help="KV heads (default 8)")
    parser.add_argument("--head-dim", type=int, default=128, choices=(64, 128))
    parser.add_argument(
        "--rep", type=int, default=150, metavar="MS", help="milliseconds spent on each timing"
    )
    parser.add_argument(
        "--sweep", action="store_true", help="first try many tile sizes, at the largest T <= 8192"
    )
    parser.add_argument("--skip-checks", action="store_true", help="time only")
    parser.add_argument("--out", type=Path, metavar="FILE.json", help="write all results here")
    return parser.parse_args()


def parse_window(text: str) -> Window:
    sink_size, recent_size = text.split("+")
    return Window(int(sink_size), int(recent_size))


def make_inputs(shape: Shape, dtype: torch.dtype, seed: int = 0) -> tuple[list[Tensor], Tensor]:
    """Query, key, value and gates that require grad, and a gradient of the output; in B, T, H, D order."""
    generator = torch.Generator("cuda").manual_seed(seed)

    def draw(heads: int) -> Tensor:
        size = (shape.batch, shape.tokens, heads, shape.head_dim)
        return torch.randn(size, device="cuda", dtype=dtype, generator=generator).transpose(1, 2)

    query, key, value = draw(shape.heads), draw(shape.kv_heads), draw(shape.kv_heads)
    gates = torch.rand(shape.kv_heads, device="cuda", generator=generator)
    return [x.requires_grad_() for x in (query, key, value, gates)], draw(shape.heads)


# --- correctness


def check_cases() -> list[tuple]:
    """(title, shape, dtype, window, starts as nested lists or None)."""
    bf16, half, single = torch.bfloat16, torch.float16, torch.float32
    padded = [[-1] * 300 + [300] * 724, [0] * 1024]
    packed = [[0] * 7 + [7] * 600 + [607] * 417, [-1] * 130 + [130] * 500 + [630] * 394]
    odd = [[-1] * 64 + [64] * 700 + [764] * 237]
    return [
        ("plain", Shape(1, 8, 2, 1024, 128), bf16, Window(128, 256), None),
        ("plain, small window", Shape(2, 8, 2, 1024, 128), bf16, Window(16, 64), None),
        ("plain, D=64", Shape(1, 8, 2, 1024, 64), bf16, Window(128, 256), None),
        ("plain, 2001 tokens", Shape(1, 8, 2, 2001, 128), half, Window(5, 33), None),
        ("left padded", Shape(2, 8, 2, 1024, 128), bf16, Window(16, 64), padded),
        ("packed", Shape(2, 8, 2, 1024, 128), bf16, Window(16, 64), packed),
        ("packed, 1001 tokens, D=64", Shape(1, 8, 2, 1001, 64), bf16, Window(16, 64), odd),
        ("one token", Shape(2, 8, 2, 1, 128), bf16, Window(16, 64), None),
        ("17 tokens", Shape(2, 8, 2, 17, 128), bf16, Window(1, 1), None),
        ("float32", Shape(1, 4, 2, 1000, 64), single, Window(16, 64), None),
        ("float32, packed", Shape(2, 4, 2, 1024, 128), single, Window(16, 64), packed),
        ("D=256", Shape(1, 4, 2, 600, 256), bf16, Window(16, 64), None),
    ]


def check_all() -> list[dict]:
    """Errors of every case; one process each, because most of the time is Triton's compiler."""
    cases = check_cases()
    with multiprocessing.get_context("spawn").Pool(min(len(cases), 12)) as pool:
        results = pool.starmap(check_safely, cases, chunksize=1)
    print("\nrelative error against float64 (bfloat16 rounds at 4e-3, float32 must stay under 1e-3)")
    for result in results:
        print(
            f"  {result['title']:28s}", result.get("failure") or format_errors(result["errors"]), flush=True
        )
    return results


def format_errors(errors: dict[str, float]) -> str:
    return "  ".join(f"{name} {error:.1e}" for name, error in errors.items())


def check_safely(title: str, *case: Any) -> dict:
    try:
        return {"title": title, "errors": check(*case)}
    except Exception as error:  # one bad case must not hide the others
        return {"title": title, "failure": f"{type(error).__name__}: {error}"[:2000]}


def check(shape: Shape, dtype: torch.dtype, window: Window, rows: list | None) -> dict[str, float]:
    from rlkv.attention.fast import mixed_attention_fast

    starts = None if rows is None else torch.tensor(rows, dtype=torch.int32, device="cuda")
    inputs, grad_out = make_inputs(shape, dtype)
    scaling = shape.head_dim**-0.5
    exact = [x.detach().double().requires_grad_() for x in inputs]
    layout = SequenceLayout(shape.tokens, shape.tokens, starts, grad_out.device)
    expected = mixed_attention_reference(*exact, window, scaling, layout)
    # The gradient on padding is drawn too, and must make no difference.
    weight = grad_out.double()
    if starts is not None:
        real = (starts >= 0)[:, None, :, None]
        weight, expected = weight * real, expected * real
    wanted = (expected, *torch.autograd.grad(expected, exact, weight))
    out = mixed_attention_fast(*inputs, window, scaling, starts)
    found = (out, *torch.autograd.grad(out, inputs, grad_out))
    return {name: relative_error(f, w) for name, f, w in zip(NAMES, found, wanted, strict=True)}


def relative_error(found: Tensor, wanted: Tensor) -> float:
    difference = (found.double() - wanted).norm()
    # Where the two branches coincide the gate's gradient is exactly 0, and only the difference says anything.
    return (difference / wanted.norm().clamp_min(1e-2)).item()


# --- timings


def bench(call: Callable[[], Any], rep: int) -> float:
    """Median milliseconds."""
    import triton

    return triton.testing.do_bench(call, warmup=rep // 3, rep=rep, return_mode="median")


def time_pair(forward: Callable[[], Tensor], inputs: list[Tensor], grad_out: Tensor, rep: int) -> dict:
    """Forward alone under no_grad, forward + backward, and the peak memory of the latter in MiB."""

    def no_grad() -> None:
        with torch.no_grad():
            forward()

    def both() -> None:
        torch.autograd.grad(forward(), inputs, grad_out)

    both()
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    both()
    torch.cuda.synchronize()
    peak = (torch.cuda.max_memory_allocated() - before) / 2**20
    return {"forward_ms": bench(no_grad, rep), "both_ms": bench(both, rep), "peak_mib": peak}


def time_pass(call: Callable[[], Any], rep: int) -> dict:
    return {"pass_ms": bench(call, rep)}


def time_size(args: argparse.Namespace, tokens: int) -> Iterator[dict]:
    """Every full attention, then ours, at one number of tokens."""
    shape = Shape(1, args.heads, args.kv_heads, tokens, args.head_dim)
    inputs, grad_out = make_inputs(shape, torch.bfloat16)
    rows = list(time_full(inputs, grad_out, args.rep))
    best = min((row["both_ms"] for row in rows if "both_ms" in row), default=float("nan"))
    yield from ({"tokens": tokens, **row} for row in rows)
    for text in args.window:
        for row in time_ours(inputs, grad_out, parse_window(text), args.rep):
            ratio = {"ratio": row["both_ms"] / best} if "both_ms" in row else {}
            yield {"tokens": tokens, **row, **ratio}


def time_full(inputs: list[Tensor], grad_out: Tensor, rep: int) -> Iterator[dict]:
    query, key, value, _ = inputs
    group = query.shape[1] // key.shape[1]
    expanded = [x.detach().repeat_interleave(group, dim=1).requires_grad_() for x in (key, value)]
    for name, backend in SDPA.items():
        for label, keys in (("grouped", [key, value]), ("expanded", expanded)):
            tensors = [query, *keys]
            grouped = label == "grouped"

            def forward(tensors: list[Tensor] = tensors, grouped: bool = grouped) -> Tensor:
                return F.scaled_dot_product_attention(*tensors, is_causal=True, enable_gqa=grouped)

            with sdpa_kernel(backend):
                measure = partial(time_pair, forward, tensors, grad_out, rep)
                yield attempt(f"full, {name}, {label}", measure)


def time_ours(inputs: list[Tensor], grad_out: Tensor, window: Window, rep: int) -> Iterator[dict]:
    from rlkv.attention import full_branch
    from rlkv.attention.fast import run

    scaling = inputs[0].shape[-1] ** -0.5
    batch, _, tokens, _ = inputs[0].shape
    one_sequence = torch.zeros(batch, tokens, dtype=torch.int32, device="cuda")
    kernels = (
        ("cudnn", full_branch.CUDNN, None),
        ("flash", full_branch.FLASH, None),
        ("flash-packed", full_branch.FLASH_PACKED, one_sequence),
    )
    for name, kernel, starts in kernels:

        def forward(starts: Tensor | None = starts, kernel: Any = kernel) -> Tensor:
            return run(*inputs, window, scaling, starts, full_kernel=kernel)

        yield attempt(f"mixed {window}, {name}", partial(time_pair, forward, inputs, grad_out, rep))
    for name, call in streaming_passes(inputs, grad_out, window).items():
        yield attempt(f"  {window} {name}", partial(time_pass, call, rep))


def attempt(label: str, measure: Callable[[], dict]) -> dict:
    """A row of the report; a kernel that refuses the problem says why in place of a time."""
    try:
        return {"label": label, **measure()}
    except Exception as error:  # recorded, and shown in the table
        torch.cuda.synchronize()
        return {"label": label, "failure": f"{type(error).__name__}: {error}"[:500]}


def streaming_passes(
    inputs: list[Tensor], grad_out: Tensor, window: Window, plan: Any = None
) -> dict[str, Callable[[], Any]]:
    """Each launch of the streaming branch by itself."""
    from rlkv.attention import streaming

    query, key, value, gates = (x.detach() for x in inputs)
    plan = plan or streaming.default_plan(query.dtype, query.shape[-1])
    problem = streaming.Inputs(query, key, value, gates, None, window, query.shape[-1] ** -0.5)
    full, full_grads = torch.randn_like(query), [torch.randn_like(x) for x in (query, key, value)]
    saved = streaming.Saved(torch.randn_like(query), torch.full(query.shape[:3], 12.0, device="cuda"))
    delta = torch.randn(query.shape[:3], device="cuda")
    chunks = -(-query.shape[2] // plan.chunk)
    rows = key.shape[0] * key.shape[1]
    partial_sums = torch.randn((2, rows, chunks, problem.sizes[0], key.shape[3]), device="cuda").unbind()
    return {
        "forward": lambda: streaming.stream_and_mix(problem, full, plan, save=True),
        "query_grad": lambda: streaming.launch_query_grad(
            grad_out, problem, full, saved, full_grads[0], plan.query_grad
        ),
        "sink_grad": lambda: streaming.launch_sink_grad(grad_out, problem, saved, delta, plan),
        "key_grad": lambda: streaming.launch_key_grad(
            grad_out, problem, saved, delta, partial_sums, full_grads, plan
        ),
    }


# --- sweep over tiles


def sweep_candidates() -> list[tuple[str, tuple[int, int, int, int], int]]:
    """(pass, (block_queries, block_keys, num_warps, num_stages), chunk)."""
    query_tiles = [
        (128, 128, 8, 2), (128, 64, 8, 2), (128, 64, 8, 3), (128, 64, 4, 2), (128, 32, 8, 3), (128, 32, 4, 3),
        (64, 128, 4, 2), (64, 64, 4, 2), (64, 64, 4, 3), (64, 32, 4, 3),
    ]  # fmt: skip
    key_tiles = [
        (64, 128, 8, 2), (64, 128, 8, 3), (32, 128, 8, 2), (32, 128, 8, 3), (32, 128, 4, 2), (128, 128, 8, 1),
        (64, 64, 4, 1), (64, 64, 4, 2), (64, 64, 4, 3), (32, 64, 4, 2), (32, 64, 4, 3), (128, 64, 4, 1),
        (128, 64, 8, 2),
    ]  # fmt: skip
    candidates = [(name, tile, 512) for name in ("forward", "query_grad") for tile in query_tiles]
    candidates += [("key_grad", tile, 512) for tile in key_tiles]
    candidates += [("sink_grad", tile, chunk) for tile in key_tiles for chunk in (256, 512, 1024)]
    return candidates


def candidate_call(args: argparse.Namespace, name: str, tile: tuple, chunk: int) -> Callable[[], Any]:
    from rlkv.attention import streaming

    tokens = max((t for t in args.tokens if t <= 8192), default=min(args.tokens))
    inputs, grad_out = make_inputs(Shape(1, args.heads, args.kv_heads, tokens, args.head_dim), torch.bfloat16)
    plan = streaming.TilePlan(*[streaming.Tile(*tile)] * 2, streaming.Tile(*tile), chunk)
    return streaming_passes(inputs, grad_out, parse_window(args.window[0]), plan)[name]


def compile_candidate(job: tuple) -> str | None:
    """Run once, which leaves the compiled kernel in Triton's cache on disk; the failure, if any."""
    try:
        candidate_call(*job)()
        torch.cuda.synchronize()
    except Exception as error:  # a tile that does not fit is an answer
        return f"{type(error).__name__}: {error}"[:200]
    return None


def sweep(args: argparse.Namespace) -> list[dict]:
    """Time every candidate tile of every pass; the best come last."""
    jobs = [(args, *candidate) for candidate in sweep_candidates()]
    with multiprocessing.get_context("spawn").Pool(12) as pool:
        failures = pool.map(compile_candidate, jobs, chunksize=1)
    results = []
    for (_, name, tile, chunk), failure in zip(jobs, failures, strict=True):
        row = {"pass": name, "tile": tile, "chunk": chunk}
        results.append(row | ({"failure": failure} if failure else time_candidate(args, name, tile, chunk)))
    results.sort(key=lambda row: (row["pass"], -row.get("ms", 1e9)))
    print("\nsweep: tile is (block_queries, block_keys, num_warps, num_stages)")
    for row in results:
        outcome = f"{row['ms']:.4f} ms" if "ms" in row else row["failure"][:90]
        print(f"  {row['pass']:10s} {row['tile']!s:20s} chunk {row['chunk']:5d}  {outcome}", flush=True)
    return results


def time_candidate(args: argparse.Namespace, name: str, tile: tuple, chunk: int) -> dict:
    return {"ms": bench(candidate_call(args, name, tile, chunk), 40)}


def print_table(rows: list[dict]) -> None:
    print(f"\n{'tokens':>6s}  {'':28s} {'forward':>9s} {'fwd+bwd':>9s} {'ratio':>6s} {'peak MiB':>9s}")
    for row in rows:
        head = f"{row['tokens']:6d}  {row['label']:28s}"
        if "failure" in row:
            print(head, "failed:", row["failure"].replace("\n", " ")[:80])
        elif "pass_ms" in row:
            print(head, f"{row['pass_ms']:9.3f}")
        else:
            ratio = f"{row['ratio']:6.3f}" if "ratio" in row else " " * 6
            print(head, f"{row['forward_ms']:9.3f} {row['both_ms']:9.3f} {ratio} {row['peak_mib']:9.0f}")


if __name__ == "__main__":
    main()
