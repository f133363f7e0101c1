"""Streaming dropout of the tiny reasoner's training."""

from __future__ import annotations

import pytest
import torch
from small_models import small_model
from transformers import TrainerControl, TrainerState, TrainingArguments

from rlkv.attention import attach_gates
from rlkv.attention.gates import attention_modules
from rlkv.tiny.streaming_dropout import StreamingDropout
from rlkv.window import Window

WINDOW = Window(2, 5)


def logits(model: torch.nn.Module) -> torch.Tensor:
    tokens = torch.arange(24).remainder(model.config.vocab_size)[None]
    with torch.no_grad():
        return model(input_ids=tokens, use_cache=False).logits


def step(dropout: StreamingDropout, tmp_path: object) -> torch.Tensor:
    """Draw once; bool [num_layers, num_kv_heads]."""
    arguments = TrainingArguments(output_dir=str(tmp_path), use_cpu=True)
    dropout.on_step_begin(arguments, TrainerState(), TrainerControl())
    return torch.stack([module.streaming.clone() for module in dropout.modules])


@pytest.mark.parametrize("streams", [False, True])
def test_a_head_that_streams_is_a_closed_gate(streams: bool) -> None:
    model = small_model("qwen3")
    dropout = StreamingDropout(model, WINDOW, max_share=0.0, seed=0)
    for module in attention_modules(model):
        module.streaming.fill_(streams)
    found = logits(model)
    dropout.close()
    attach_gates(model, WINDOW, init=float(not streams))
    torch.testing.assert_close(found, logits(model))


def test_draws_follow_the_seed_and_the_share(tmp_path: object) -> None:
    draws = []
    for _ in range(2):
        dropout = StreamingDropout(small_model("qwen3"), WINDOW, max_share=0.5, seed=3)
        draws.append(torch.stack([step(dropout, tmp_path) for _ in range(200)]))
    assert torch.equal(*draws)
    assert 0.2 < draws[0].float().mean() < 0.3
    assert draws[0].flatten(1).any(0).all()
