"""What a server says at start about batches beyond its CUDA graphs."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
from rlkv_patches.sglang.startup_table import graph_hint


@pytest.mark.parametrize(
    ("fit", "running_limit", "backend", "covers"),
    [
        (256, None, "full", None),
        (257, None, "full", 257),
        (900, 400, "full", 400),
        (900, 200, "full", None),
        (900, None, "disabled", None),
    ],
)
def test_more_requests_than_graphs(
    fit: int, running_limit: int | None, backend: str, covers: int | None
) -> None:
    decode = SimpleNamespace(backend=backend, max_bs=256)
    found = graph_hint(
        fit,
        SimpleNamespace(cuda_graph_config=SimpleNamespace(decode=decode), max_running_requests=running_limit),
    )
    if covers is None:
        assert found is None
    else:
        assert f"--cuda-graph-max-bs-decode {covers} covers all that fit" in str(found)
