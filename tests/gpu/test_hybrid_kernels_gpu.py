"""The kernels over the two pools on a CUDA device, in bf16."""

from __future__ import annotations

import pytest
import torch
from hybrid_sequences import CASES, check_case

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]


@pytest.mark.parametrize("case", CASES)
def test_matches_the_window(case: str) -> None:
    check_case(*CASES[case], device="cuda")
