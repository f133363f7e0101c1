"""Minutes of random requests, shared prefixes and aborts on a server whose memory is far too small.

``RLKV_SOAK_SECONDS`` says for how long, 600 by default, ``RLKV_SOAK_SEED`` which requests; figures go to
standard output (``pytest -s``).
"""

from __future__ import annotations

import json
import os
import random
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from threading import Lock

import pytest
from sglang_server import INSTALLED, Server, first_wrong, random_tokens
from tiny_heads import heads_file

from rlkv.window import Window

pytestmark = [
    pytest.mark.full_matrix,
    pytest.mark.skipif(not INSTALLED, reason="sglang is not installed, see third_party/README.md"),
]

SECONDS = float(os.environ.get("RLKV_SOAK_SECONDS", "600"))
ROUND_SECONDS = 60
CLIENTS = 8
SEED = int(os.environ.get("RLKV_SOAK_SEED", "0"))
SPARSITY = 0.5
POOL_TOKENS = 1200
CHECKED_SHARE = 0.2


@dataclass
class Count:
    """What the clients have seen so far."""

    finished: int = 0
    aborted: int = 0
    new_tokens: int = 0
    cached_tokens: int = 0
    rounds: int = 0
    checked: int = 0
    samples: list[tuple[list[int], list[int]]] = field(default_factory=list)
    lock: Lock = field(default_factory=Lock)

    def add(self, prompt: list[int], reply: dict, keep: bool) -> None:
        with self.lock:
            self.finished += 1
            self.new_tokens += len(reply["output_ids"])
            self.cached_tokens += reply["meta_info"]["cached_tokens"]
            if keep:
                self.samples.append((prompt, reply["output_ids"]))


def client(server: Server, shared: list[list[int]], seed: int, until: float, count: Count) -> None:
    """Send one request after the other; a quarter of them are given up early."""
    rng = random.Random(seed)
    while time.monotonic() < until:
        base = rng.choice(shared)
        prompt = base[: rng.randrange(len(base) + 1)] + random_tokens(rng, rng.choice([1, 3, 20, 90]))
        patience = rng.choice([0.05, 0.3, 1.0]) if rng.random() < 0.25 else 300.0
        try:
            reply = server.generate(prompt, rng.choice([1, 20, 80, 200]), timeout=patience)
        except TimeoutError:
            with count.lock:
                count.aborted += 1
        else:
            count.add(prompt, reply, keep=rng.random() < CHECKED_SHARE)


@pytest.mark.parametrize(("window", "page_size"), [(Window(4, 28), 1), (Window(5, 20), 16)], ids=str)
def test_nothing_is_leaked_and_no_token_is_wrong(tmp_path: Path, window: Window, page_size: int) -> None:
    heads = heads_file(tmp_path / "heads.json")
    flags = ["--rlkv-heads", str(heads), "--rlkv-sparsity", str(SPARSITY), "--chunked-prefill-size", "64"]
    flags += ["--rlkv-sink-size", str(window.sink_size), "--rlkv-recent-size", str(window.recent_size)]
    flags += ["--page-size", str(page_size)]
    flags += ["--max-total-tokens", str(POOL_TOKENS), "--rlkv-request-tokens", "100"]
    # Requests are admitted by their prompts alone, so that some have to be retracted.
    flags += ["--schedule-conservativeness", "0"]
    # Every step counts all slots of both pools, and ends the server when one is leaked or freed twice.
    strict = {"SGLANG_ENABLE_STRICT_MEM_CHECK_DURING_BUSY": "1", "SGLANG_CHECK_KV_PAGE_INVARIANTS": "1"}
    rng, count, end = random.Random(SEED), Count(), time.monotonic() + SECONDS
    with Server(flags, tmp_path, strict) as server:
        shared = [random_tokens(rng, 250) for _ in range(4)]
        while time.monotonic() < end:
            until = min(end, time.monotonic() + ROUND_SECONDS)
            with ThreadPoolExecutor(CLIENTS) as pool:
                futures = [
                    pool.submit(client, server, shared, rng.randrange(1 << 30), until, count)
                    for _ in range(CLIENTS)
                ]
            for future in futures:
                future.result()
            server.flush()
            time.sleep(1)
            used = server.cache()
            assert (used["full_tokens_used"], used["window_tokens_used"]) == (0, 0)
            count.rounds += 1
            for prompt, output in count.samples:
                assert first_wrong(heads, SPARSITY, window, prompt, output) is None
            count.checked += len(count.samples)
            count.samples.clear()
        log = server.log.read_text()
    count_of_retractions = log.count("Retract requests")
    figures = {name: value for name, value in vars(count).items() if isinstance(value, int)}
    about = {"page_size": page_size, "seed": SEED, "seconds": SECONDS, "retractions": count_of_retractions}
    print(json.dumps({**about, **figures}))
    assert count_of_retractions
    assert min(count.aborted, count.checked, count.cached_tokens) > 0
