"""Many short requests on a server whose window pool was made for a few long ones: they wait their turn."""

from __future__ import annotations

import random
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


def test_requests_wait_for_room_for_their_windows(tmp_path: Path) -> None:
    heads = heads_file(tmp_path / "heads.json")
    flags = ["--rlkv-heads", str(heads), "--rlkv-sparsity", "0.5", "--max-total-tokens", "8000"]
    flags += ["--rlkv-request-tokens", "1900", "--chunked-prefill-size", "64"]
    server = Server(flags, tmp_path)
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
