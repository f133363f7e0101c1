#!/usr/bin/env python3
"""What gpu_training.sh trains on: problems of the tiny reasoner, a large model with random weights."""

from __future__ import annotations

from itertools import islice
from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(help=__doc__, add_completion=False)


@app.command()
def data(
    folder: Path,
    level: Annotated[str, typer.Option(help="easy, medium, hard or expert.")] = "medium",
    problems: Annotated[int, typer.Option(help="How many.")] = 2400,
) -> None:
    """Write training data that nobody has solved before: for measuring time, not for finding gates."""
    from datasets import Dataset

    from rlkv.tiny.problems import generate

    drawn = list(islice(generate(level, "train", seed=0), problems))
    columns = {"prompt": [one.prompt for one in drawn], "answer": [one.answer for one in drawn]}
    Dataset.from_dict({**columns, "response_length": [0] * problems, "bucket": [0] * problems}).save_to_disk(
        folder
    )


@app.command()
def model(folder: Path) -> None:
    """Write Qwen3-4B's shape with random weights and the tiny reasoner's tokenizer."""
    import torch
    from bench_rollouts import SHAPES
    from transformers import AutoModelForCausalLM, AutoTokenizer, Qwen3Config

    from rlkv.models import MODELS_FOLDER

    tokenizer = AutoTokenizer.from_pretrained(MODELS_FOLDER / "tiny-reasoner")
    ends = {"eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id}
    config = Qwen3Config(**SHAPES["qwen3-4b"], **ends)
    with torch.device("cuda" if torch.cuda.is_available() else "cpu"):
        made = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
    made.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


if __name__ == "__main__":
    app()
