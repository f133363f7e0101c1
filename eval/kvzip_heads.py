"""KVzip's scores by head: a head matters as much as the strongest attention it gives to a repeated prompt.

Kim et al., 2025 (https://arxiv.org/abs/2505.23416), section on context-independent eviction. The ranking is a
heads file like any other; the run folder keeps it.
"""

from __future__ import annotations

from typing import Any

import torch

from rlkv.cache import use_hybrid_cache
from rlkv.generation import chat_prompt
from rlkv.heads import HeadsFile
from rlkv.window import Window

from .ablation import as_gates, ranked_heads
from .config import KVZIP_HEADS, EvalConfig
from .engine import Engine
from .parts import Part
from .rivals.kvzip import importance


def kvzip_heads(
    config: EvalConfig, part: Part, engine: Engine, window: Window, settings: dict[str, Any]
) -> HeadsFile:
    """The ranking of the comparison's model, as the run folder has it or made now; see ``ablation_heads``."""

    def rank() -> tuple[torch.Tensor, str]:
        part.task.check(part.level, "validation")
        examples = part.task.examples(part.level, "validation", config.seed, config.ablation_problems)
        tokenizer, scores = engine.checkpoint.tokenizer, []
        use_hybrid_cache(engine.model)
        for begin in range(0, len(examples), config.batch_size):
            prompts = [chat_prompt(tokenizer, e.prompt) for e in examples[begin : begin + config.batch_size]]
            inputs = tokenizer(
                prompts, return_tensors="pt", padding=True, padding_side="left", add_special_tokens=False
            ).to(engine.device)
            scores.append(
                head_scores(engine, inputs["input_ids"], inputs["attention_mask"], window.sink_size)
            )
        return as_gates(torch.cat(scores).mean(dim=0)), f"{part.label}, {len(examples)} prompts"

    return ranked_heads(KVZIP_HEADS, config, engine, window, settings, rank)


@torch.inference_mode()
def head_scores(
    engine: Engine, input_ids: torch.Tensor, attention_mask: torch.Tensor, sinks: int
) -> torch.Tensor:
    """float64 [B, num_layers, num_kv_heads]: each head's most important token, the sinks left out.

    A streaming head keeps the sinks, whatever attention they get.
    """
    layers = importance(engine.model, input_ids, attention_mask)
    beyond = attention_mask.cumsum(dim=-1) > sinks
    return torch.stack([(layer * beyond[:, None]).amax(dim=-1) for layer in layers], dim=1).double().cpu()
