"""``rlkv serve``: start a stock SGLang server, with what a machine without a GPU lacks."""

from __future__ import annotations

import argparse
import errno
import os
import socket
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated

import typer

from rlkv.errors import ConfigError

from .args import add_flags

CPU_IMPORTS = Path(__file__).with_name("cpu_imports")
"""Stand-ins for the packages that SGLang imports and a CPU-only machine cannot have."""

CPU_FLAGS = {"--device": "cpu", "--dtype": "float32", "--mem-fraction-static": "0.2"}
"""Flags that a CPU server gets unless they are given. bfloat16 flips near ties, and gains nothing."""

LAST_PORT = 65535

app = typer.Typer(help="Serve a model with the hybrid cache on a stock SGLang.", add_completion=False)


def _flags() -> str:
    """The flags that we add to SGLang's, a paragraph each."""
    parser = argparse.ArgumentParser(add_help=False)
    add_flags(None, parser)
    own = [action for action in parser._actions if action.help]
    return "\n\n".join(f"{action.option_strings[0]} {action.metavar or 'N'}: {action.help}" for action in own)


@app.command(context_settings={"allow_extra_args": True, "ignore_unknown_options": True}, epilog=_flags())
def serve(
    context: typer.Context,
    model: Annotated[
        str, typer.Option("--model", "--model-path", help="A shipped model, a folder, or a model on the hub.")
    ],
) -> None:
    """Serve a model; every flag of SGLang's may follow, such as --port, and those below.

    On a machine without a GPU the server runs on the CPU in float32, unless flags say otherwise.

    Example: rlkv serve --model tiny-reasoner --rlkv-heads tiny-reasoner --rlkv-sparsity 0.5
    """
    if find_spec("sglang") is None:
        raise ConfigError(
            "rlkv serve: found no sglang, expected it: `make sglang` for a CPU, the extra `serve` for CUDA"
        )
    check_port(context.args)
    flags = with_machine_flags(["--model-path", located(model), *context.args])
    command = [sys.executable, "-m", "sglang.launch_server", *flags]
    # Signals and the exit status are the server's own.
    os.execve(command[0], command, server_environment(os.environ, flags))


def located(model: str) -> str:
    """What SGLang takes for a model, which is there.

    Raises:
        ConfigError: no such folder, nor one on the hub or in its cache.
    """
    from rlkv.loading import loading
    from rlkv.models import resolve_model

    found = resolve_model(model)
    elsewhere = os.environ.get("SGLANG_USE_MODELSCOPE", "").lower() in ("1", "true")
    if not (elsewhere or Path(found).is_dir()):
        from huggingface_hub import hf_hub_download
        from huggingface_hub.errors import RemoteEntryNotFoundError

        # A model without this file is SGLang's to refuse.
        with loading(model), suppress(RemoteEntryNotFoundError):
            hf_hub_download(found, "config.json")
    return found


def check_port(flags: Sequence[str]) -> None:
    """Refuse a port that somebody listens on: SGLang would find out once the weights are loaded.

    Raises:
        ConfigError: it is in use.
    """
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", default="30000")
    found = parser.parse_known_args(list(flags))[0]
    if not found.port.isdecimal() or int(found.port) > LAST_PORT:
        return  # SGLang says so
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((found.host, int(found.port)))
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                raise ConfigError(
                    f"--port: found {found.port}, on which {found.host} serves already, expected a free one"
                ) from error


def with_machine_flags(flags: Sequence[str]) -> list[str]:
    """The flags, with what a server on this machine needs beside them."""
    return list(flags) if _has_gpu() else with_cpu_flags(flags)


def server_environment(environment: Mapping[str, str], flags: Sequence[str]) -> dict[str, str]:
    """Variables of a server with these flags on this machine."""
    return (
        dict(environment)
        if _has_gpu()
        else {**environment, **cpu_environment(environment, *_page_size_and_ranks(flags))}
    )


def with_cpu_flags(flags: Sequence[str]) -> list[str]:
    """The flags, with those that a CPU server needs and that are not among them."""
    given = {flag.partition("=")[0] for flag in flags}
    missing = [part for flag, value in CPU_FLAGS.items() if flag not in given for part in (flag, value)]
    return [*flags, *missing]


def cpu_environment(environment: Mapping[str, str], page_size: int = 1, ranks: int = 1) -> dict[str, str]:
    """Variables that SGLang needs on a machine without a GPU; those that are set stay as they are.

    Args:
        environment: of this process.
        page_size: of the server. SGLang counts pages of more than one token in Triton kernels, which run on a
            CPU under Triton's interpreter.
        ranks: of tensor parallelism. SGLang wants to be told the cores of each, unless they have a NUMA node.
    """
    paths = [str(CPU_IMPORTS), *filter(None, [environment.get("PYTHONPATH")])]
    wanted = {"SGLANG_USE_CPU_ENGINE": "1"}
    if page_size > 1:
        wanted["TRITON_INTERPRET"] = "1"
    if ranks > 1:
        wanted["SGLANG_CPU_OMP_THREADS_BIND"] = _cores_of_ranks(sorted(os.sched_getaffinity(0)), ranks)
    return {
        **{name: environment.get(name, value) for name, value in wanted.items()},
        "PYTHONPATH": os.pathsep.join(paths),
    }


def _cores_of_ranks(cores: list[int], ranks: int) -> str:
    """Cores dealt out to ranks, as SGLang reads them: ``0,2|1,3``; with too few, ranks share some."""
    shares = [cores[rank::ranks] or [cores[rank % len(cores)]] for rank in range(ranks)]
    return "|".join(",".join(map(str, share)) for share in shares)


def _page_size_and_ranks(flags: Sequence[str]) -> tuple[int, int]:
    """Both from SGLang's flags; SGLang itself refuses what is no number."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--page-size", default="1")
    parser.add_argument("--tp", "--tp-size", "--tensor-parallel-size", dest="ranks", default="1")
    found = parser.parse_known_args(list(flags))[0]
    page_size, ranks = (int(text) if text.isdecimal() else 1 for text in (found.page_size, found.ranks))
    return page_size, ranks


def _has_gpu() -> bool:
    import torch

    return torch.cuda.is_available()
