"""The ``--rlkv-*`` flags: declared, read, checked, and carried to the schedulers."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from rlkv.errors import ConfigError, RLKVError
from rlkv.window import Window

if TYPE_CHECKING:
    from rlkv.heads import HeadsFile

    from .settings import Settings


def add_flags(result: None, parser: argparse.ArgumentParser) -> None:
    """Declare the flags (after ``ServerArgs.add_cli_args``)."""
    group = parser.add_argument_group(
        "rlkv", "Per-head hybrid KV cache, or mixed attention for gate training."
    )
    group.add_argument(
        "--rlkv-heads", metavar="FILE", help="Heads file: a path, or the name of one shipped with rlkv."
    )
    group.add_argument(
        "--rlkv-gates",
        metavar="FILE|ones",
        help="Mixed attention instead of the hybrid cache: every head computes full and streaming attention "
        "and mixes them by its gate, from a heads file or 1. Weight updates replace the gates.",
    )
    group.add_argument(
        "--rlkv-sparsity",
        type=float,
        help="Fraction of KV heads that stream. Default: the file's recommendation.",
    )
    group.add_argument(
        "--rlkv-sink-size", type=int, help="First tokens that streaming heads see. Default: the file's."
    )
    group.add_argument(
        "--rlkv-recent-size", type=int, help="Recent tokens that streaming heads see. Default: the file's."
    )
    group.add_argument(
        "--rlkv-request-tokens",
        type=int,
        help="Tokens that a running request holds, prompt and answer so far; splits memory between the "
        "two pools. Default: 2048, or the context length if that is less.",
    )


def read_flags(original: Callable[..., Any], cls: type, namespace: argparse.Namespace) -> Any:
    """Read and check the flags (around ``ServerArgs.from_cli_args``); a bad one ends the process."""
    given = {
        name: value
        for name, value in vars(namespace).items()
        if name.startswith("rlkv_") and value is not None
    }
    try:
        if "rlkv_gates" in given:
            from .mixed import args as mixed

            return mixed.read(original, cls, namespace)
        if "rlkv_heads" not in given:
            if given:
                flag = "--" + next(iter(given)).replace("_", "-")
                raise ConfigError(f"{flag}: given without --rlkv-heads, expected both")
            return original(cls, namespace)
        return _read(original, cls, namespace)
    except RLKVError as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        raise SystemExit(2) from error


def _read(original: Callable[..., Any], cls: type, namespace: argparse.Namespace) -> Any:
    from sglang.srt.utils import get_device

    from rlkv.heads import HeadsFile, resolve

    from . import refusals
    from .backends import backend_of, choose_backends
    from .carry import carry
    from .version import check_version

    check_version()
    path = resolve(namespace.rlkv_heads)
    heads = HeadsFile.read(path)
    _window(namespace, heads)  # a bad size is refused before the model's config is looked for
    refusals.check_flags(namespace)
    choose_backends(namespace, backend_of(namespace.device or get_device()).replaced)
    server_args = original(cls, namespace)
    model_config = server_args.get_model_config()
    refusals.check_resolved(server_args, model_config)
    heads.check_model(model_config.hf_config, path)
    settings = _settings(namespace, heads, str(path), model_config.context_len)
    carry(server_args, settings)
    return server_args


def _settings(namespace: argparse.Namespace, heads: HeadsFile, path: str, context_length: int) -> Settings:
    from rlkv.heads import streaming_mask

    from .settings import REQUEST_TOKENS, Settings

    sparsity = heads.recommended_sparsity if namespace.rlkv_sparsity is None else namespace.rlkv_sparsity
    request_tokens = namespace.rlkv_request_tokens
    if request_tokens is None:
        request_tokens = min(REQUEST_TOKENS, context_length)
    if not 1 <= request_tokens <= context_length:
        raise ConfigError(
            f"--rlkv-request-tokens: found {request_tokens}, expected 1 to {context_length}, its context"
        )
    ranks, num_heads = namespace.tp_size, heads.model.num_kv_heads
    if num_heads % ranks:
        raise ConfigError(
            f"--tp-size: found {ranks}, expected a divisor of the {num_heads} KV heads of a layer"
        )
    mask = streaming_mask(heads.gates, sparsity).tolist()
    return Settings(
        heads_file=path,
        model_id=heads.model.model_id,
        sparsity=sparsity,
        window=_window(namespace, heads),
        streaming=tuple(tuple(row) for row in mask),
        request_tokens=request_tokens,
        ranks=ranks,
    )


def _window(namespace: argparse.Namespace, heads: HeadsFile) -> Window:
    sink, recent = namespace.rlkv_sink_size, namespace.rlkv_recent_size
    default = heads.serving_window
    return Window(
        default.sink_size if sink is None else sink, default.recent_size if recent is None else recent
    )
