"""Measures every arm of every case, one server at a time, and keeps each measurement in a file of its own.

::

    arms/CASE-ARM.json    cache in use and timelines of one server
    arms/CASE-ARM.log     output of a server that was started
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rlkv.errors import DataError
from rlkv.heads import HeadsFile, resolve, streaming_mask
from rlkv.model_size import model_config
from rlkv.planner import EVICTION_INTERVAL, CacheShape, Demand, prefill_in_flight, split_memory

from ..folder import create, write_text
from .client import drive, random_prompts, server_info
from .config import FULL, MEMORY, ThroughputConfig, Workload
from .launch import Server
from .progress import Progress
from .timeline import Timeline, first_token

PAGE_SIZE = 1
ANY_ELEMENT_BYTES = 2
"""How equal memory is split does not depend on the bytes of a number: all terms are multiples of it."""


def measure(config: ThroughputConfig, progress: Progress) -> None:
    """Measure what the run folder lacks.

    Raises:
        DataError: the folder cannot be made or holds measurements of other settings, or a server failed.
    """
    heads = HeadsFile.read(resolve(config.heads))
    model = model_config(config.model)
    heads.check_model(model, config.heads)
    create(config.out, ["arms"])
    for case in config.cases:
        load = config.workload(case)
        for arm in config.arms:
            path = arm_file(config.out, case, arm)
            identity = _identity(config, heads, case, arm)
            if path.exists():
                _check_same(path, identity)
                continue
            flags = server_flags(config, heads, case, arm, load, model.max_position_embeddings)
            with (
                _server(config, case, arm, flags) as url,
                progress.of(f"{case} {arm}", load.bursts * sum(load.lengths)) as add,
            ):
                cache = cache_in_use(server_info(url), arm, url)
                bursts = [
                    _burst(url, load, model.vocab_size, config.seed + burst, add)
                    for burst in range(load.bursts)
                ]
            record = {
                "identity": identity,
                "flags": flags,
                "cache": cache,
                "first_token_s": [first_token(timelines) for timelines in bursts],
                "timelines": [asdict(timeline) for timeline in median_burst(bursts)],
            }
            write_text(path, json.dumps(record) + "\n")


def _burst(
    url: str, load: Workload, vocabulary: int, seed: int, advanced: Callable[[int], None]
) -> list[Timeline]:
    """All requests at once, behind a prefix that the server was given before."""
    shared, prompts = random_prompts(load, vocabulary, seed)
    if shared:
        drive(url, [shared], [1])
    return drive(url, prompts, load.lengths, advanced)


def median_burst(bursts: Sequence[list[Timeline]]) -> list[Timeline]:
    """The burst in the middle by its mean time to the first token."""
    return sorted(bursts, key=first_token)[len(bursts) // 2]


def arm_file(folder: Path, case: str, arm: str) -> Path:
    """Where a measurement is kept."""
    return folder / "arms" / f"{case}-{arm}.json"


def cache_in_use(info: dict[str, Any], arm: str, url: str) -> dict[str, Any]:
    """What a server says of its KV cache.

    Raises:
        DataError: it is not the cache that this arm is to be measured with.
    """
    hybrid = info["internal_states"][0].get("rlkv")
    found = FULL if hybrid is None else f"{hybrid['sparsity']:g}"
    if found != arm:
        raise DataError(f"{url}: serves {found}, expected {arm} (full, or the sparsity of a hybrid cache)")
    return hybrid or {"full_tokens": info["max_total_num_tokens"]}


@contextmanager
def _server(config: ThroughputConfig, case: str, arm: str, flags: list[str]) -> Iterator[str]:
    """The address of the server of an arm, started for it unless one is running."""
    if config.running:
        yield config.running[arm].rstrip("/")
        return
    log = config.out / "arms" / f"{case}-{arm}.log"
    with Server(config.model, flags, log) as server:
        yield server.url


def server_flags(
    config: ThroughputConfig, heads: HeadsFile, case: str, arm: str, load: Workload, context: int
) -> list[str]:
    """Flags of a server that is started: the same for all arms but for the cache and its size."""
    flags = ["--skip-tokenizer-init", "--incremental-streaming-output"]
    flags += ["--page-size", str(PAGE_SIZE), "--chunked-prefill-size", str(config.chunked_prefill_size)]
    if config.dummy_weights:
        flags += ["--load-format", "dummy", "--grammar-backend", "none"]
    limited = case == MEMORY and config.kv_tokens
    tokens = config.kv_tokens
    if arm != FULL:
        flags += ["--rlkv-heads", config.heads, "--rlkv-sparsity", arm]
        flags += ["--rlkv-request-tokens", str(load.held_tokens)]
        tokens = _tokens_in_same_memory(config, heads, float(arm), load, context) if limited else 0
    if limited:
        flags += ["--max-total-tokens", str(tokens)]
    else:  # all run at once, also those beyond the batch up to which SGLang records CUDA graphs
        flags += ["--cuda-graph-max-bs-decode", str(len(load.lengths))]
    return [*flags, *config.server_flags]


def _tokens_in_same_memory(
    config: ThroughputConfig, heads: HeadsFile, sparsity: float, load: Workload, context: int
) -> int:
    """Tokens of the full pool if both pools together take the bytes of a stock one of ``kv_tokens``."""
    mask = streaming_mask(heads.gates, sparsity).tolist()
    shape = CacheShape.of(mask, heads.model.head_dim, ANY_ELEMENT_BYTES)
    demand = Demand(
        window=heads.serving_window,
        request_tokens=load.held_tokens,
        page_size=PAGE_SIZE,
        eviction_interval=EVICTION_INTERVAL,
        prefill_tokens=prefill_in_flight(config.chunked_prefill_size, context),
    )
    budget = (config.kv_tokens + PAGE_SIZE) * shape.dense_token_bytes
    return split_memory(budget, demand, shape).full_tokens


def _identity(config: ThroughputConfig, heads: HeadsFile, case: str, arm: str) -> dict[str, Any]:
    """What makes two measurements the same."""
    load = config.workload(case)
    identity = {
        "model": config.model,
        "dummy_weights": config.dummy_weights,
        "gates": heads.gates if arm != FULL else None,
        "window": str(heads.serving_window) if arm != FULL else None,
        "case": case,
        "arm": arm,
        "prompt_tokens": load.prompt_tokens,
        "lengths": load.lengths,
        "shared_tokens": load.shared_tokens,
        "bursts": load.bursts,
        "kv_tokens": config.kv_tokens if case == MEMORY else 0,
        "chunked_prefill_size": config.chunked_prefill_size,
        "seed": config.seed,
        "server_flags": list(config.server_flags),
        "running": config.running.get(arm),
    }
    return dict(json.loads(json.dumps(identity)))  # as it is read again: lists for tuples


def _check_same(path: Path, identity: dict[str, Any]) -> None:
    found = json.loads(path.read_text())["identity"]
    other = [name for name, value in identity.items() if found.get(name) != value]
    if other:
        raise DataError(f"{path}: was measured with another {other[0]}, expected the same; use another --out")
