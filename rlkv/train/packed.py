"""Log-probabilities of long responses: rows without their padding, logits never whole.

Rows of a batch are laid end to end in one row, so padding costs nothing, and the language head is applied a
piece at a time, forward and backward: the logits of 8,192 tokens over 152,000 words would take 5 GB in
float32, more than all else of a pass.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch.autograd.function import once_differentiable
from transformers import PreTrainedModel

from rlkv.errors import UnsupportedError
from rlkv.train.forecast import HEAD_TOKENS

LOGIT_CHANGES = {"logit_scale": 1.0, "logits_scaling": 1.0, "final_logit_softcapping": None}
"""Settings by which transformers' models change what their language head gives, and what leaves it alone."""


@dataclass(frozen=True)
class PackedRows:
    """Rows laid end to end.

    Attributes:
        token_ids: int64 [1, N].
        position_ids: int64 [1, N], from 0 in each row.
        cu_seqlens: int32 [B + 1], cumulative lengths.
        real: bool [B, T], where the tokens came from.
    """

    token_ids: torch.Tensor
    position_ids: torch.Tensor
    cu_seqlens: torch.Tensor
    real: torch.Tensor


def pack(input_ids: torch.Tensor, attention_mask: torch.Tensor) -> PackedRows:
    """Lay the rows of a padded batch end to end.

    Args:
        input_ids: int64 [B, T].
        attention_mask: [B, T], nonzero where a token is real; padding may be on either side.
    """
    real = attention_mask.bool()
    positions = (real.cumsum(dim=-1) - 1)[real]
    cu_seqlens = torch.nn.functional.pad(real.sum(dim=-1).cumsum(dim=0), (1, 0)).int()
    return PackedRows(input_ids[real][None], positions[None], cu_seqlens, real)


def token_logprobs(
    model: PreTrainedModel,
    input_ids: torch.Tensor,
    attention_mask: torch.Tensor,
    keep: int,
    temperature: float = 1.0,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Log-probability and entropy of the last ``keep`` tokens of each row; differentiable in the gates.

    Args:
        model: with gates attached; its language head is frozen.
        input_ids: int64 [B, T].
        attention_mask: [B, T], nonzero where a token is real.
        keep: tokens at the end of each row that are asked for; less than T.
        temperature: divides the logits.

    Returns:
        Two of float32 [B, keep], zero where a token is padding or the first of its row; the entropies carry
        no gradient.
    """
    rows = pack(input_ids, attention_mask)
    hidden = model.get_decoder()(
        input_ids=rows.token_ids,
        position_ids=rows.position_ids,
        cu_seq_lens_q=rows.cu_seqlens,
        use_cache=False,
    ).last_hidden_state[0]
    wanted = _wanted(rows, keep)
    predicted = torch.nonzero(wanted[rows.real]).squeeze(
        -1
    )  # indices into the packed row, none a first token
    targets = rows.token_ids[0, predicted]
    logprobs, entropies, *_ = FrozenHead.apply(
        hidden[predicted - 1], head_weight(model), targets, temperature
    )
    return _unpack(logprobs, wanted, keep), _unpack(entropies, wanted, keep)


def _wanted(rows: PackedRows, keep: int) -> torch.Tensor:
    """bool [B, T]: real tokens among the last ``keep`` that something stands before."""
    wanted = rows.real.clone()
    wanted[:, : -keep or None] = False
    wanted[rows.real.cumsum(dim=-1) == 1] = False
    return wanted


def _unpack(values: torch.Tensor, wanted: torch.Tensor, keep: int) -> torch.Tensor:
    out = values.new_zeros(wanted.shape)
    return out.masked_scatter(wanted, values)[:, -keep:]


def head_weight(model: PreTrainedModel) -> torch.nn.Parameter:
    """Weight of the language head, [V, C].

    Raises:
        UnsupportedError: the model's logits are not the product of its hidden states and that weight alone.
    """
    config, head = model.config.get_text_config(), model.get_output_embeddings()
    settings = ((name, plain, getattr(config, name, None)) for name, plain in LOGIT_CHANGES.items())
    found = [name for name, plain, value in settings if value not in (plain, None)]
    if getattr(head, "bias", None) is not None:
        found.append("a bias")
    if found:
        raise UnsupportedError(
            f"{config.model_type}: the language head has {found[0]}, expected a product with its weight alone"
        )
    return head.weight


class FrozenHead(torch.autograd.Function):
    """What a loss and its statistics need of the logits behind a language head that is not trained.

    Shapes: hidden [N, C], weight [V, C], targets int64 [N]. The results are float32 [N] each: the targets'
    log-probabilities, and without a gradient the entropies and the smallest and largest logits, the latter
    before the temperature. The backward pass computes the logits again, as many at a time as the forward
    pass.
    """

    @staticmethod
    def forward(
        ctx: Any, hidden: torch.Tensor, weight: torch.Tensor, targets: torch.Tensor, temperature: float
    ) -> tuple[torch.Tensor, ...]:
        logprobs, entropies, smallest, largest, normalisers = [], [], [], [], []
        for h, t in zip(hidden.split(HEAD_TOKENS), targets.split(HEAD_TOKENS), strict=True):
            logits = (h @ weight.T).float()
            low, high = logits.aminmax(dim=-1)
            smallest.append(low)
            largest.append(high)
            logits.div_(temperature)
            normalisers.append(logits.logsumexp(dim=-1))
            all_logprobs = logits.sub_(normalisers[-1][:, None])
            logprobs.append(all_logprobs.gather(-1, t[:, None]).squeeze(-1))
            entropies.append(-all_logprobs.exp().mul_(all_logprobs).sum(dim=-1))
        ctx.save_for_backward(hidden, weight, targets, torch.cat(normalisers))
        ctx.temperature = temperature
        untrained = [torch.cat(pieces) for pieces in (entropies, smallest, largest)]
        ctx.mark_non_differentiable(*untrained)
        return torch.cat(logprobs), *untrained

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: torch.Tensor, *_: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        hidden, weight, targets, normalisers = ctx.saved_tensors
        pieces = (x.split(HEAD_TOKENS) for x in (hidden, targets, normalisers, grad))
        grads = []
        for h, t, normaliser, g in zip(*pieces, strict=True):
            probabilities = (h @ weight.T).float().div_(ctx.temperature).sub_(normaliser[:, None]).exp_()
            scaled = probabilities.mul_(-g[:, None] / ctx.temperature)
            scaled.scatter_add_(-1, t[:, None], (g / ctx.temperature)[:, None])
            grads.append(scaled.to(weight.dtype) @ weight)
        return torch.cat(grads), None, None, None
