"""GRPO over the gates: TRL's trainer with our penalty, clamping and gates-only checkpoints."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase
from trl import GRPOConfig, GRPOTrainer

from rlkv.attention.gates import (
    clamp_after_each_step,
    gate_parameters,
    load_gates,
    read_gates,
    save_gates,
)
from rlkv.grading import MATH, grade_batch
from rlkv.train.config import Advantage, RewardScope, TrainConfig
from rlkv.train.packed import token_logprobs
from rlkv.train.penalty import l1_norm, penalty_weight, scoped_mean_rewards

GATES_FILE = "gates.safetensors"


def answer_reward(
    completions: list[Any],
    answer: list[str],
    grader: list[str] | None = None,
    thinking: list[bool] | None = None,
    **_: Any,
) -> list[float | None]:
    """1 for a response whose final answer is right, else 0; the name and arguments are TRL's.

    Args:
        completions: texts, or conversations of one message.
        answer: right answers.
        grader: the kind of each answer (``rlkv.grading.GRADERS``), None for mathematics.
        thinking: whether each answer has to stand after ``</think>``, None where all have.
    """
    texts = [c if isinstance(c, str) else c[0]["content"] for c in completions]
    verdicts = grade_batch(
        texts, answer, kinds=grader or MATH, thinking=True if thinking is None else thinking
    )
    return [float(verdict.correct) for verdict in verdicts]


def grpo_arguments(config: TrainConfig, out: Path, use_cpu: bool) -> GRPOConfig:
    """TRL's settings for a run; one generation per optimiser step, so every update is on-policy."""
    accumulation = config.responses_per_step // config.micro_batch_size
    return GRPOConfig(
        output_dir=str(out),
        max_steps=config.steps,
        per_device_train_batch_size=config.micro_batch_size,
        gradient_accumulation_steps=accumulation,
        steps_per_generation=accumulation,
        num_generations=config.group_size,
        max_completion_length=config.max_new_tokens,
        temperature=config.temperature,
        top_p=config.top_p,
        top_k=config.top_k,
        beta=0.0,
        loss_type="grpo",
        epsilon=config.clip,
        scale_rewards="group",
        learning_rate=config.learning_rate,
        lr_scheduler_type="constant",
        weight_decay=config.weight_decay,
        max_grad_norm=config.max_grad_norm,
        gradient_checkpointing=config.gradient_checkpointing,
        shuffle_dataset=False,
        save_steps=config.save_every,
        save_total_limit=2,
        logging_steps=1,
        report_to=list(config.report_to),
        use_cpu=use_cpu,
        bf16=False,
        seed=config.seed,
        disable_tqdm=True,
    )


class GateTrainer(GRPOTrainer):
    """TRL's GRPO trainer for a model with gates attached.

    Args:
        model: prepared by ``rlkv.attention.attach_gates``.
        config: the run's settings.
        arguments: from ``grpo_arguments``.
        dataset: columns ``prompt`` (messages) and ``answer``.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        config: TrainConfig,
        arguments: GRPOConfig,
        dataset: Any,
        **kwargs: Any,
    ) -> None:
        self.gate_config = config
        self._step_rewards = torch.empty(0)
        super().__init__(
            model=model,
            reward_funcs=answer_reward,
            args=arguments,
            train_dataset=dataset,
            processing_class=tokenizer,
            **kwargs,
        )

    def create_optimizer(self, *args: Any, **kwargs: Any) -> torch.optim.Optimizer:
        optimizer = super().create_optimizer(*args, **kwargs)
        clamp_after_each_step(optimizer)
        return optimizer

    def _calculate_rewards(
        self, inputs: Any, prompts: Any, completions: Any, completion_ids_list: list[list[int]]
    ) -> torch.Tensor:
        """TRL's, but a response that was cut earns nothing, whatever stands in it."""
        rewards = super()._calculate_rewards(inputs, prompts, completions, completion_ids_list)
        cut = [not ids or ids[-1] not in self.eos_token_ids for ids in completion_ids_list]
        rewards[torch.tensor(cut, device=rewards.device)] = 0.0
        self._step_rewards = rewards[:, 0]
        return rewards

    def _generate_and_score_completions(self, inputs: list[dict[str, Any]]) -> dict[str, Any]:
        """Hand each response's reward, and the mean that its penalty follows, to the loss."""
        output = super()._generate_and_score_completions(inputs)
        config, rewards = self.gate_config, self._step_rewards
        if config.advantage is Advantage.BATCH:
            shaped = config.reward_scale * (rewards + config.reward_bias)
            output["advantages"] = (shaped - shaped.mean()) / (shaped.std() + 1e-4)
        if config.reward_scope is RewardScope.MICRO_BATCH:
            output["mean_reward"] = rewards
        else:
            output["mean_reward"] = scoped_mean_rewards(rewards, config.reward_scope, config.group_size)
        return output

    def compute_loss(self, model: Any, inputs: dict[str, Any], *args: Any, **kwargs: Any) -> torch.Tensor:
        mean_reward = inputs["mean_reward"]
        if self.gate_config.reward_scope is RewardScope.MICRO_BATCH:
            mean_reward = mean_reward.mean()
        weight = penalty_weight(mean_reward, self.gate_config.beta, self.gate_config.reward_threshold).mean()
        norm = l1_norm(gate_parameters(self.accelerator.unwrap_model(model)))
        self._metrics["train"]["penalty_weight"].append(weight.item())
        loss = super().compute_loss(model, inputs, *args, **kwargs)
        return loss + weight * norm / self.current_gradient_accumulation_steps

    def _get_per_token_logps_and_entropies(
        self,
        model: Any,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor,
        logits_to_keep: int,
        *args: Any,
        **kwargs: Any,
    ) -> tuple[torch.Tensor, torch.Tensor | None, torch.Tensor | None]:
        """Packed: without padding, and with logits of the response alone."""
        plain = self.accelerator.unwrap_model(model)
        logprobs, entropies = token_logprobs(
            plain, input_ids, attention_mask, logits_to_keep, self.temperature
        )
        return logprobs, entropies, None

    def log(self, logs: dict[str, float], *args: Any, **kwargs: Any) -> None:
        """TRL's, with the gates as they are after the step."""
        if "loss" in logs:
            gates = read_gates(self.accelerator.unwrap_model(self.model))
            share = (gates < 0.5).float().mean().item()
            logs = {**logs, "gate/mean": gates.mean().item(), "gate/sparsity_at_0.5": share}
        super().log(logs, *args, **kwargs)

    def _save(self, output_dir: str | None = None, state_dict: Any = None) -> None:
        """Write the gates alone: the model is frozen and has its own folder."""
        folder = Path(output_dir or self.gate_config.out)
        folder.mkdir(parents=True, exist_ok=True)
        save_gates(self.accelerator.unwrap_model(self.model), folder / GATES_FILE)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        load_gates(self.accelerator.unwrap_model(self.model), Path(resume_from_checkpoint) / GATES_FILE)

    def create_model_card(self, *args: Any, **kwargs: Any) -> None:
        """No model card: a checkpoint holds gates, heads.json describes them."""
