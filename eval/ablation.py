"""Single-head ablation, the baseline ranking that needs no training.

A head matters as much as the model's mean log-probability of its own right solutions falls when that head
alone streams. The ranking is a heads file like any other; the run folder keeps it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from transformers import PreTrainedModel

from rlkv.attention import attach_gates, write_gates
from rlkv.errors import DataError
from rlkv.heads import HeadsFile, ModelShape, Provenance
from rlkv.window import Window

from .config import ABLATION, EvalConfig
from .engine import Engine
from .folder import kept_heads
from .parts import Part
from .progress import Watcher

IGNORED = -100
"""Label of a token that does not count."""

HEAD_TOKENS = 1024
"""Tokens that go through the language head at a time: their logits take 0.6 GB at 152,000 words."""

SHARED = (*("model", "engine", "task", "revision", "level", "seed", "max_new_tokens", "thinking"),)
"""Settings of the comparison that the ranking depends on."""

Solution = tuple[list[int], list[int]]
"""Token ids of a prompt and of the model's right answer."""

Batch = tuple[torch.Tensor, torch.Tensor]
"""int64 [B, T] token ids and labels; ``IGNORED`` labels do not count."""


def ablation_heads(
    config: EvalConfig,
    part: Part,
    engine: Engine,
    window: Window,
    settings: dict[str, Any],
    watcher: Watcher,
) -> HeadsFile:
    """The ranking of the comparison's model, as the run folder has it or made now.

    Args:
        config: of the comparison.
        part: the task whose validation problems rank.
        engine: with the model.
        window: of the head that streams.
        settings: of the comparison and the task, of which ``SHARED`` decide the ranking.
        watcher: told of the progress.

    Raises:
        DataError: the model solves none of the validation problems.
    """

    def rank() -> tuple[torch.Tensor, str]:
        solutions = right_solutions(config, part, engine)
        pad, size = engine.checkpoint.tokenizer.pad_token_id, config.batch_size
        batches = [
            _collate(solutions[begin : begin + size], pad, engine.device)
            for begin in range(0, len(solutions), size)
        ]
        falls = logprob_falls(engine.model, batches, window, watcher)
        return as_gates(falls), f"{part.label}, {len(solutions)} solutions"

    return ranked_heads(ABLATION, config, engine, window, settings, rank)


def ranked_heads(
    method: str,
    config: EvalConfig,
    engine: Engine,
    window: Window,
    settings: dict[str, Any],
    rank: Callable[[], tuple[torch.Tensor, str]],
) -> HeadsFile:
    """A ranking by validation problems, as the run folder has it or made now.

    Args:
        method: its name.
        config: of the comparison.
        engine: with the model.
        window: that the heads file recommends.
        settings: of the comparison and the task, of which ``SHARED`` decide the ranking.
        rank: makes the gates [num_layers, num_kv_heads], and says from what data.
    """
    recipe = {name: settings[name] for name in SHARED}
    recipe |= {"method": method, "problems": config.ablation_problems, "window": str(window)}
    for kept in map(HeadsFile.read, kept_heads(config.out, method)):
        if kept.provenance.recipe == recipe:
            return kept
    gates, data = rank()
    return HeadsFile(
        model=ModelShape.from_config(engine.checkpoint.model_config, model_id=config.model),
        gates=tuple(map(tuple, gates.tolist())),
        training_window=window,
        serving_window=window,
        recommended_sparsity=0.5,
        provenance=Provenance(
            recipe=recipe,
            data=data,
            steps=None,
            seed=config.seed,
            packages=settings["engine"]["packages"],
        ),
    )


def right_solutions(config: EvalConfig, part: Part, engine: Engine) -> list[Solution]:
    """The model's own right greedy answers to validation problems, with their prompts.

    Raises:
        DataError: there are none.
    """
    part.task.check(part.level, "validation")
    examples = part.task.examples(part.level, "validation", config.seed, config.ablation_problems)
    prompts = [example.prompt for example in examples]
    batches = engine.answer(prompts, None, config.token_limit(part), greedy=True)
    answers = [answer for batch in batches for answer in batch]
    verdicts = part.task.grade(examples, [answer.text for answer in answers], thinking=config.thinking)
    solved = [
        (engine.checkpoint.prompt_ids(example.prompt), list(answer.token_ids))
        for example, answer, verdict in zip(examples, answers, verdicts, strict=True)
        if verdict.correct
    ]
    if not solved:
        raise DataError(
            f"ablation: {config.model} solves 0 of {len(examples)} validation problems of "
            f"{part.label}, expected at least 1 to rank its heads by"
        )
    return solved


