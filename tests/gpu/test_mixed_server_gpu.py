"""The kernel of mixed attention, and a bf16 server with CUDA graphs, against the transformers reference.

Greedy tokens of bf16 flip where two logits are nearly equal, so log-probabilities are compared: those that
the server gives to its own tokens may be as far from the float32 reference as the bf16 reference is.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from statistics import fmean
from typing import Any

import pytest
import torch
from mixed_kernel_cases import CASES, check_case
from sglang_server import INSTALLED, MODEL, Server, random_tokens
from tiny_heads import heads_file
from transformers import AutoModelForCausalLM

from rlkv.attention.gates import attach_gates, save_gates, write_gates
from rlkv.heads import HeadsFile
from rlkv.window import Window

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]

WINDOW = Window(4, 28)
LENGTHS = (1, 4, 5, 28, 33, 64, 129, 300, 700)
GRAPHS = ("--cuda-graph-max-bs-decode", "16")


@pytest.mark.parametrize("case", CASES)
def test_kernel_matches_the_definition(case: str) -> None:
    check_case(*CASES[case], device="cuda")


@cache
def reference(dtype: torch.dtype) -> Any:
    model = AutoModelForCausalLM.from_pretrained(MODEL, dtype=dtype).eval().cuda()
    attach_gates(model, WINDOW)
    return model


@torch.no_grad()
def log_probs(gates: torch.Tensor, dtype: torch.dtype, prompt: list[int], output: list[int]) -> list[float]:
    write_gates(reference(dtype), gates)
    ids = torch.tensor([prompt + output[:-1]], device="cuda")
    scores = reference(dtype)(input_ids=ids).logits[0, len(prompt) - 1 :].float().log_softmax(-1)
    return scores.gather(1, torch.tensor(output, device="cuda")[:, None])[:, 0].tolist()


@pytest.fixture(scope="module", params=[GRAPHS, ("--disable-cuda-graph",)], ids=["graphs", "eager"])
def served(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Server, Path]]:
    folder = tmp_path_factory.mktemp("mixed")
    path = heads_file(folder / "heads.json")
    flags = ["--rlkv-gates", str(path), "--dtype", "bfloat16", "--max-total-tokens", "20000"]
    flags += ["--chunked-prefill-size", "128", "--grammar-backend", "none", *request.param]
    server = Server(flags, folder)
    try:
        yield server, path
    finally:
        server.stop()


@pytest.mark.skipif(not INSTALLED, reason="sglang is not installed, see third_party/README.md")
def test_log_probs_are_within_the_rounding_of_bf16(served: tuple[Server, Path], tmp_path: Path) -> None:
    server, path = served
    first = torch.tensor(HeadsFile.read(path).gates)
    other = torch.rand(first.shape, generator=torch.Generator().manual_seed(3))
    for version, gates in (("default", first), ("other", other)):
        if version == "other":
            write_gates(reference(torch.float32), gates)
            save_gates(reference(torch.float32), tmp_path / "gates.safetensors")
            body = {"model_path": str(tmp_path), "weight_version": version}
            assert server.post("/update_weights_from_disk", body)["success"]
        check(server, gates, version)


def check(server: Server, gates: torch.Tensor, version: str) -> None:
    """One by one, from the prefix cache, and all at once."""
    rng = random.Random(1)
    shared = random_tokens(rng, 500)
    prompts = [random_tokens(rng, length) for length in LENGTHS]
    prompts += [shared, *(shared[:cut] + random_tokens(rng, 17) for cut in (500, 300, 65, 30, 4))]
    sampling = {"temperature": 0, "max_new_tokens": 64, "ignore_eos": True}
    body = {"sampling_params": sampling, "return_logprob": True}
    replies = [server.post("/generate", {**body, "input_ids": prompt}) for prompt in prompts]
    assert max(reply["meta_info"]["cached_tokens"] for reply in replies) > 250
    replies += server.post("/generate", {**body, "input_ids": prompts})
    errors, rounding = [], []
    for prompt, reply in zip(prompts * 2, replies, strict=True):
        assert reply["meta_info"]["weight_version"] == version
        scored = reply["meta_info"]["output_token_logprobs"]
        output = [token for _, token, *_ in scored]
        exact = log_probs(gates, torch.float32, prompt, output)
        rounded = log_probs(gates, torch.bfloat16, prompt, output)
        errors.append(fmean(abs(value - b) for (value, *_), b in zip(scored, exact, strict=True)))
        rounding.append(fmean(abs(a - b) for a, b in zip(rounded, exact, strict=True)))
    print(
        f"\n{version}: mean error {fmean(errors):.4f}, of bf16 {fmean(rounding):.4f}; "
        f"largest of a request {max(errors):.4f}, {max(rounding):.4f}"
    )
    assert fmean(errors) < 1.5 * fmean(rounding)
    assert max(errors) < 2.5 * max(rounding)
