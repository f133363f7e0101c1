"""Packed log-probabilities against one sequence at a time, and against whole logits."""

from __future__ import annotations

import pytest
import torch
from small_models import FAMILIES, VOCAB_SIZE, random_tokens, small_model
from torch import Tensor
from transformers import PreTrainedModel

from rlkv.attention import attach_gates, gate_parameters, write_gates
from rlkv.errors import UnsupportedError
from rlkv.train import packed
from rlkv.train.packed import FrozenHead, head_weight, pack, token_logprobs
from rlkv.window import Window

KEEP = 6
TEMPERATURE = 0.7


def gated(family: str) -> PreTrainedModel:
    model = small_model(family)
    attach_gates(model, Window(2, 5))
    gates = torch.rand(3, 2, generator=torch.Generator().manual_seed(1))
    write_gates(model, gates)
    return model


def batch() -> tuple[Tensor, Tensor, list[Tensor]]:
    """Prompts padded on the left, responses on the right, as a trainer has them; and the rows alone."""
    prompts, responses = (11, 3, 7), (6, 2, 5)
    ids, mask, rows = [], [], []
    for row, (prompt, response) in enumerate(zip(prompts, responses, strict=True)):
        tokens = random_tokens(prompt + response, seed=row)
        left, right = 11 - prompt, KEEP - response
        ids.append(torch.nn.functional.pad(tokens, (left, right)))
        mask.append(torch.tensor([0] * left + [1] * (prompt + response) + [0] * right))
        rows.append(tokens)
    return torch.stack(ids), torch.stack(mask), rows


def reference(model: PreTrainedModel, rows: list[Tensor], mask: Tensor) -> tuple[Tensor, Tensor]:
    """One sequence at a time, over whole logits."""
    out, entropy = torch.zeros(2, *mask.shape)
    for row, tokens in enumerate(rows):
        logits = model(tokens[None]).logits[0, :-1] / TEMPERATURE
        logprobs = logits.log_softmax(dim=-1)
        columns = mask[row].nonzero().squeeze(-1)[1:]
        out = out.index_put((torch.tensor(row), columns), logprobs.gather(-1, tokens[1:, None]).squeeze(-1))
        entropy[row, columns] = -(logprobs.exp() * logprobs).sum(dim=-1).detach()
    return out[:, -KEEP:], entropy[:, -KEEP:]


def test_pack_lays_rows_end_to_end() -> None:
    rows = pack(torch.tensor([[0, 7, 8], [5, 0, 0]]), torch.tensor([[0, 1, 1], [1, 0, 0]]))
    assert rows.token_ids.tolist() == [[7, 8, 5]]
    assert rows.position_ids.tolist() == [[0, 1, 0]]
    assert rows.cu_seqlens.tolist() == [0, 2, 3]


@pytest.mark.parametrize("family", FAMILIES)
def test_packed_equals_single_sequences_with_gradients(family: str) -> None:
    model = gated(family)
    ids, mask, rows = batch()
    weight = torch.randn(3, KEEP, generator=torch.Generator().manual_seed(2))
    found, entropy = token_logprobs(model, ids, mask, KEEP, TEMPERATURE)
    expected, expected_entropy = reference(model, rows, mask)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)
    torch.testing.assert_close(entropy, expected_entropy, atol=1e-5, rtol=0)
    assert not entropy.requires_grad
    gates = gate_parameters(model)
    found_grads = torch.autograd.grad((found * weight).sum(), gates)
    expected_grads = torch.autograd.grad((expected * weight).sum(), gates)
    for one, other in zip(found_grads, expected_grads, strict=True):
        torch.testing.assert_close(one, other, atol=1e-4, rtol=1e-4)


def test_head_in_pieces_is_the_head(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packed, "HEAD_TOKENS", 4)
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(10, 8, generator=generator, dtype=torch.float64).requires_grad_()
    weight = torch.randn(VOCAB_SIZE, 8, generator=generator, dtype=torch.float64)
    targets = torch.randint(VOCAB_SIZE, (10,), generator=generator)
    found, entropy, smallest, largest = FrozenHead.apply(hidden, weight, targets, TEMPERATURE)
    logits = (hidden @ weight.T).detach()
    for one, other in zip((smallest, largest), logits.aminmax(dim=-1), strict=True):
        torch.testing.assert_close(one.double(), other, atol=1e-5, rtol=0)
    everyone = (logits / TEMPERATURE).log_softmax(dim=-1)
    torch.testing.assert_close(entropy.double(), -(everyone.exp() * everyone).sum(-1), atol=1e-5, rtol=0)
    expected = (hidden @ weight.T / TEMPERATURE).log_softmax(dim=-1).gather(-1, targets[:, None]).squeeze(-1)
    torch.testing.assert_close(found.double(), expected, atol=1e-5, rtol=0)
    scale = torch.randn(10, generator=generator)
    one, other = (torch.autograd.grad((x * scale).sum(), hidden)[0] for x in (found, expected))
    torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    ("setting", "value"),
    [("logit_scale", 0.0625), ("logits_scaling", 8.0), ("final_logit_softcapping", 30.0)],
)
def test_a_head_that_is_no_plain_product_is_refused(setting: str, value: float) -> None:
    model = gated("llama")
    setattr(model.config, setting, value)
    with pytest.raises(UnsupportedError, match=f"the language head has {setting}, expected a product"):
        head_weight(model)


def test_a_head_with_a_bias_is_refused() -> None:
    model = gated("llama")
    model.set_output_embeddings(torch.nn.Linear(8, VOCAB_SIZE))
    with pytest.raises(UnsupportedError, match="the language head has a bias"):
        head_weight(model)
