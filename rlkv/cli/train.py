"""``rlkv train``: find the heads of a model by reinforcement learning, in this process."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from rlkv.cli.options import given, with_options_of
from rlkv.train.config import PRESETS, TrainConfig, from_preset

app = typer.Typer(
    help="Find the heads of a model by reinforcement learning.",
    add_completion=False,
    rich_markup_mode="markdown",
)


@app.command(no_args_is_help=True)
@with_options_of(TrainConfig)
def train(
    preset: Annotated[
        str, typer.Option(help=f"Settings to start from: {', '.join(PRESETS)}; options below change them.")
    ] = "paper",
    **options: Any,
) -> None:
    """Train one gate per KV head and write heads.json.

    The model stays as it is. Every head computes full and streaming attention and mixes them by its gate;
    GRPO rewards right answers while a penalty pulls the gates down, so the gates that stay high belong to
    the heads that need the whole history. The defaults below are the paper's (arXiv 2510.08525).

    Interrupted? The same command continues from the last checkpoint. Logs are TensorBoard's, in the run's
    folder: reward, gate/mean, gate/sparsity_at_0.5, completions/mean_length, penalty_weight.

    Try it without a GPU:

    `rlkv data tiny-reasoner --source tiny --levels easy --buckets 64:0-80,64:80-140 --out runs/tiny-data`

    `rlkv train --preset demo --data runs/tiny-data --out runs/tiny-heads`
    """
    config = from_preset(preset, **given(options))
    from rlkv.train.run import train as run

    typer.echo(f"wrote {run(config)}")
