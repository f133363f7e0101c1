"""Train the tiny reasoner from scratch on generated problems (scripts/train_tiny-reasoner.sh).

Two phases: dense attention, then a shorter one with streaming dropout.
"""

from __future__ import annotations

from argparse import ArgumentParser
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from random import Random
from typing import cast

import torch
from torch.utils.data import DataLoader, IterableDataset, get_worker_info
from transformers import (
    PreTrainedModel,
    PreTrainedTokenizerFast,
    Qwen3Config,
    Qwen3ForCausalLM,
    Trainer,
    TrainingArguments,
)

from rlkv.tiny.problems import TINY_WINDOW, Problem, generate
from rlkv.tiny.streaming_dropout import StreamingDropout
from rlkv.tiny.tokenizer import END_OF_TURN, build_tokenizer

# Level → share of the batches, and the length every sequence is padded to: a batch holds one level, so that
# its shape is one of four and each is compiled once.
MIXTURE = {"easy": (0.1, 192), "medium": (0.45, 400), "hard": (0.25, 640), "expert": (0.2, 1024)}
IGNORED = -100


def tiny_config(vocab_size: int) -> Qwen3Config:
    """Shape of the model; head_dim is 64 because FlashInfer has no kernels for less."""
    return Qwen3Config(
        vocab_size=vocab_size,
        hidden_size=256,
        intermediate_size=384,
        num_hidden_layers=8,
        num_attention_heads=12,
        num_key_value_heads=6,
        head_dim=64,
        max_position_embeddings=2048,
        tie_word_embeddings=True,
        dtype="float32",
    )


class ProblemBatches(IterableDataset):
    """Endless batches of one level each, with the loss on the solution only.

    Yields dicts of int64 [B, T] ``input_ids`` and ``labels``; B is set so that B * T is ``batch_tokens``.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerFast, batch_tokens: int, seed: int) -> None:
        self.tokenizer = tokenizer
        self.batch_tokens = batch_tokens
        self.seed = seed

    def __iter__(self) -> Iterator[dict[str, torch.Tensor]]:
        worker = get_worker_info()
        seed = self.seed * 1000 + (worker.id if worker else 0)
        rng = Random(seed)
        problems = {level: generate(level, "train", seed) for level in MIXTURE}
        shares = [share for share, _ in MIXTURE.values()]
        while True:
            level = rng.choices(list(MIXTURE), weights=shares)[0]
            length = MIXTURE[level][1]
            yield self.collate(list(islice(problems[level], self.batch_tokens // length)), length)

    def collate(self, problems: list[Problem], length: int) -> dict[str, torch.Tensor]:
        """Tokenise and pad on the right to ``length``."""
        conversations = [[{"role": "user", "content": p.prompt}] for p in problems]
        prompts = self.tokenizer.apply_chat_template(
            conversations, add_generation_prompt=True, tokenize=False
        )
        prompt_ids = self.tokenizer(prompts)["input_ids"]
        solution_ids = self.tokenizer([p.solution + END_OF_TURN for p in problems])["input_ids"]
        input_ids = torch.full((len(problems), length), self.tokenizer.pad_token_id)
        labels = torch.full_like(input_ids, IGNORED)
        for row, (prompt, solution) in enumerate(zip(prompt_ids, solution_ids, strict=True)):
            end = len(prompt) + len(solution)
            input_ids[row, :end] = torch.tensor(prompt + solution)
            labels[row, len(prompt) : end] = torch.tensor(solution)
        return {"input_ids": input_ids, "labels": labels}


class TinyTrainer(Trainer):
    """Hugging Face's trainer over batches that are already formed."""

    def get_train_dataloader(self) -> DataLoader:
        workers = self.args.dataloader_num_workers
        return DataLoader(
            cast(IterableDataset, self.train_dataset),
            batch_size=None,
            num_workers=workers,
            prefetch_factor=8 if workers else None,
            pin_memory=torch.cuda.is_available(),
        )


@dataclass(frozen=True)
class Phase:
    """One stretch of training with a schedule of its own.

    Attributes:
        steps: optimiser steps.
        batch_tokens: tokens of a step.
        learning_rate: highest of its cosine schedule.
        seed: of problems and dropout.
        max_streaming_share: of ``StreamingDropout``, 0 for none.
    """

    steps: int
    batch_tokens: int
    learning_rate: float
    seed: int
    max_streaming_share: float = 0.0


