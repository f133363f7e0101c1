"""What ``rlkv_tiny.yaml`` calls; lm_eval imports this file by its path."""

from __future__ import annotations

from typing import Any

from datasets import Dataset
from rlkv_eval.tasks import Example, get_task

TASK = "tiny"


def problems(level: str, n: int, seed: int, **_: Any) -> dict[str, Dataset]:
    """The problems that ``rlkv eval run --tasks tiny:LEVEL --n N --seed SEED`` asks.

    Args:
        level: of the task.
        n: how many.
        seed: of the draw.
    """
    examples = get_task(TASK).examples(level, "test", seed, n)
    rows = [{"id": e.id, "prompt": e.prompt, "answer": e.answer} for e in examples]
    return {"test": Dataset.from_list(rows)}


def grade(doc: dict[str, Any], results: list[str]) -> dict[str, float]:
    """The verdict of the project's grader on one response."""
    example = Example(doc["id"], doc["prompt"], doc["answer"])
    [verdict] = get_task(TASK).grade([example], results)
    return {"acc": float(verdict.correct)}
