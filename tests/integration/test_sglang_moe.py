"""A mixture of experts (Qwen3-MoE) in the hybrid cache and in mixed attention: the reference's tokens."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
import torch
from sglang_server import INSTALLED, MODEL, Server, first_wrong, random_tokens
from tiny_heads import heads_file
from transformers import AutoTokenizer, Qwen3MoeConfig, Qwen3MoeForCausalLM

from rlkv.window import Window

pytestmark = [pytest.mark.slow, pytest.mark.skipif(not INSTALLED, reason="SGLang is not installed")]

WINDOW = Window(4, 28)
SPARSITY = 0.5
LENGTHS = (1, 29, 65, 200)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Random weights, large enough that no two tokens are nearly as likely."""
    folder = tmp_path_factory.mktemp("models") / "qwen3-moe"
    tokenizer = AutoTokenizer.from_pretrained(MODEL)
    torch.manual_seed(0)
    config = Qwen3MoeConfig(
        vocab_size=len(tokenizer),
        hidden_size=128,
        num_hidden_layers=3,
        num_attention_heads=8,
        num_key_value_heads=4,
        head_dim=32,
        num_experts=4,
        num_experts_per_tok=2,
        moe_intermediate_size=64,
        max_position_embeddings=2048,
        initializer_range=0.2,
        dtype="float32",
    )
    Qwen3MoeForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.mark.parametrize("ranks", [1, pytest.param(2, marks=pytest.mark.full_matrix)])
def test_hybrid_cache_gives_the_references_tokens(ranks: int, model: Path, tmp_path: Path) -> None:
    heads = heads_file(tmp_path / "heads.json", model)
    flags = ["--rlkv-heads", str(heads), "--rlkv-sparsity", str(SPARSITY), "--tp", str(ranks)]
    flags += ["--chunked-prefill-size", "64", "--max-total-tokens", "4096"]
    rng = random.Random(2)
    prompts = [random_tokens(rng, length) for length in LENGTHS]
    with Server(flags, tmp_path, {"SGLANG_ENABLE_STRICT_MEM_CHECK_DURING_BUSY": "1"}, model) as server:
        assert sum(server.cache()["streaming_heads"]) == 6 // ranks
        outputs = server.generate_together(prompts, 60)
    for prompt, output in zip(prompts, outputs, strict=True):
        assert len(set(output)) > 10, "the model should not repeat itself: that would prove little"
        assert first_wrong(heads, SPARSITY, WINDOW, prompt, output, model) is None


def test_mixed_attention_with_open_gates_is_stock(model: Path, tmp_path: Path) -> None:
    prompt = random_tokens(random.Random(3), 120)
    tokens = []
    for flags in ([], ["--rlkv-gates", "ones"]):
        with Server([*flags, "--max-total-tokens", "4096"], tmp_path, None, model) as server:
            tokens.append(server.generate(prompt, 40)["output_ids"])
    assert tokens[0] == tokens[1]
