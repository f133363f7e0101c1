"""Greedy float32 tokens of a real server equal the transformers reference, whatever it does meanwhile."""

from __future__ import annotations

import random
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path

import pytest
from sglang_server import INSTALLED, Server, first_wrong, random_tokens
from tiny_heads import heads_file

from rlkv.window import Window

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not INSTALLED, reason="sglang is not installed, see third_party/README.md"),
]

LENGTHS = (1, 2, 3, 4, 5, 16, 17, 27, 28, 29, 31, 32, 33, 36, 63, 64, 65, 81, 127, 128, 129, 300, 511, 700)


@dataclass(frozen=True)
class Case:
    """A configuration of a server."""

    sparsity: float
    window: Window
    flags: tuple[str, ...]
    pool_tokens: int = 8192
    request_tokens: int = 500
    prefix_cache: bool = True

    def __str__(self) -> str:
        return f"{self.sparsity:g} at {self.window} {' '.join(self.flags)}"


TIGHT = Case(0.5, Window(4, 28), ("--chunked-prefill-size", "64"), pool_tokens=1200, request_tokens=100)
"""So little memory that requests are retracted and the prefix cache evicts. They are announced shorter than
they are, which gives them more windows than the full pool has room for."""

PAGES = Case(0.8, Window(5, 20), ("--chunked-prefill-size", "32", "--page-size", "16"))

WINDOWS = {
    0.0: Window(4, 28),
    0.25: Window(16, 64),
    0.5: Window(4, 28),
    0.8: Window(5, 20),
    1.0: Window(0, 1),
}

MATRIX = [
    *(
        Case(sparsity, window, ("--chunked-prefill-size", chunk, "--page-size", page))
        for (sparsity, window), chunk, page in product(WINDOWS.items(), ("32", "64", "-1"), ("1", "16"))
    ),
    Case(0.8, Window(4, 28), ("--chunked-prefill-size", "32", "--disable-radix-cache"), prefix_cache=False),
    replace(TIGHT, sparsity=1.0, window=Window(0, 1)),
    replace(TIGHT, sparsity=0.25, flags=("--chunked-prefill-size", "-1")),
    replace(TIGHT, window=Window(5, 20), flags=PAGES.flags),
]

CASES = [TIGHT, PAGES, *(pytest.param(case, marks=pytest.mark.full_matrix) for case in MATRIX)]


@dataclass(frozen=True)
class Serving:
    """A running server of a case."""

    case: Case
    heads: Path
    server: Server

    def assert_exact(self, prompt: list[int], output: list[int]) -> None:
        wrong = first_wrong(self.heads, self.case.sparsity, self.case.window, prompt, output)
        assert wrong is None, f"token {wrong} after a prompt of {len(prompt)}"


@pytest.fixture(scope="module", params=CASES, ids=str)
def serving(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serving]:
    case: Case = request.param
    folder = tmp_path_factory.mktemp("sglang")
    heads = heads_file(folder / "heads.json")
    flags = ["--rlkv-heads", str(heads), "--rlkv-sparsity", str(case.sparsity)]
    flags += ["--rlkv-sink-size", str(case.window.sink_size)]
    flags += ["--rlkv-recent-size", str(case.window.recent_size)]
    flags += ["--rlkv-request-tokens", str(case.request_tokens), "--max-total-tokens", str(case.pool_tokens)]
    # Every step counts all slots of both pools, and ends the server when one is leaked or freed twice.
    strict = {"SGLANG_ENABLE_STRICT_MEM_CHECK_DURING_BUSY": "1", "SGLANG_CHECK_KV_PAGE_INVARIANTS": "1"}
    if case.pool_tokens < 2000:  # admitted by their prompts alone
        flags += ["--schedule-conservativeness", "0"]
    server = Server([*flags, *case.flags], folder, strict)
    try:
        yield Serving(case, heads, server)
    finally:
        server.stop()


def test_cold_prompts(serving: Serving) -> None:
    rng = random.Random(1)
    for length in LENGTHS:
        prompt = random_tokens(rng, length)
        serving.assert_exact(prompt, serving.server.generate(prompt, 40)["output_ids"])


def test_prefix_hits_at_the_end_and_in_the_middle(serving: Serving) -> None:
    rng = random.Random(2)
    shared = random_tokens(rng, 500)
    serving.server.generate(shared, 20)
    cached = []
    for cut in (500, 499, 300, 100, 64, 40, 33, 20, 5, 4, 3, 1):
        prompt = shared[:cut] + random_tokens(rng, rng.choice([1, 2, 17, 80]))
        for _ in range(2):
            reply = serving.server.generate(prompt, 24)
            cached.append(reply["meta_info"]["cached_tokens"])
            serving.assert_exact(prompt, reply["output_ids"])
    answer = serving.server.generate(shared, 60)["output_ids"]
    again = shared + answer + random_tokens(rng, 3)
    serving.assert_exact(again, serving.server.generate(again, 24)["output_ids"])
    assert any(cached) == serving.case.prefix_cache
    if serving.case.prefix_cache and serving.case.pool_tokens > 2000:
        assert max(cached) > 400


def test_sixteen_requests_at_once(serving: Serving) -> None:
    rng = random.Random(3)
    prompts = [random_tokens(rng, rng.choice(LENGTHS[:-2])) for _ in range(16)]
    for prompt, output in zip(prompts, serving.server.generate_together(prompts, 150), strict=True):
        serving.assert_exact(prompt, output)


def test_aborts_leave_no_trace(serving: Serving) -> None:
    rng = random.Random(4)
    shared = random_tokens(rng, 120)
    prompts = [shared + random_tokens(rng, rng.choice([1, 40, 300])) for _ in range(12)]

    def cut_short(prompt: list[int], seconds: float) -> None:
        with suppress(TimeoutError):
            serving.server.generate(prompt, 300, timeout=seconds)

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(cut_short, prompts, [0.05, 0.3, 1.0] * 4))
    for prompt in prompts[:4]:
        serving.assert_exact(prompt, serving.server.generate(prompt, 24)["output_ids"])


def test_every_slot_is_free_after_a_flush(serving: Serving) -> None:
    serving.server.flush()
    time.sleep(1)
    used = serving.server.cache()
    assert (used["full_tokens_used"], used["window_tokens_used"]) == (0, 0)


def test_little_memory_was_really_short(serving: Serving) -> None:
    if serving.case.pool_tokens > 2000:
        pytest.skip("this server has memory to spare")
    assert "Retract requests" in serving.server.log.read_text()
    assert serving.server.cache()["window_tokens_freed"] > 0