def logprob_falls(
    model: PreTrainedModel, batches: Sequence[Batch], window: Window, watcher: Watcher
) -> torch.Tensor:
    """Fall of the mean log-probability when one head alone streams, head by head.

    Args:
        model: left in mixed attention, with gates attached.
        batches: solutions, padded on the right.
        window: of the head that streams.
        watcher: told of each head.

    Returns:
        float64 [num_layers, num_kv_heads] in nats per token, below 0 where the solutions got likelier.
    """
    gates = attach_gates(model, window)
    num_layers, num_kv_heads = len(gates), len(gates[0])
    watcher.ranking(num_layers * num_kv_heads)
    intact = mean_logprob(model, batches)
    falls = torch.empty(num_layers, num_kv_heads, dtype=torch.float64)
    for layer in range(num_layers):
        for head in range(num_kv_heads):
            values = torch.ones(num_layers, num_kv_heads)
            values[layer, head] = 0.0
            write_gates(model, values)
            falls[layer, head] = intact - mean_logprob(model, batches)
            watcher.ranked(1)
    return falls


@torch.inference_mode()
def mean_logprob(model: PreTrainedModel, batches: Sequence[Batch]) -> float:
    """Mean log-probability of all labelled tokens, in nats."""
    total, count = 0.0, 0
    for input_ids, labels in batches:
        hidden = model.get_decoder()(input_ids=input_ids, use_cache=False).last_hidden_state[:, :-1]
        targets = labels[:, 1:]
        counted = targets != IGNORED
        pieces = zip(hidden[counted].split(HEAD_TOKENS), targets[counted].split(HEAD_TOKENS), strict=True)
        for some, wanted in pieces:
            losses = F.cross_entropy(_logits(model, some), wanted, reduction="none")
            total -= float(losses.double().sum())
        count += int(counted.sum())
    return total / count


def _logits(model: PreTrainedModel, hidden: torch.Tensor) -> torch.Tensor:
    """float32 [N, vocabulary] of hidden states [N, C].

    By the model's own forward pass, because some families scale or cap what their language head gives, each
    in its own way: one token goes in, and the given hidden states take its place behind the decoder.
    """

    def give(decoder: torch.nn.Module, inputs: tuple, output: Any) -> Any:
        output.last_hidden_state = hidden[None]
        return output

    hook = model.get_decoder().register_forward_hook(give)
    try:
        token = torch.zeros(1, 1, dtype=torch.long, device=hidden.device)
        return model(input_ids=token, use_cache=False).logits[0].float()
    finally:
        hook.remove()


def as_gates(falls: torch.Tensor) -> torch.Tensor:
    """Falls [num_layers, num_kv_heads] as gates: the share of the other heads that rank lower.

    A few heads fall by nats and most by thousandths, which a gate in [0, 1] could not tell apart.
    """
    gates = torch.empty(falls.numel(), dtype=falls.dtype)
    gates[falls.flatten().argsort(stable=True)] = torch.linspace(0, 1, falls.numel(), dtype=falls.dtype)
    return gates.view_as(falls)


def _collate(solutions: Sequence[Solution], pad: int, device: str) -> Batch:
    """Pad on the right, where a causal model needs no mask."""
    length = max(len(prompt) + len(answer) for prompt, answer in solutions)
    input_ids = torch.full((len(solutions), length), pad)
    labels = torch.full_like(input_ids, IGNORED)
    for row, (prompt, answer) in enumerate(solutions):
        end = len(prompt) + len(answer)
        input_ids[row, :end] = torch.tensor(prompt + answer)
        labels[row, len(prompt) : end] = torch.tensor(answer)
    return input_ids.to(device), labels.to(device)
