"""Many requests on a server whose window pool was made for a few long ones: they wait their turn."""

from __future__ import annotations

import random
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from sglang_server import INSTALLED, Server, first_wrong, random_tokens
from tiny_heads import heads_file

from rlkv.window import Window

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not INSTALLED, reason="sglang is not installed, see third_party/README.md"),
]

WINDOW = Window(4, 28)


def start(heads: Path, chunk: int, folder: Path) -> Server:
    flags = ["--rlkv-heads", str(heads), "--rlkv-sparsity", "0.5", "--max-total-tokens", "8000"]
    return Server([*flags, "--rlkv-request-tokens", "1900", "--chunked-prefill-size", str(chunk)], folder)


def test_requests_wait_for_room_for_their_windows(tmp_path: Path) -> None:
    heads = heads_file(tmp_path / "heads.json")
    server = start(heads, 64, tmp_path)
    try:
        cache = server.cache()
        assert cache["window_tokens"] < cache["full_tokens"] // 10
        rng = random.Random(0)
        prompts = [random_tokens(rng, 30) for _ in range(24)]
        outputs = server.generate_together(prompts, 100)
        assert "Retract requests" not in server.log.read_text()
        for prompt, output in zip(prompts, outputs, strict=True):
            assert first_wrong(heads, 0.5, WINDOW, prompt, output) is None
        assert server.cache()["window_tokens_used"] <= cache["window_tokens"]
    finally:
        server.stop()


def test_a_prompt_nearly_as_long_as_the_pool_is_admitted(tmp_path: Path) -> None:
    heads = heads_file(tmp_path / "heads.json")
    flags = ["--rlkv-heads", str(heads), "--rlkv-sparsity", "0.5", "--max-total-tokens", "700"]
    server = Server([*flags, "--chunked-prefill-size", "-1"], tmp_path)
    try:
        prompt = random_tokens(random.Random(3), 680)
        output = server.generate(prompt, 15, timeout=120)["output_ids"]
        assert first_wrong(heads, 0.5, WINDOW, prompt, output) is None
    finally:
        server.stop()


def test_prompts_that_are_prefilled_in_pieces_are_all_prefilled_to_their_end(tmp_path: Path) -> None:
    """With room for less than a chunk, SGLang by itself cuts two prompts at once and forgets one of them.

    Of these requests it then gets one wrong in the second round, and ends in the third.
    """
    heads = heads_file(tmp_path / "heads.json")
    server = start(heads, 128, tmp_path)
    try:
        for seed in range(3):
            rng = random.Random(seed)
            jobs = [(random_tokens(rng, 30), 80) for _ in range(10)]
            for _ in range(12):
                jobs.append((random_tokens(rng, rng.choice([150, 250, 400])), rng.choice([2, 4, 60])))
            rng.shuffle(jobs)
            with ThreadPoolExecutor(len(jobs)) as pool:
                replies = list(pool.map(lambda job: server.generate(*job), jobs))
            for (prompt, _), reply in zip(jobs, replies, strict=True):
                assert first_wrong(heads, 0.5, WINDOW, prompt, reply["output_ids"]) is None
    finally:
        server.stop()
