"""The log-probability by which ablation ranks: as from whole logits, which are never made."""

from __future__ import annotations

import pytest
import torch
from rlkv_eval import ablation
from rlkv_eval.ablation import IGNORED, Batch, mean_logprob
from small_models import SIZES, random_tokens, small_model
from torch import Tensor
from transformers import AutoModelForCausalLM, CohereConfig, GraniteConfig, PreTrainedModel

from rlkv.attention import attach_gates, write_gates
from rlkv.window import Window

PIECE = 4


def gated() -> PreTrainedModel:
    model = small_model("qwen3")
    attach_gates(model, Window(2, 5))
    write_gates(model, torch.rand(3, 2, generator=torch.Generator().manual_seed(1)))
    return model


def from_config(config: CohereConfig | GraniteConfig) -> PreTrainedModel:
    torch.manual_seed(0)
    return AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()


def with_bias() -> PreTrainedModel:
    model = small_model("llama")
    model.lm_head.bias = torch.nn.Parameter(torch.randn(model.config.vocab_size))
    return model


MODELS = {
    "gated": gated,
    "bias": with_bias,
    "scaled": lambda: from_config(GraniteConfig(**SIZES, logits_scaling=8.0)),
    "scaled otherwise": lambda: from_config(CohereConfig(**SIZES, logit_scale=0.5)),
}


def batches() -> list[Batch]:
    """Two batches of solutions of several lengths, as ablation pads them."""
    made = []
    for seed, ends in enumerate([(17, 11, 14), (9, 12)]):
        input_ids = random_tokens(len(ends), max(ends), seed=seed)
        labels = torch.full_like(input_ids, IGNORED)
        for row, end in enumerate(ends):
            labels[row, 3 + row : end] = input_ids[row, 3 + row : end]
            input_ids[row, end:] = 0
        made.append((input_ids, labels))
    return made


@torch.inference_mode()
def from_whole_logits(model: PreTrainedModel) -> float:
    logprobs = []
    for input_ids, labels in batches():
        everything = model(input_ids).logits[:, :-1].double().log_softmax(dim=-1)
        counted, targets = labels[:, 1:] != IGNORED, labels[:, 1:].clamp(min=0)
        logprobs.append(everything.gather(-1, targets[..., None]).squeeze(-1)[counted])
    return float(torch.cat(logprobs).mean())


@pytest.mark.parametrize("name", MODELS)
def test_mean_logprob_is_that_of_whole_logits_in_pieces(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ablation, "HEAD_TOKENS", PIECE)
    model, sizes = MODELS[name](), []
    expected = from_whole_logits(model)

    def note(head: torch.nn.Module, inputs: tuple, logits: Tensor) -> None:
        sizes.append(logits.numel() // logits.shape[-1])

    model.get_output_embeddings().register_forward_hook(note)
    assert mean_logprob(model, batches()) == pytest.approx(expected, abs=1e-6, rel=1e-6)
    counted = sum(int((labels[:, 1:] != IGNORED).sum()) for _, labels in batches())
    assert max(sizes) == PIECE and sum(sizes) == counted  # nothing but labelled tokens, few at a time
