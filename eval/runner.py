"""The comparison: every method at every sparsity on the same problems, resumed where an earlier run ended."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from rlkv.errors import ConfigError
from rlkv.generation import Completion, HeadSplit
from rlkv.heads import ModelShape
from rlkv.window import Window

from .ablation import ablation_heads
from .config import ABLATION, EvalConfig
from .engine import Engine, choose_device, locate
from .folder import Entry, Run, create, keep_heads, read_results, read_run, result_path, write_run
from .identity import identity, settings
from .methods import Step, choose_window, load_heads, plan, streaming_heads
from .progress import Silent, Watcher
from .records import Sample, open_journal
from .results import Result, summarise
from .tasks import Example, get_task


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
        self.task = get_task(config.task)
        self.engine = Engine(config, locate(config.model), choose_device(config.device))
        self.heads = load_heads(config, self.engine.folder, self.engine.model_config)
        self.window = choose_window(config, self.heads)
        self.shape = ModelShape.from_config(self.engine.model_config, model_id=config.model)
        self.settings = settings(config, self.engine.folder, self.engine.device)
        self.examples = self.task.examples(
            config.problem_level, config.split, config.seed, config.num_problems
        )
        if len(self.examples) < config.num_problems:
            raise ConfigError(
                f"num_problems is {config.num_problems}, expected at most {len(self.examples)}: "
                f"{config.task}/{config.problem_level} has no more in {config.split}"
            )

    def run(self) -> list[Result]:
        """Answer what is missing; returns the figures."""
        create(self.config.out)
        steps = plan(self.config)
        self.watcher.planned(len(steps), self.config.num_problems)
        entries: list[Entry] = []
        for step in steps:
            entry, split = self._prepare(step)
            entries.append(entry)
            self._publish(entries)
            self._answer(step, split, self.config.out / entry.file)
        return read_results(self.config.out, read_run(self.config.out))

    def _prepare(self, step: Step) -> tuple[Entry, HeadSplit | None]:
        """A step's place in the run folder and the heads that stream."""
        if step.method == ABLATION and ABLATION not in self.heads:
            window = self._known_window()
            self.heads[ABLATION] = ablation_heads(
                self.config, self.engine, window, self.settings, self.watcher
            )
        streaming = streaming_heads(step, self.shape, self.heads)
        split = None if streaming is None else HeadSplit(streaming, self._known_window())
        own = self.heads.get(step.method)
        heads = keep_heads(self.config.out, step.method, own) if own else None
        path = result_path(step.name, step.sparsity, identity(self.settings, split))
        return Entry(step.method, step.sparsity, step.seed, path, heads), split

    def _publish(self, entries: list[Entry]) -> None:
        window = None if self.window is None else str(self.window)
        write_run(self.config.out, Run(self.config.model, window, self.settings, list(entries)))

    def _answer(self, step: Step, split: HeadSplit | None, path: Path) -> None:
        """Bring the file of a step to its full number of answers."""
        count = len(self.examples)
        with open_journal(path, identity(self.settings, split), self.config.batch_size) as journal:
            self.watcher.started(step, len(journal.samples))
            for samples in self._samples(split, len(journal.samples)):
                journal.append(samples)
                self.watcher.advanced(len(samples))
            file = str(path.relative_to(self.config.out))
            self.watcher.finished(summarise(step, journal.samples, count, file))

    def _samples(self, split: HeadSplit | None, begin: int) -> Iterator[list[Sample]]:
        if begin == len(self.examples):
            return  # nothing to do, and no reason to load the model
        prompts = [example.prompt for example in self.examples]
        for completions in self.engine.answer(prompts, split, begin):
            batch = self.examples[begin : begin + len(completions)]
            yield self._grade(begin, batch, completions)
            begin += len(completions)

    def _grade(self, begin: int, examples: list[Example], completions: list[Completion]) -> list[Sample]:
        verdicts = self.task.grade(examples, [c.text for c in completions])
        # Every row of a batch caches the longest prompt and all of the longest answer but its last token.
        longest_prompt = max(len(self.engine.prompt_ids(example.prompt)) for example in examples)
        cached = longest_prompt + max(len(c.token_ids) for c in completions) - 1
        rows = zip(examples, completions, verdicts, strict=True)
        return [
            Sample(
                index=begin + offset,
                id=example.id,
                text=completion.text,
                extracted=verdict.extracted,
                correct=verdict.correct,
                reason=verdict.reason,
                length=len(completion.token_ids),
                finish_reason=completion.finish_reason,
                repetitive=self.task.repetition.holds(completion.token_ids),
                kv_bytes=completion.kv_bytes,
                cached_tokens=cached,
            )
            for offset, (example, completion, verdict) in enumerate(rows)
        ]

    def _known_window(self) -> Window:
        assert self.window is not None, "choose_window gives one wherever heads stream"
        return self.window
