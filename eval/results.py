"""Results: what the answers of one method at one sparsity come to."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from statistics import fmean
from typing import Any

from .config import FULL
from .failures import INCORRECT, OVERLONG, REPETITIVE, failure
from .methods import Step
from .metrics import pass_at_1
from .paired import Paired, paired
from .records import Sample


@dataclass(frozen=True)
class Result:
    """Figures of one method at one sparsity on one task.

    Attributes:
        task: label of the task.
        method: name of the method.
        sparsity: fraction of KV heads that stream.
        seed: of the draw, None for every method but random.
        budget: share of full's KV bytes that the method keeps to, None where the sparsity was asked for.
        num_problems: answered so far, each by at least one sample.
        num_answers: so far.
        finished: whether that is all of them.
        accuracy: share of right answers; with several samples a problem, the mean of the problems' shares
            (pass@1).
        standard_error: of the accuracy, from the spread over problems.
        low: lower bound of the accuracy's 95% interval.
        high: upper bound.
        mean_length: tokens of an answer.
        repetitive: share of answers that are wrong and that the task calls repetitive.
        overlong: share that are wrong, not repetitive, and cut off at the token limit.
        incorrect: share of all other wrong answers; the three and the accuracy make 1.
        unparsed: share of answers in which the grader found nothing to compare.
        kv_bytes: most bytes of KV that an answer held at any step, measured from the cache's tensors (mean
            over answers).
        kv_mean_bytes: the same, the mean over the steps in place of the most.
        kv_bytes_per_token: ``kv_bytes`` by the tokens of the sequences.
        kv_share: ``kv_bytes_per_token`` in terms of full's, None without full: the share of what the full
            cache would hold for the same sequences, so that answers that run away do not count as savings.
        file: of the answers, relative to the run folder.
        against_full: the paired comparison with full, None for full itself and without it.
        options: hyper-parameters (``folder.Entry``).
        schedule: of the budget (``folder.Entry``).
    """

    task: str
    method: str
    sparsity: float
    seed: int | None
    budget: float | None
    num_problems: int
    num_answers: int
    finished: bool
    accuracy: float
    standard_error: float
    low: float
    high: float
    mean_length: float
    repetitive: float
    overlong: float
    incorrect: float
    unparsed: float
    kv_bytes: float
    kv_mean_bytes: float
    kv_bytes_per_token: float
    kv_share: float | None
    file: str
    against_full: Paired | None = None
    options: dict[str, Any] | None = None
    schedule: str | None = None

    @property
    def level(self) -> float:
        """What the method was asked for: the budget, or else the sparsity."""
        return self.sparsity if self.budget is None else self.budget


Answered = tuple[Result, list[Sample]]
"""A result and the answers that it comes from."""


def summarise(
    task: str, step: Step, samples: Sequence[Sample], num_problems: int, draws: int, file: str
) -> Result:
    """The figures of at least one answer.

    Args:
        task: label of the task.
        step: of the answers.
        samples: those there are.
        num_problems: of the task, whether answered or not.
        draws: answers to each problem.
        file: of the answers, relative to the run folder.
    """
    by_problem: dict[int, list[bool]] = {}
    for sample in samples:
        by_problem.setdefault(sample.index // draws, []).append(sample.correct)
    estimate = pass_at_1(list(by_problem.values()))
    modes = [failure(sample) for sample in samples]
    return Result(
        task=task,
        method=step.method,
        sparsity=step.sparsity,
        seed=step.seed,
        budget=step.budget,
        num_problems=len(by_problem),
        num_answers=len(samples),
        finished=len(samples) == num_problems * draws,
        accuracy=estimate.accuracy,
        standard_error=estimate.standard_error,
        low=estimate.low,
        high=estimate.high,
        mean_length=fmean(sample.length for sample in samples),
        repetitive=modes.count(REPETITIVE) / len(samples),
        overlong=modes.count(OVERLONG) / len(samples),
        incorrect=modes.count(INCORRECT) / len(samples),
        unparsed=fmean(sample.extracted is None for sample in samples),
        kv_bytes=fmean(sample.kv_bytes for sample in samples),
        kv_mean_bytes=fmean(sample.kv_mean_bytes for sample in samples),
        kv_bytes_per_token=sum(s.kv_bytes for s in samples) / sum(s.cached_tokens for s in samples),
        kv_share=None,
        file=file,
    )


def with_shares(results: Sequence[Result]) -> list[Result]:
    """The same results with ``kv_share`` filled in, where full is among those of the same task."""
    full = {result.task: result.kv_bytes_per_token for result in results if result.method == FULL}
    return [
        replace(result, kv_share=result.kv_bytes_per_token / full[result.task])
        if result.task in full
        else result
        for result in results
    ]


def with_pairs(answers: Sequence[Answered], draws: int) -> list[Answered]:
    """The same results with ``against_full`` filled in, where full is among those of the same task."""
    full = {result.task: samples for result, samples in answers if result.method == FULL}
    return [
        (replace(result, against_full=paired(samples, full[result.task], draws)), samples)
        if result.method != FULL and result.task in full
        else (result, samples)
        for result, samples in answers
    ]
