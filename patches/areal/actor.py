"""AReaL's FSDP actor, training the gates of a frozen model.

The frozen model is sharded by FSDP as ever. The gates are not: a few hundred float32 numbers, whole on every
rank, attached after the sharding. So their gradients are summed here, the penalty and the clipping see all of
them, and each rank takes the same step whatever the split of the data.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from areal.api import FinetuneSpec, WeightUpdateMeta
from areal.utils import name_resolve, names, stats_tracker
from areal.utils.data import MicroBatchList

from rlkv.attention.gates import attach_gates, clamp_after_each_step, gate_parameters, named_gates, read_gates
from rlkv.errors import TrainingError
from rlkv.train.config import RewardScope
from rlkv.train.penalty import add_penalty_gradient, group_weights, mean_over_ranks, penalty_weight
from rlkv.window import Window

from . import gates_files, orphans
from .config import GateActorConfig
from .head import FrozenHeadActor

REWARDS = "response_rewards"
"""Key of each response's reward, at each of its tokens: AReaL splits nothing else into micro-batches."""

NO_GAP = -1.0
"""No token of a step is of the version that is trained, as when all rollouts are behind."""

UPDATE_LIMIT_S = 120
"""How long AReaL's servers look for new gates."""


class GateActor(FrozenHeadActor):
    """The engine that AReaL's training workers run.

    Args:
        config: AReaL's, with how the gates are trained.
    """

    def __init__(self, config: GateActorConfig) -> None:
        super().__init__(config)
        orphans.end_with(config.controller)
        self.spec = config.gates
        self._penalty = 0.0
        self._weights: list[torch.Tensor] = []
        self._gaps: list[float] = []
        self._bad_steps = 0

    def _create_device_model(self) -> None:
        super()._create_device_model()
        self.model.requires_grad_(False)

    def _create_optimizer(self, ft_spec: FinetuneSpec) -> None:
        """Attach the gates, now that FSDP has the frozen parameters, and let the optimiser own them alone."""
        window = Window(self.spec.sink_size, self.spec.recent_size)
        gates = attach_gates(self.model, window, self.spec.init)
        super()._create_optimizer(ft_spec)
        self.optimizer.param_groups[0]["params"] = gates
        clamp_after_each_step(self.optimizer)

    @property
    def gates(self) -> list[torch.nn.Parameter]:
        """One float32 [num_kv_heads] a layer, the same on every rank."""
        return gate_parameters(self.model)

    def _prepare_mb_list(self, input_: dict[str, Any]) -> MicroBatchList:
        """Leave the mask to our attention, which reads ``cu_seq_lens_q``; AReaL says there is none."""
        batches = super()._prepare_mb_list(input_)
        for batch in batches.padded_mbs:
            batch["attention_mask"] = None
        return batches

    def ppo_update(self, data: list[dict[str, Any]]) -> None:
        """One optimiser step on the responses of this rank.

        Args:
            data: one entry a prompt, whose tensors have the responses as their first dimension.
        """
        scope = RewardScope(self.spec.reward_scope)
        for group in data:
            group[REWARDS] = group["rewards"][:, None].expand(group["loss_mask"].shape).contiguous()
        if scope is not RewardScope.MICRO_BATCH:
            rewards = [group["rewards"] for group in data]
            self._penalty = float(
                group_weights(
                    rewards, scope, self.spec.beta, self.spec.reward_threshold, self._sum_over_ranks
                )
            )
        super().ppo_update(data)

    def train_batch(
        self,
        input_: list[dict[str, Any]] | dict[str, Any],
        loss_fn: Callable[..., torch.Tensor],
        loss_weight_fn: Callable[[dict[str, Any]], torch.Tensor],
    ) -> dict[str, float]:
        """AReaL's, with an eye on each micro-batch for the penalty and for the servers' log-probabilities."""
        self._weights, self._gaps = [], []

        def observed(logprobs: torch.Tensor, entropy: torch.Tensor, batch: dict[str, Any], **kw: Any) -> Any:
            firsts = batch["cu_seqlens"][:-1].long()
            mean = batch[REWARDS][firsts].double().mean()
            self._weights.append(penalty_weight(mean, self.spec.beta, self.spec.reward_threshold))
            self._gaps.append(self._logprob_gap(logprobs.detach(), batch))
            return loss_fn(logprobs, entropy, batch, **kw)

        return super().train_batch(input_, observed, loss_weight_fn)

    def _logprob_gap(self, logprobs: torch.Tensor, batch: dict[str, Any]) -> float:
        """Largest difference to the server's log-probabilities among tokens of the version trained now."""
        versions = torch.roll(batch["versions"], -1)
        same = batch["loss_mask"].bool() & (versions == self.get_version())
        gap = (logprobs - batch["logprobs"])[same].abs()
        return float(gap.max()) if len(gap) else NO_GAP

    def optimizer_step(self) -> dict[str, float]:
        """Sum the gradients over ranks, add the penalty's, clip, step; AdamW's hook clamps.

        A gradient that is not finite changes nothing: gates, moments and penalty wait for the next step.

        Raises:
            TrainingError: more such steps in a row than ``max_bad_steps``.
        """
        gates = self.gates
        for gate in gates:
            own = torch.zeros_like(gate) if gate.grad is None else gate.grad
            gate.grad = self._sum_over_ranks(own) / self.data_parallel_world_size
        if RewardScope(self.spec.reward_scope) is RewardScope.MICRO_BATCH:
            self._penalty = float(mean_over_ranks(torch.stack(self._weights), self._sum_over_ranks))
        add_penalty_gradient(gates, self._penalty)
        norm = float(torch.nn.utils.clip_grad_norm_(gates, self.optimizer_config.gradient_clipping))
        if math.isfinite(norm):
            self.optimizer.step()
            self._bad_steps = 0
        else:
            self.optimizer_zero_grad()
            self._bad_steps += 1
        self._log(norm)
        if self._bad_steps > self.spec.max_bad_steps:
            raise TrainingError(
                f"the gradient of the gates is {norm} for {self._bad_steps} steps in a row, expected a "
                "number: the gates are as they were before"
            )
        learning_rate = float(self.lr_scheduler.get_last_lr()[0])
        return {"update_successful": float(math.isfinite(norm)), "grad_norm": norm, "lr": learning_rate}

    def _sum_over_ranks(self, values: torch.Tensor) -> torch.Tensor:
        """The sum of a tensor over the ranks that share the data; the tensor itself stays as it is."""
        total = values.detach().clone().to(self.device)
        dist.all_reduce(total, group=self.data_parallel_group)
        return total

    def _largest_over_ranks(self, value: float) -> float:
        """AReaL averages what ranks log: a maximum has to be the same on all of them."""
        largest = torch.tensor(value, device=self.device)
        dist.all_reduce(largest, op=dist.ReduceOp.MAX, group=self.data_parallel_group)
        return largest.item()

    def _log(self, norm: float) -> None:
        values = read_gates(self.model)
        gap = self._largest_over_ranks(max(self._gaps, default=NO_GAP))
        stats_tracker.scalar(
            **{
                "gate/mean": values.mean().item(),
                "gate/sparsity_at_0.5": (values < 0.5).float().mean().item(),
                "penalty_weight": self._penalty,
                "bad_steps": float(self._bad_steps),
                **({} if gap == NO_GAP else {"logprob_gap": gap}),
                **{name: self._largest_over_ranks(peak) for name, peak in _peak_memory().items()},
            }
        )

    def _update_weights_from_disk(self, meta: WeightUpdateMeta) -> None:
        """Store the gates, then have the servers read them, while no response is generated.

        AReaL does both at once: a server that looks for the gates before they are there looks again a second
        later, and for two minutes if they cannot be stored.
        """
        self._save_model_to_hf(meta.path, None, None)
        if dist.get_rank() == 0:
            name = names.update_weights_from_disk(
                self.config.experiment_name, self.config.trial_name, self.get_version()
            )
            name_resolve.add(name, str(time.time()), keepalive_ttl=UPDATE_LIMIT_S)
            self.rollout_engine.pause_generation()
            self.rollout_engine.update_weights_from_disk(meta).result()
            self.rollout_engine.continue_generation()
        dist.barrier(group=self.cpu_group)

    def _get_model_name_parameters(self, meta: WeightUpdateMeta) -> Iterator[tuple[str, torch.nn.Parameter]]:
        """What goes to the servers over the network: the gates alone."""
        yield from named_gates(self.model).items()

    def _cast_to_compute_dtype(self, tensor: torch.Tensor) -> torch.Tensor:
        """Gates stay float32, whatever the frozen weights are."""
        return tensor

    def _save_model_to_hf(self, path: str, tokenizer: Any, processor: Any) -> None:
        """What goes to the servers over the disk: the gates alone."""
        self._on_first_rank(lambda: gates_files.save_folder(self.model, None, Path(path)))

    def _save_to_dcp(self, path: str, with_optim: bool) -> None:
        optimizer = self.optimizer if with_optim else None
        self._on_first_rank(lambda: gates_files.save_folder(self.model, optimizer, Path(path)))

    def _load_model_from_hf(self, path: str) -> None:
        gates_files.load_folder(self.model, None, Path(path))

    def _load_from_dcp(self, path: str, with_optim: bool) -> None:
        gates_files.load_folder(self.model, self.optimizer if with_optim else None, Path(path))

    def _on_first_rank(self, save: Callable[[], None]) -> None:
        """Save once, and fail on every rank if it fails."""
        error: list[OSError | None] = [None]
        if dist.get_rank() == 0:
            try:
                save()
            except OSError as problem:
                error[0] = problem
        dist.broadcast_object_list(error, src=0, group=self.cpu_group)
        if error[0] is not None:
            raise error[0]


def _peak_memory() -> dict[str, float]:
    """What the forecast of memory can be held against, on a GPU."""
    if not torch.cuda.is_available():
        return {}
    return {"memory/peak_gib": torch.cuda.max_memory_allocated() / 2**30}
