"""A rollout whose reward is the project's one grader."""

from __future__ import annotations

import asyncio
from typing import Any

from areal import workflow_context
from areal.api import ModelResponse
from areal.utils import stats_tracker
from areal.workflow.rlvr import RLVRWorkflow

from rlkv.data.dataset import GRADING_COLUMNS
from rlkv.grading import MATH, grade_batch


def reward(text: str, answer: str, grader: str = MATH, thinking: bool = True) -> float:
    """1 for a response whose final answer is right, else 0; the grader's time limit holds here too."""
    [verdict] = grade_batch([text], [answer], kinds=grader, thinking=thinking)
    return float(verdict.correct)


class GradedWorkflow(RLVRWorkflow):
    """AReaL's single-turn workflow on rows with ``messages`` and ``rlkv.data.dataset.GRADING_COLUMNS``.

    AReaL would grade in a pool of processes with a time limit for each; the grader has a process and a limit
    of its own. A response that was cut earns nothing.
    """

    async def _compute_rewards(
        self, resp: ModelResponse, prompt_str: str, task_data: dict[str, Any]
    ) -> float:
        cut = resp.stop_reason == "length"
        scope = stats_tracker.get(workflow_context.stat_scope())
        scope.scalar(cut=float(cut), response_tokens=float(resp.output_len))
        if cut:
            return 0.0
        text = self.tokenizer.decode(resp.output_tokens, skip_special_tokens=True)
        grading = {name: task_data[name] for name in GRADING_COLUMNS if name in task_data}
        return await asyncio.to_thread(reward, text, **grading)
