"""A real server in bf16 on a CUDA device, with CUDA graphs and without, against the transformers reference.

Greedy tokens of bf16 flip where two logits are nearly equal, so log-probabilities are compared: those that
the server gives to its own tokens may be as far from the float32 reference as the bf16 reference is.
"""

from __future__ import annotations

import os
import random
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache
from itertools import islice
from pathlib import Path
from statistics import fmean
from typing import Any

import pytest
import torch
from rlkv_eval.metrics import wilson_interval
from sglang_server import INSTALLED, MODEL, Server, random_tokens
from tiny_heads import heads_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from rlkv.cache import HybridCache, use_hybrid_cache
from rlkv.generation import HeadSplit, chat_prompt, generate_batched
from rlkv.grading.grader import grade
from rlkv.heads import HeadsFile, resolve, streaming_mask
from rlkv.tiny.problems import generate
from rlkv.window import Window

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
    pytest.mark.skipif(not INSTALLED, reason="sglang is not installed, see third_party/README.md"),
]

LENGTHS = (1, 4, 27, 28, 29, 33, 64, 65, 129, 300, 700)
PROBLEMS, ANSWER_TOKENS = 400, 352
REFERENCE_BATCH = 100
"""Less than all problems: references of several cases share the card with all servers."""
ONE_CARD = Path(__file__).parent / "one_card"


@dataclass(frozen=True)
class Case:
    """A configuration of a server."""

    sparsity: float
    window: Window
    flags: tuple[str, ...]
    shipped: bool = False

    def __str__(self) -> str:
        return f"{self.sparsity:g} at {self.window} {' '.join(self.flags)}"


CASES = [
    Case(0.5, Window(4, 28), ("--chunked-prefill-size", "64"), shipped=True),
    Case(0.5, Window(4, 28), ("--disable-cuda-graph",), shipped=True),
    Case(0.5, Window(16, 64), ("--page-size", "16")),
    Case(0.0, Window(4, 28), ()),
    Case(1.0, Window(4, 28), ("--chunked-prefill-size", "128")),
    Case(0.5, Window(4, 28), ("--tp", "2"), shipped=True),
]


@dataclass(frozen=True)
class Serving:
    """A running server of a case."""

    case: Case
    heads: Path
    server: Server


SIDE_BY_SIDE = [pytest.param(case, id=str(case), marks=pytest.mark.xdist_group(str(case))) for case in CASES]
"""With ``-n`` and ``--dist loadgroup`` servers start at the same time: nothing here is timed."""


@pytest.fixture(scope="module", params=SIDE_BY_SIDE)
def serving(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serving]:
    case: Case = request.param
    folder = tmp_path_factory.mktemp("sglang")
    heads = resolve("tiny-reasoner") if case.shipped else heads_file(folder / "heads.json")
    flags = ["--rlkv-heads", str(heads), "--rlkv-sparsity", str(case.sparsity), "--grammar-backend", "none"]
    flags += ["--rlkv-sink-size", str(case.window.sink_size)]
    flags += ["--rlkv-recent-size", str(case.window.recent_size), "--max-total-tokens", "65536"]
    environment = {"SGLANG_ENABLE_STRICT_MEM_CHECK_DURING_BUSY": "1"}
    if "--tp" in case.flags:
        # The other cases' servers and references are on the first card, so that the second has more room.
        environment["SGLANG_ENABLE_TP_MEMORY_INBALANCE_CHECK"] = "0"
    if "--tp" in case.flags and torch.cuda.device_count() < 2:
        flags.append("--disable-custom-all-reduce")  # it maps the other device's memory
        environment["SGLANG_ONE_VISIBLE_DEVICE_PER_PROCESS"] = "1"
        environment["PYTHONPATH"] = os.pathsep.join([str(ONE_CARD), os.environ.get("PYTHONPATH", "")])
    server = Server([*flags, "--dtype", "bfloat16", *case.flags], folder, environment)
    try:
        yield Serving(case, heads, server)
    finally:
        server.stop()


@cache
def reference_model(dtype: torch.dtype) -> Any:
    model = AutoModelForCausalLM.from_pretrained(MODEL, dtype=dtype).eval().cuda()
    use_hybrid_cache(model)
    return model


