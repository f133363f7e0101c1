"""A real SGLang server on the CPU for tests, and the reference that its tokens are compared with."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from rlkv_eval.throughput import launch
from rlkv_patches.sglang.serve import cpu_environment
from transformers import AutoModelForCausalLM

from rlkv.cache import HybridCache, use_hybrid_cache
from rlkv.heads import HeadsFile, streaming_mask
from rlkv.models import MODELS_FOLDER
from rlkv.window import Window

INSTALLED = find_spec("sglang") is not None
MODEL = MODELS_FOLDER / "tiny-reasoner"
VOCABULARY = range(5, 734)

RUN_PARSER = """
import sys
from sglang.srt.plugins import load_plugins
from sglang.srt.server_args import prepare_server_args
load_plugins()
for flags in sys.stdin.read().splitlines():
    try:
        prepare_server_args(sys.argv[1:] + flags.split())
    except SystemExit as end:
        print(f"status {end.code}", file=sys.stderr)
"""
"""Reads flags as a server would, one line at a time; importing SGLang takes longer than that."""


def run_code(
    code: str, *arguments: str, check: bool = True, **options: Any
) -> subprocess.CompletedProcess[str]:
    """Run Python code in a process that can import SGLang on the CPU; options are of ``subprocess.run``."""
    return subprocess.run(
        [sys.executable, "-c", code, *arguments],
        env={**os.environ, **cpu_environment(os.environ), "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"},
        capture_output=True,
        text=True,
        check=check,
        **options,
    )


class Server(launch.Server):
    """``rlkv serve`` of a small model, the tiny reasoner by default, with what tests ask of it."""

    def __init__(
        self,
        flags: list[str],
        folder: Path,
        environment: dict[str, str] | None = None,
        model: Path = MODEL,
    ) -> None:
        quiet = {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", **(environment or {})}
        with tempfile.NamedTemporaryFile(dir=folder, prefix="server-", suffix=".log", delete=False) as log:
            super().__init__(str(model), flags, Path(log.name), quiet)

    def get(self, path: str) -> str:
        with urllib.request.urlopen(f"{self.url}{path}", timeout=60) as reply:
            return reply.read().decode()

    def post(self, path: str, body: Any, timeout: float = 300) -> Any:
        request = urllib.request.Request(
            f"{self.url}{path}",
            json.dumps(body).encode(),
            {"Content-Type": "application/json"},
        )
        with urllib.request.urlopen(request, timeout=timeout) as reply:
            text = reply.read().decode()
        return json.loads(text) if text.startswith(("{", "[")) else text

    def generate(self, prompt: list[int], new_tokens: int, timeout: float = 300) -> dict[str, Any]:
        """Greedy tokens of a prompt, without an end before ``new_tokens``."""
        sampling = {"temperature": 0, "max_new_tokens": new_tokens, "ignore_eos": True}
        return self.post("/generate", {"input_ids": prompt, "sampling_params": sampling}, timeout)

    def generate_together(self, prompts: list[list[int]], new_tokens: int) -> list[list[int]]:
        with ThreadPoolExecutor(len(prompts)) as pool:
            replies = pool.map(lambda prompt: self.generate(prompt, new_tokens), prompts)
            return [reply["output_ids"] for reply in replies]

    def cache(self) -> dict[str, Any]:
        """What ``/server_info`` says of the hybrid cache."""
        return json.loads(self.get("/server_info"))["internal_states"][0]["rlkv"]

    def flush(self) -> None:
        """Empty the prefix cache once the server is idle."""
        end = time.monotonic() + 60
        while True:
            try:
                self.post("/flush_cache", {})
            except urllib.error.HTTPError:
                if time.monotonic() > end:
                    raise
                time.sleep(0.5)
            else:
                return


@cache
def _reference_model(path: Path) -> Any:
    model = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32).eval()
    use_hybrid_cache(model)
    return model


@torch.inference_mode()
def first_wrong(
    heads: Path,
    sparsity: float,
    window: Window,
    prompt: list[int],
    output: list[int],
    model: Path = MODEL,
) -> int | None:
    """Index of the first token that greedy decoding of the transformers reference would not have written.

    One pass over prompt and answer tells: as long as all earlier tokens agree, it sees what decoding sees.
    """
    mask = streaming_mask(HeadsFile.read(heads).gates, sparsity)
    ids = torch.tensor([prompt + output[:-1]])
    cache = HybridCache(mask, window)
    logits = _reference_model(model)(input_ids=ids, past_key_values=cache, use_cache=True).logits
    best = logits[0, len(prompt) - 1 :].argmax(-1).tolist()
    return next((i for i, (a, b) in enumerate(zip(best, output, strict=True)) if a != b), None)


def random_tokens(rng: random.Random, count: int) -> list[int]:
    return [rng.choice(VOCABULARY) for _ in range(count)]
