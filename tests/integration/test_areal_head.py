"""The actor's language head and memory on a real AReaL."""

from __future__ import annotations

import json
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from areal_ranks import run_ranks
from transformers import AutoConfig

from rlkv.models import MODELS_FOLDER
from rlkv.train.forecast import DecoderShape, weight_bytes

pytestmark = pytest.mark.skipif(find_spec("areal") is None, reason="AReaL is not installed: make areal")

SHAPE = DecoderShape.of(AutoConfig.from_pretrained(MODELS_FOLDER / "tiny-reasoner"))
BFLOAT16, FLOAT32 = 2, 4


@pytest.fixture(scope="module")
def seen(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    out = tmp_path_factory.mktemp("head") / "seen.json"
    run_ranks(Path(__file__).with_name("areal_head.py"), 1, str(out))
    return json.loads(out.read_text())


def test_head_in_pieces_gives_what_areal_computes_from_whole_logits(seen: dict[str, Any]) -> None:
    assert seen["head"] == "Linear", "the reference is AReaL's own"
    assert seen["micro_batches"] > 1
    for name in ("compute_logp", "logprobs", "entropy", "smallest", "largest", "gradients"):
        assert seen[name] < 1e-5, name


def test_checkpointing_computes_layers_again_and_gives_the_same_gradients(seen: dict[str, Any]) -> None:
    plain, recomputing = seen["layer_calls"]
    assert recomputing == plain + seen["micro_batches"]
    assert seen["gradients_recomputed"] < 1e-5


def test_frozen_weights_are_stored_once_and_gates_in_float32(seen: dict[str, Any]) -> None:
    memory, weights = seen["memory"], weight_bytes(SHAPE, BFLOAT16)
    gates = SHAPE.layers * SHAPE.kv_heads * FLOAT32
    assert memory["frozen"] == {"dtypes": ["torch.bfloat16"], "bytes": weights, "gradients": 0}
    assert memory["gates"] == {"dtypes": ["torch.float32"], "bytes": gates}
    assert memory["moments"] == 2 * gates + SHAPE.layers * FLOAT32  # and AdamW's count of steps
    # Beside the weights there are gates, gradients, moments, rotary frequencies and statistics, all small.
    assert weights <= memory["everything"] < 1.1 * weights
