"""What the CUDA backend cannot serve, each refused at start in one line."""

from __future__ import annotations

from typing import Any

import torch

from rlkv.errors import UnsupportedError

HEAD_DIMS = (64, 128, 256)
"""Channels of a head for which FlashInfer has kernels."""


def check_cuda(config: Any, server_args: Any, flag: str = "--rlkv-heads") -> None:
    """Refuse shapes and options that the kernels do not cover.

    Args:
        config: SGLang's ``ModelConfig``.
        server_args: SGLang's ``ServerArgs``, resolved.
        flag: the one of ours that they are refused beside.

    Raises:
        UnsupportedError: one line with what was found and what was expected.
    """
    if config.dtype not in (torch.bfloat16, torch.float16):
        raise UnsupportedError(
            f"--dtype: found {config.dtype} with {flag} on CUDA, expected bfloat16 or float16"
        )
    if config.head_dim not in HEAD_DIMS:
        raise UnsupportedError(
            f"{config.model_path}: heads have {config.head_dim} channels, expected one of {HEAD_DIMS} on CUDA"
        )
    graphs = server_args.cuda_graph_config
    if graphs.decode.backend not in ("full", "disabled"):
        raise UnsupportedError(
            f"--cuda-graph-backend-decode: found {graphs.decode.backend!r}, expected 'full' or 'disabled'"
        )
    if graphs.prefill.backend not in ("breakable", "disabled"):
        raise UnsupportedError(
            f"--cuda-graph-backend-prefill: found {graphs.prefill.backend!r}, expected 'breakable' or "
            "'disabled'"
        )
