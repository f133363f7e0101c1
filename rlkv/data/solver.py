"""Solve problems with a transformers model, greedily, and grade the answers."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rlkv.data.buckets import Sample
from rlkv.data.responses import Response, ResponseGrader
from rlkv.data.sampling import Attempts
from rlkv.data.source import Problem
from rlkv.generation import check_chat_template
from rlkv.loading import loading

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

FINGERPRINT_BYTES = 1 << 20


class ModelSolver:
    """A ``rlkv.data.sampling.Solver`` in this process; loads the model at the first batch.

    Args:
        model: what ``from_pretrained`` takes (``rlkv.models.resolve_model``).
        revision: of a model on the hub.
        max_new_tokens: responses that do not end by then are not solutions.
        thinking: the answer stands after ``</think>`` (``rlkv.grading.grade``).
        batch_size: problems solved at once.
    """

    def __init__(
        self, model: str, revision: str | None, max_new_tokens: int, thinking: bool, batch_size: int = 32
    ) -> None:
        self.model = model
        self.revision = revision
        self.max_new_tokens = max_new_tokens
        self.batch_size = batch_size
        self._grader = ResponseGrader(thinking)
        self._loaded: tuple[PreTrainedModel, PreTrainedTokenizerBase] | None = None

    def __call__(self, problems: Iterator[tuple[int, Problem]]) -> Attempts:
        while batch := list(islice(problems, self.batch_size)):
            numbers, asked = zip(*batch, strict=True)
            yield list(zip(numbers, self.solve(asked), strict=True))

    def solve(self, problems: Sequence[Problem]) -> list[Sample | None]:
        """Attempts at one batch, None where the model failed."""
        from rlkv.generation import chat_prompt, generate_batched

        self._loaded = self._loaded or load_model(self.model, self.revision)
        model, tokenizer = self._loaded
        prompts = [chat_prompt(tokenizer, problem.prompt) for problem in problems]
        batches = generate_batched(
            model, tokenizer, prompts, max_new_tokens=self.max_new_tokens, batch_size=len(prompts)
        )
        completions = [completion for batch in batches for completion in batch]
        responses = [Response(c.text, len(c.token_ids), c.finish_reason) for c in completions]
        return self._grader.samples(problems, responses)


def load_model(model: str, revision: str | None) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """The model, on the GPU if there is one, and its tokenizer.

    Raises:
        ConfigError: either cannot be loaded, or the tokenizer has no chat template.
    """
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    cuda = torch.cuda.is_available()
    with loading(model):
        tokenizer = AutoTokenizer.from_pretrained(model, revision=revision)
        loaded: Any = AutoModelForCausalLM.from_pretrained(
            model, revision=revision, dtype="auto" if cuda else torch.float32
        )
    check_chat_template(tokenizer)
    tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token
    return loaded.to("cuda" if cuda else "cpu").eval(), tokenizer


def fingerprint(model: str) -> str | None:
    """Short hash that tells a local model folder from another state of it; None for a hub id.

    Of each weight file its name, size and beginning enter: hashing all of a large model takes minutes.
    """
    folder = Path(model)
    if not folder.is_dir():
        return None
    digest = hashlib.sha256()
    for path in [folder / "config.json", *sorted(folder.glob("*.safetensors"))]:
        if path.is_file():
            digest.update(f"{path.name} {path.stat().st_size}\n".encode())
            with path.open("rb") as file:
                digest.update(file.read(FINGERPRINT_BYTES))
    return digest.hexdigest()[:16]
