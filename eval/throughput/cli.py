"""``rlkv eval throughput``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from rlkv.errors import ConfigError

from .config import ThroughputConfig, shape_folder
from .launch import split_flags

DEFAULTS = ThroughputConfig

TABLE_WIDTH = 140
"""Columns that the table needs in a log."""


def throughput(
    *,
    out: Annotated[Path, typer.Option(help="Run folder; a run that was stopped goes on there.")],
    model: Annotated[str | None, typer.Option(help="Shipped model, folder, or name on the hub.")] = None,
    shape: Annotated[
        str | None,
        typer.Option(
            help="In place of --model: the shape of a real model with random weights, llama-3.1-8b."
        ),
    ] = None,
    heads: Annotated[str, typer.Option(help="Heads file: a path, or the name of a shipped one.")],
    sparsities: Annotated[
        str, typer.Option(help="Fractions of KV heads that stream, after a comma.")
    ] = "0.5",
    cases: Annotated[
        str,
        typer.Option(
            help="memory: MATH-500 replay in equal memory; concurrency: equal requests; prefix: requests "
            "behind a shared prompt."
        ),
    ] = ",".join(DEFAULTS.cases),
    requests: Annotated[int, typer.Option(help="Requests of the replay.")] = DEFAULTS.requests,
    length_scale: Annotated[
        float, typer.Option(help="New tokens of the replay, times this; for models of short context.")
    ] = DEFAULTS.length_scale,
    kv_tokens: Annotated[
        int, typer.Option(help="Equal memory: that of so many tokens of the full cache; 0 is all there is.")
    ] = DEFAULTS.kv_tokens,
    concurrency: Annotated[int, typer.Option(help="Requests of equal concurrency.")] = DEFAULTS.concurrency,
    prompt_tokens: Annotated[int, typer.Option(help="Their prompt.")] = DEFAULTS.prompt_tokens,
    output_tokens: Annotated[int, typer.Option(help="Their new tokens.")] = DEFAULTS.output_tokens,
    sharing: Annotated[int, typer.Option(help="Requests that share a prefix.")] = DEFAULTS.sharing,
    shared_tokens: Annotated[
        int, typer.Option(help="Tokens of that prefix, which the server has in its prefix cache.")
    ] = DEFAULTS.shared_tokens,
    own_tokens: Annotated[int, typer.Option(help="Tokens of each prompt behind it.")] = DEFAULTS.own_tokens,
    chunked_prefill_size: Annotated[
        int, typer.Option(help="SGLang's, for all servers.")
    ] = DEFAULTS.chunked_prefill_size,
    bandwidth: Annotated[
        float, typer.Option(help="Memory bandwidth in GB/s, measured; 4,300 is a copy on one H200.")
    ] = DEFAULTS.bandwidth,
    seed: Annotated[int, typer.Option(help="Of prompts and of the order of lengths.")] = DEFAULTS.seed,
    server_flags: Annotated[
        str, typer.Option(metavar="'FLAGS'", help="More flags of SGLang for every server.")
    ] = "",
    running: Annotated[
        list[str] | None,
        typer.Option(metavar="ARM=URL", help="Servers that run: full=URL, 0.5=URL. None is started then."),
    ] = None,
) -> None:
    """Measure tokens a second of the stock server and of the hybrid cache, beside what bandwidth allows.

    Requests are token ids and end by count, so neither a tokenizer nor real weights are needed.

    Example: rlkv eval throughput --shape llama-3.1-8b --heads heads.json --sparsities 0.5,0.6 --out runs/x
    """
    if (model is None) == (shape is None):
        raise ConfigError("--model and --shape: found both or none, expected one of them")
    config = ThroughputConfig(
        out=out,
        model=model if model is not None else str(shape_folder(shape or "")),
        dummy_weights=shape is not None,
        heads=heads,
        sparsities=_numbers(sparsities),
        cases=tuple(case.strip() for case in cases.split(",")),
        requests=requests,
        length_scale=length_scale,
        kv_tokens=kv_tokens,
        concurrency=concurrency,
        prompt_tokens=prompt_tokens,
        output_tokens=output_tokens,
        sharing=sharing,
        shared_tokens=shared_tokens,
        own_tokens=own_tokens,
        chunked_prefill_size=chunked_prefill_size,
        bandwidth=bandwidth,
        seed=seed,
        server_flags=tuple(split_flags(server_flags)),
        running=_running(running or []),
    )
    # Imported once the options are known to be good: torch and transformers take seconds.
    from rich.console import Console

    from .progress import Progress
    from .report import report
    from .run import measure

    console = Console(highlight=False)
    if not console.is_terminal:
        console.width = TABLE_WIDTH
    measure(config, Progress(console))
    for table in report(config):
        console.print()
        console.print(table)
    console.print(f"\nfigures and picture: {out}", highlight=False, markup=False)


def _running(texts: list[str]) -> dict[str, str]:
    servers: dict[str, str] = {}
    for text in texts:
        arm, equals, url = text.partition("=")
        if not (arm and equals and url.startswith("http")):
            raise ConfigError(
                f"--running: found {text!r}, expected ARM=URL, such as 0.5=http://127.0.0.1:30000"
            )
        servers[arm] = url
    return servers


def _numbers(text: str) -> tuple[float, ...]:
    try:
        return tuple(float(number) for number in text.split(","))
    except ValueError:
        raise ConfigError(
            f"--sparsities: found {text!r}, expected numbers in [0, 1] separated by commas"
        ) from None
