"""Two tensor-parallel ranks on the CPU: the tokens of one rank, equal pools, equal numbers of full heads."""

from __future__ import annotations

import base64
import pickle
import random
import urllib.error
from collections.abc import Iterator
from pathlib import Path

import pytest
from sglang_server import INSTALLED, MODEL, Server, first_wrong, random_tokens
from tiny_heads import heads_file

from rlkv.window import Window

pytestmark = [
    pytest.mark.full_matrix,
    pytest.mark.skipif(not INSTALLED, reason="sglang is not installed, see third_party/README.md"),
]

SPARSITY, WINDOW = 0.4, Window(4, 28)
"""29 of 48 heads are full: an odd number, and layers differ."""


@pytest.fixture(scope="module")
def heads(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return heads_file(tmp_path_factory.mktemp("heads") / "heads.json")


@pytest.fixture(scope="module")
def server(heads: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    flags = ["--rlkv-heads", str(heads), "--rlkv-sparsity", str(SPARSITY), "--tp", "2"]
    flags += ["--chunked-prefill-size", "64", "--max-total-tokens", "1200", "--rlkv-request-tokens", "600"]
    strict = {"SGLANG_ENABLE_STRICT_MEM_CHECK_DURING_BUSY": "1", "SGLANG_CHECK_KV_PAGE_INVARIANTS": "1"}
    running = Server(flags, tmp_path_factory.mktemp("sglang"), strict)
    try:
        yield running
    finally:
        running.stop()


def test_tokens_are_those_of_the_reference(server: Server, heads: Path) -> None:
    rng = random.Random(0)
    shared = random_tokens(rng, 90)
    prompts = [shared[:cut] + random_tokens(rng, new) for cut, new in [(0, 1), (90, 3), (0, 33), (40, 200)]]
    for prompt, output in zip(prompts, server.generate_together(prompts, 60), strict=True):
        assert first_wrong(heads, SPARSITY, WINDOW, prompt, output) is None
    server.generate(prompts[3], 8)  # what ended last may have taken the window behind this prompt
    again = server.generate(prompts[3], 8)
    assert again["meta_info"]["cached_tokens"] > 200
    assert first_wrong(heads, SPARSITY, WINDOW, prompts[3], again["output_ids"]) is None


def test_ranks_share_the_full_heads_and_agree_on_pools(server: Server) -> None:
    info = server.cache()
    assert (info["tp_rank"], info["tp_size"]) == (0, 2)
    assert sum(info["full_heads_by_rank"]) == 29
    assert max(info["full_heads_by_rank"]) - min(info["full_heads_by_rank"]) == 1
    assert all(
        full + window == 3 for full, window in zip(info["full_heads"], info["streaming_heads"], strict=True)
    )
    log = server.log.read_text()
    for rank in range(2):
        assert f"of 24 KV heads stream, window 4+28 (rank {rank} of 2)" in log


def test_new_weights_come_into_the_order_of_the_ranks_or_not_at_all(server: Server, heads: Path) -> None:
    assert server.post("/update_weights_from_disk", {"model_path": str(MODEL)})["success"]
    nothing = base64.b64encode(pickle.dumps([])).decode()
    body = {"serialized_named_tensors": [nothing] * 2, "load_format": "direct"}
    with pytest.raises(urllib.error.HTTPError) as refused:
        server.post("/update_weights_from_tensor", body)
    assert "load_format: found 'direct', expected none or 'flattened_bucket'" in refused.value.read().decode()
    prompt = random_tokens(random.Random(7), 100)
    output = server.generate(prompt, 40)["output_ids"]
    assert first_wrong(heads, SPARSITY, WINDOW, prompt, output) is None