def new_model(tokenizer: PreTrainedTokenizerFast, seed: int) -> Qwen3ForCausalLM:
    """The tiny reasoner's shape with random weights."""
    torch.manual_seed(seed)
    model = Qwen3ForCausalLM(tiny_config(len(tokenizer)))
    model.config.eos_token_id = model.generation_config.eos_token_id = tokenizer.eos_token_id
    model.config.pad_token_id = model.generation_config.pad_token_id = tokenizer.pad_token_id
    return model


def run_phase(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, phase: Phase, out: Path, workers: int
) -> None:
    """Train ``model`` in place; logs go to ``out``."""
    cuda = torch.cuda.is_available()
    arguments = TrainingArguments(
        output_dir=str(out / "checkpoints"),
        max_steps=phase.steps,
        learning_rate=phase.learning_rate,
        lr_scheduler_type="cosine",
        warmup_steps=min(200, phase.steps // 10),
        weight_decay=0.1,
        adam_beta2=0.95,
        max_grad_norm=1.0,
        bf16=cuda,
        use_cpu=not cuda,
        optim="adamw_torch_fused",
        dataloader_num_workers=workers,
        logging_steps=50,
        save_strategy="no",
        report_to="tensorboard",
        logging_dir=str(out / "logs"),
        seed=phase.seed,
        accelerator_config={"dispatch_batches": False},
    )
    if cuda:
        for layer in model.model.layers:
            layer.compile(dynamic=False)
    data = ProblemBatches(tokenizer, phase.batch_tokens, phase.seed)
    if not phase.max_streaming_share:
        TinyTrainer(model, arguments, train_dataset=data).train()
        return
    dropout = StreamingDropout(model, TINY_WINDOW, phase.max_streaming_share, phase.seed)
    TinyTrainer(model, arguments, train_dataset=data, callbacks=[dropout]).train()
    dropout.close()


def write_model(model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, out: Path) -> None:
    """Write a Hugging Face folder with weights in bf16."""
    model.config.use_cache = True
    model.bfloat16().save_pretrained(out)
    tokenizer.save_pretrained(out)


def pretrain(
    out: Path,
    start: Path | None,
    steps: int,
    batch_tokens: int,
    dropout_steps: int,
    dropout_batch_tokens: int,
    max_streaming_share: float,
    seed: int,
    workers: int,
) -> None:
    """Train in two phases, dense and then with streaming dropout, and write the model to ``out``."""
    torch.set_float32_matmul_precision("high")
    tokenizer = build_tokenizer()
    if start is None:
        model = new_model(tokenizer, seed)
        run_phase(model, tokenizer, Phase(steps, batch_tokens, 1e-3, seed), out, workers)
        write_model(model, tokenizer, out / "dense")
        start = out / "dense"
    if not dropout_steps:
        return
    model = Qwen3ForCausalLM.from_pretrained(start, dtype=torch.float32)
    phase = Phase(dropout_steps, dropout_batch_tokens, 5e-4, seed + 1, max_streaming_share)
    run_phase(model, tokenizer, phase, out, workers)
    write_model(model, tokenizer, out)


def main() -> None:
    """Command line of ``scripts/train_tiny-reasoner.sh``."""
    parser = ArgumentParser(description=__doc__)
    add = parser.add_argument
    add("--out", type=Path, required=True, help="folder for the model")
    add("--start", type=Path, help="dense model to go on from, instead of training one")
    add("--steps", type=int, default=2600, help="dense steps (default: %(default)s)")
    add("--batch-tokens", type=int, default=131_072, help="tokens of a dense step (default: %(default)s)")
    add("--dropout-steps", type=int, default=700, help="steps with dropout (default: %(default)s)")
    add(
        "--dropout-batch-tokens",
        type=int,
        default=65_536,
        help="tokens of a step with dropout (default: %(default)s)",
    )
    add(
        "--max-streaming-share",
        type=float,
        default=0.1,
        help="highest share of heads that dropout lets stream (default: %(default)s)",
    )
    add("--seed", type=int, default=0, help="of weights, problems and dropout (default: %(default)s)")
    add("--workers", type=int, default=12, help="processes that make problems (default: %(default)s)")
    arguments = parser.parse_args()
    pretrain(**vars(arguments))


if __name__ == "__main__":
    main()
