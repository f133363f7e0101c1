"""Shared fixtures; tests that need a CUDA device are skipped where there is none."""

from __future__ import annotations

import pytest

from rlkv.process import prepare_for_cpu

prepare_for_cpu()  # before torch is loaded

import torch  # noqa: E402


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if torch.cuda.is_available():
        return
    skip = pytest.mark.skip(reason="needs a CUDA device")
    for item in items:
        if "gpu" in item.keywords:
            item.add_marker(skip)
