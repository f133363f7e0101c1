"""The comparison: every method at every sparsity on the same problems, resumed where an earlier run ended."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from statistics import fmean
from typing import Any

from rlkv.errors import ConfigError
from rlkv.generation import CacheRecipe, HeadSplit, check_chat_template
from rlkv.heads import HeadsFile, ModelShape
from rlkv.window import Window

from .ablation import ablation_heads
from .answer import Answer, Answerer
from .checkpoint import Checkpoint, locate
from .config import ABLATION, FIXED, FULL, KVZIP_HEADS, TOKEN_DROPPERS, EvalConfig
from .engine import Engine
from .folder import (
    Entry,
    Run,
    create,
    keep_heads,
    keep_problems,
    read_results,
    read_run,
    result_path,
    write_run,
)
from .identity import identity, json_values, settings, task_settings
from .kvzip_heads import kvzip_heads
from .methods import Step, choose_window, load_heads, plan, streaming_heads
from .parts import Part
from .progress import Silent, Watcher
from .records import Sample, open_journal, read_journal
from .results import Result, summarise
from .rivals.budget import Budget, sparsity_of
from .rivals.recipe import Dropping, droppers
from .tasks import Example

SERVER_LOG = "server.log"


def evaluate(config: EvalConfig, watcher: Watcher | None = None) -> list[Result]:
    """Run a comparison and return the figures of its run folder, in the order of work.

    What the folder already holds under the same settings is not computed again, so calling this after a kill
    goes on where the kill came.

    Args:
        config: what to compare.
        watcher: told of the progress.

    Raises:
        RLKVError: a setting, file or model that cannot be used, or a disk that cannot be written.
    """
    return Comparison(config, watcher or Silent()).run()


class Comparison:
    """One call of ``evaluate``. Building it checks everything that can be checked without the weights."""

    def __init__(self, config: EvalConfig, watcher: Watcher) -> None:
        self.config = config
        self.watcher = watcher
        checkpoint = Checkpoint(locate(config.model))
        self.checkpoint = checkpoint
        self.engine = answerer(config, checkpoint)
        self.heads = load_heads(config, checkpoint.folder, checkpoint.model_config)
        self.window = choose_window(config, self.heads)
        self.shape = ModelShape.from_config(checkpoint.model_config, model_id=config.model)
        self.settings = settings(config, checkpoint.folder, self.engine.settings())
        self.tasks = {part.label: task_settings(config, part) for part in config.parts}
        self.droppers = droppers(config.method_options)
        self._full: dict[str, str] = {}  # files of full's answers, by task
        self._left_out: dict[str, ConfigError] = {}  # why, by what was to be done
        self.examples = {part.label: _examples(config, part) for part in config.parts}
        check_chat_template(checkpoint.tokenizer)

    def run(self) -> list[Result]:
        """Answer what is missing; returns the figures."""
        create(self.config.out)
        for label, examples in self.examples.items():
            keep_problems(self.config.out, label, examples)
        try:
            self._answer_all(plan(self.config))
        finally:
            self.engine.close()
        return read_results(self.config.out, read_run(self.config.out))

    def _answer_all(self, steps: list[Step]) -> None:
        answers = len(steps) * self.config.samples * sum(map(len, self.examples.values()))
        titles = [self._title(part, step) for step in steps for part in self.config.parts]
        self.watcher.planned(answers, titles)
        entries: list[Entry] = []
        for planned in steps:  # outside, because a server with another cache takes its time to start
            for part in self.config.parts:
                step = self._feasible(part, planned)
                if step is None:
                    continue
                recipe = self.recipe(part, step)
                entries.append(self._entry(part, step, recipe))
                self._publish(entries)
                self._answer(part, step, recipe, entries[-1].file)
                if step.method == FULL:
                    self._full[part.label] = entries[-1].file
        if self._left_out and all(entry.method == FULL for entry in entries):
            raise next(iter(self._left_out.values()))

    def _feasible(self, part: Part, planned: Step) -> Step | None:
        """The step at its budget; None, with a warning, where the method cannot keep to it on the task."""
        try:
            return self.at_budget(part, planned)
        except ConfigError as error:
            title = self._title(part, replace(planned, seed=None))  # one warning for all draws
            if title not in self._left_out:
                print(f"warning: {title} is left out: {error}", file=sys.stderr)
            self._left_out[title] = error
            self.watcher.skipped(len(self.examples[part.label]) * self.config.samples)
            return None

    def at_budget(self, part: Part, step: Step) -> Step:
        """The step with the sparsity that its budget asks for on a task, once full has answered it.

        Raises:
            ConfigError: all heads streaming hold more than the budget.
        """
        if step.budget is None or step.method in TOKEN_DROPPERS:
            return step
        heads = self.shape.num_layers * self.shape.num_kv_heads
        length = self._full_length(part)
        return replace(step, sparsity=sparsity_of(step.budget, heads, length, self._known_window()))

    def _full_length(self, part: Part) -> float:
        """Mean tokens that the full cache held at the end of an answer."""
        _, samples = read_journal(self.config.out / self._full[part.label])
        return fmean(sample.cached_tokens for sample in samples)

    def recipe(self, part: Part, step: Step) -> CacheRecipe | None:
        """The cache of a step on a task, None for the stock one."""
        if step.method in TOKEN_DROPPERS:
            assert step.budget is not None, "EvalConfig refuses token droppers without budgets"
            fixed = self.config.budget_schedule == FIXED
            budget = Budget(step.budget, round(self._full_length(part)) if fixed else 0)
            return Dropping(step.method, self.droppers[step.method], budget)
        return self.split(step)

    def split(self, step: Step) -> HeadSplit | None:
        """The heads that stream in a step; some methods rank them first, on the first task's problems."""
        if step.method in (ABLATION, KVZIP_HEADS) and step.method not in self.heads:
            self.heads[step.method] = self._rank(step.method)
        streaming = streaming_heads(step, self.shape, self.heads)
        return None if streaming is None else HeadSplit(streaming, self._known_window())

    def _rank(self, method: str) -> HeadsFile:
        if isinstance(self.engine, Engine):
            return self._rank_with(self.engine, method)
        self.engine.close()  # one device has no room for a server and the model beside it
        with closing(Engine(self.config, self.checkpoint)) as engine:
            return self._rank_with(engine, method)

    def _rank_with(self, engine: Engine, method: str) -> HeadsFile:
        part, window = self.config.parts[0], self._known_window()
        settings = self.settings | self.tasks[part.label] | {"engine": engine.settings()}
        if method == ABLATION:
            return ablation_heads(self.config, part, engine, window, settings, self.watcher)
        return kvzip_heads(self.config, part, engine, window, settings)

    def _entry(self, part: Part, step: Step, recipe: CacheRecipe | None) -> Entry:
        """A step's place in the run folder."""
        own = self.heads.get(step.method)
        heads = keep_heads(self.config.out, step.method, own) if own else None
        path = result_path(part.label, step.name, step.level, self._identity(part, recipe))
        entry = Entry(part.label, step.method, step.sparsity, step.seed, path, heads, step.budget)
        if not isinstance(recipe, Dropping):
            return entry
        return replace(entry, options=json_values(recipe.method), schedule=self.config.budget_schedule)

    def _identity(self, part: Part, recipe: CacheRecipe | None) -> dict[str, Any]:
        return identity(self.settings, self.tasks[part.label], recipe)

    def _publish(self, entries: list[Entry]) -> None:
        window = None if self.window is None else str(self.window)
        write_run(self.config.out, Run(self.config.model, window, self.settings, self.tasks, list(entries)))

    def _answer(self, part: Part, step: Step, recipe: CacheRecipe | None, file: str) -> None:
        """Bring the file of a step to its full number of answers."""
        num_problems, draws = len(self.examples[part.label]), self.config.samples
        count, path = num_problems * draws, self.config.out / file
        with open_journal(path, self._identity(part, recipe), count, self.engine.unit) as journal:
            title = self._title(part, step)
            self.watcher.started(title, count, len(journal.samples))
            done = {sample.index for sample in journal.samples}
            for samples in self._samples(part, recipe, done):
                journal.append(samples)
                self.watcher.advanced(len(samples))
            figures = summarise(part.label, step, journal.samples, num_problems, draws, file)
            self.watcher.finished(title, figures)

    def _title(self, part: Part, step: Step) -> str:
        return str(step) if len(self.config.parts) == 1 else f"{part.label} {step}"

    def _samples(self, part: Part, recipe: CacheRecipe | None, done: set[int]) -> Iterator[list[Sample]]:
        """The graded answers that are missing, some at a time."""
        examples = [example for example in self.examples[part.label] for _ in range(self.config.samples)]
        prompts = [example.prompt for example in examples]
        for answers in self.engine.answer(prompts, recipe, self.config.token_limit(part), done):
            yield self._grade(part, [examples[answer.index] for answer in answers], answers)

    def _grade(self, part: Part, examples: list[Example], answers: list[Answer]) -> list[Sample]:
        texts = [answer.text for answer in answers]
        verdicts = part.task.grade(examples, texts, thinking=self.config.thinking)
        rows = zip(examples, answers, verdicts, strict=True)
        return [
            Sample(
                index=answer.index,
                id=example.id,
                text=answer.text,
                extracted=verdict.extracted,
                correct=verdict.correct,
                reason=verdict.reason,
                prompt_length=answer.prompt_length,
                length=len(answer.token_ids),
                finish_reason=answer.finish_reason,
                repetitive=part.task.repetition.holds(answer.token_ids),
                seed=answer.seed,
                kv_bytes=answer.kv_bytes,
                kv_mean_bytes=answer.kv_mean_bytes,
                cached_tokens=answer.cached_tokens,
            )
            for example, answer, verdict in rows
        ]

    def _known_window(self) -> Window:
        assert self.window is not None, "choose_window gives one wherever heads stream"
        return self.window


def answerer(config: EvalConfig, checkpoint: Checkpoint) -> Answerer:
    """What the comparison asks: the model in process, or a server.

    Raises:
        ConfigError: more than one cache is asked of one running server.
    """
    if config.serve:
        from .served.engine import OwnServer

        return OwnServer(config, checkpoint, config.out / SERVER_LOG)
    if config.endpoint is None:
        return Engine(config, checkpoint)
    steps = plan(config)
    if len(steps) > 1:
        raise ConfigError(
            f"endpoint: {len(steps)} caches are compared ({steps[0]}, {steps[1]}, ...), expected the one "
            "that the server has; --serve starts one server after another"
        )
    from .served.engine import RunningServer

    return RunningServer(config, checkpoint, config.endpoint)


def _examples(config: EvalConfig, part: Part) -> list[Example]:
    """The problems of a task.

    Raises:
        ConfigError: there are fewer than asked for.
    """
    wanted = config.num_problems(part)
    examples = part.task.examples(part.level, config.split, config.seed, wanted)
    if len(examples) < wanted:
        raise ConfigError(
            f"n is {wanted}, expected at most {len(examples)}: {part.label} has no more in {config.split}"
        )
    return examples