@torch.inference_mode()
def log_probs(serving: Serving, dtype: torch.dtype, prompt: list[int], output: list[int]) -> list[float]:
    """What the reference gives to the tokens of an answer."""
    mask = streaming_mask(HeadsFile.read(serving.heads).gates, serving.case.sparsity)
    ids = torch.tensor([prompt + output[:-1]], device="cuda")
    kept = HybridCache(mask, serving.case.window)
    logits = reference_model(dtype)(input_ids=ids, past_key_values=kept, use_cache=True).logits
    scores = logits[0, len(prompt) - 1 :].float().log_softmax(-1)
    return scores.gather(1, torch.tensor(output, device="cuda")[:, None])[:, 0].tolist()


def ask(server: Server, prompt: list[int], new_tokens: int) -> tuple[list[int], list[float], int]:
    sampling = {"temperature": 0, "max_new_tokens": new_tokens, "ignore_eos": True}
    body = {"input_ids": prompt, "sampling_params": sampling, "return_logprob": True}
    meta = server.post("/generate", body)["meta_info"]
    scored = meta["output_token_logprobs"]
    return [token for _, token, *_ in scored], [value for value, *_ in scored], meta["cached_tokens"]


def test_log_probs_are_within_the_rounding_of_bf16(serving: Serving) -> None:
    rng = random.Random(1)
    shared = random_tokens(rng, 500)
    prompts = [random_tokens(rng, length) for length in LENGTHS]
    prompts += [shared, *(shared[:cut] + random_tokens(rng, 17) for cut in (500, 300, 65, 30, 4))]
    one_by_one = [(prompt, ask(serving.server, prompt, 100)) for prompt in prompts]
    with ThreadPoolExecutor(16) as pool:
        together = list(zip(prompts, pool.map(lambda p: ask(serving.server, p, 60), prompts), strict=True))
    server_errors, rounding = [], []
    for prompt, (output, scores, _) in one_by_one + together:
        exact = log_probs(serving, torch.float32, prompt, output)
        rounded = log_probs(serving, torch.bfloat16, prompt, output)
        server_errors.append(fmean(abs(a - b) for a, b in zip(scores, exact, strict=True)))
        rounding.append(fmean(abs(a - b) for a, b in zip(rounded, exact, strict=True)))
    print(
        f"\n{serving.case}: mean error {fmean(server_errors):.4f}, of bf16 {fmean(rounding):.4f}; "
        f"largest of a request {max(server_errors):.4f}, {max(rounding):.4f}"
    )
    assert max(cached for _, (_, _, cached) in one_by_one) > 250
    assert fmean(server_errors) < 1.5 * fmean(rounding)
    assert max(server_errors) < 2.5 * max(rounding)


def test_accuracy_of_the_tiny_reasoner_is_the_references(serving: Serving) -> None:
    if not serving.case.shipped:
        pytest.skip("these heads were not trained")
    tokenizer = AutoTokenizer.from_pretrained(MODEL)
    problems = list(islice(generate("medium", "test", seed=0), PROBLEMS))
    texts = [chat_prompt(tokenizer, problem.prompt) for problem in problems]
    ids = [tokenizer(text, add_special_tokens=False)["input_ids"] for text in texts]

    def solve(prompt: list[int]) -> str:
        body = {"input_ids": prompt, "sampling_params": {"temperature": 0, "max_new_tokens": ANSWER_TOKENS}}
        return tokenizer.decode(
            serving.server.post("/generate", body)["output_ids"], skip_special_tokens=True
        )

    with ThreadPoolExecutor(64) as pool:
        served = list(pool.map(solve, ids))
    split = HeadSplit(
        streaming_mask(HeadsFile.read(serving.heads).gates, serving.case.sparsity), serving.case.window
    )
    batches = generate_batched(
        reference_model(torch.float32),
        tokenizer,
        texts,
        max_new_tokens=ANSWER_TOKENS,
        batch_size=REFERENCE_BATCH,
        recipe=split,
    )
    expected = [completion.text for batch in batches for completion in batch]
    torch.cuda.empty_cache()  # growing caches leave torch with most of the card, which others are tested on
    right = [
        sum(grade(text, problem.answer).correct for text, problem in zip(answers, problems, strict=True))
        for answers in (served, expected)
    ]
    print(f"\n{serving.case}: {right[0]} of {PROBLEMS} right, reference {right[1]}")
    low, high = wilson_interval(right[1], PROBLEMS)
    assert low <= right[0] / PROBLEMS <= high
