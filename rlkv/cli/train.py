"""``rlkv train``: find the heads of a model by reinforcement learning or by distillation."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Any

import typer

from rlkv.cli.options import given, with_options_of
from rlkv.train import config as grpo
from rlkv.train.duo import config as duo

app = typer.Typer(
    help="Find the heads of a model by reinforcement learning, or by distillation.",
    add_completion=False,
    rich_markup_mode="markdown",
)


class Method(StrEnum):
    """How the heads are found."""

    GRPO = "grpo"
    """Reinforcement learning: the heads without which the model reasons wrongly (RLKV)."""
    DUO = "duo"
    """Distillation: the heads without which it retrieves wrongly (DuoAttention)."""


PRESETS = {Method.GRPO: grpo.PRESETS, Method.DUO: duo.PRESETS}
LISTED = "; ".join(f"{method}: {', '.join(names)}" for method, names in PRESETS.items())


@app.command(no_args_is_help=True)
@with_options_of(grpo=grpo.TrainConfig, duo=duo.DuoConfig)
def train(
    method: Annotated[Method, typer.Option(help="How the heads are found.")] = Method.GRPO,
    preset: Annotated[
        str, typer.Option(help=f"Settings to start from ({LISTED}); options below change them.")
    ] = "paper",
    dry_run: Annotated[
        bool,
        typer.Option(
            "--dry-run", help="Check the settings without weights or data, say what grpo will need, and stop."
        ),
    ] = False,
    **options: Any,
) -> None:
    """Train one gate per KV head and write heads.json.

    The model stays as it is. Every head computes full and streaming attention and mixes them by its gate.
    With grpo, rewards for right answers hold the gates of heads that need the whole history while a penalty
    pulls all gates down; the defaults are the paper's (arXiv 2510.08525). With duo, the hidden states that
    repeat passkeys hidden in a long text hold them instead (DuoAttention, arXiv 2410.10819); DeepSpeed ZeRO
    shards the frozen model over the GPUs of torchrun.

    Interrupted? The same command continues from the last checkpoint. Logs are TensorBoard's, in the run's
    folder: reward, gate/mean, gate/sparsity_at_0.5, completions/mean_length, penalty_weight, distillation.

    Try it without a GPU:

    `rlkv data tiny-reasoner --source tiny --levels easy --buckets 64:0-80,64:80-140 --out runs/tiny-data`

    `rlkv train --preset demo --data runs/tiny-data --out runs/tiny-heads`

    `rlkv train --method duo --preset tiny --out runs/tiny-duo`
    """
    if method is Method.DUO:
        _run_duo(duo.from_preset(preset, **given(options)), dry_run)
    else:
        _run_grpo(grpo.from_preset(preset, **given(options)), dry_run)


def _run_duo(config: duo.DuoConfig, dry_run: bool) -> None:
    from rlkv.train.duo.run import check, train

    if dry_run:
        check(config)
    else:
        typer.echo(f"wrote {train(config)}")


def _run_grpo(config: grpo.TrainConfig, dry_run: bool) -> None:
    from rlkv.train.run import check, train

    typer.echo(check(config) if dry_run else f"wrote {train(config)}")
