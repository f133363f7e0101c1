"""Whether a server runs what a comparison asks for, from its ``/server_info``."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rlkv.errors import ConfigError
from rlkv.generation import HeadSplit

from ..checkpoint import Checkpoint
from ..identity import head_rows, model_digest

ELEMENT_BYTES = {"float32": 4, "bfloat16": 2, "float16": 2, "fp8_e4m3": 1, "fp8_e5m2": 1}

RECORDED = ("attention_backend", "tp_size", "page_size", "chunked_prefill_size", "quantization")
"""Settings of a server that was not started by us which may change a rounding."""


def number_type(info: Mapping[str, Any], checkpoint: Checkpoint) -> str:
    """The dtype that a server computes in."""
    dtype = str(info["dtype"])
    if dtype != "auto":
        return {"half": "float16", "float": "float32"}.get(dtype, dtype)
    stored = str(checkpoint.model_config.dtype).removeprefix("torch.")
    return "float16" if stored == "float32" else stored  # SGLang's rule


def cache_type(info: Mapping[str, Any], checkpoint: Checkpoint) -> str:
    """The dtype of a server's KV cache.

    Raises:
        ConfigError: one whose size is not known here.
    """
    dtype = str(info["kv_cache_dtype"])
    if dtype == "auto":
        return number_type(info, checkpoint)
    dtype = {"bf16": "bfloat16"}.get(dtype, dtype)
    if dtype not in ELEMENT_BYTES:
        raise ConfigError(f"server: kv_cache_dtype is {dtype!r}, expected one of {', '.join(ELEMENT_BYTES)}")
    return dtype


def check_server(
    info: Mapping[str, Any], model: str, checkpoint: Checkpoint, dtype: str, split: HeadSplit | None
) -> None:
    """Refuse a server that runs something else.

    Args:
        info: the server's ``/server_info``.
        model: name that the user gave.
        checkpoint: that name's files.
        dtype: asked for.
        split: heads that are to stream, None for a stock server.

    Raises:
        ConfigError: the first thing that differs, what was found and what was expected.
    """
    _check_model(str(info["model_path"]), model, checkpoint)
    _expect("dtype", number_type(info, checkpoint), dtype)
    states = info["internal_states"]
    for state in states:
        _check_cache(state.get("rlkv"), split)


def _check_model(served: str, model: str, checkpoint: Checkpoint) -> None:
    if served in (model, str(checkpoint.folder)):
        return
    folder = Path(served)
    if not (folder.is_dir() and model_digest(folder) == model_digest(checkpoint.folder)):
        raise ConfigError(f"server: model is {served}, expected {model} or a folder of the same files")


def _check_cache(cache: Mapping[str, Any] | None, split: HeadSplit | None) -> None:
    if split is None:
        if cache is not None:
            raise ConfigError(f"server: cache is hybrid at sparsity {cache['sparsity']:g}, expected full")
        return
    if cache is None:
        raise ConfigError("server: cache is full, expected a hybrid one (--rlkv-heads)")
    rows = head_rows(split)
    if len(cache["mask"]) == len(rows) and cache["mask"] != rows:
        found = "".join(cache["mask"]).count("s"), "".join(rows).count("s")
        differ = sum(a != b for a, b in zip("".join(cache["mask"]), "".join(rows), strict=True))
        raise ConfigError(
            f"server: {found[0]} heads stream at sparsity {cache['sparsity']:g} of {cache['heads_file']}, "
            f"expected the {found[1]} of the comparison: {differ} heads differ"
        )
    _expect("heads", cache["mask"], rows)
    _expect("window", f"{cache['sink_size']}+{cache['recent_size']}", str(split.window))


def _expect(name: str, found: Any, expected: Any) -> None:
    if found != expected:
        raise ConfigError(f"server: {name} is {found}, expected {expected}")
