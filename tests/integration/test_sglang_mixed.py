"""Mixed attention on a real server equals the transformers reference, before and after gates change live."""

from __future__ import annotations

import json
import random
import urllib.error
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from sglang_server import INSTALLED, MODEL, Server, random_tokens
from tiny_heads import heads_file
from transformers import AutoModelForCausalLM

from rlkv.attention.gates import attach_gates, save_gates, write_gates
from rlkv.heads import HeadsFile
from rlkv.window import Window

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not INSTALLED, reason="sglang is not installed, see third_party/README.md"),
]

WINDOW = Window(4, 28)
CHUNK = 64
LENGTHS = (1, 3, 4, 5, 27, 28, 33, 63, 64, 65, 129, 300)
LAYERS, KV_HEADS = 8, 6


@cache
def reference() -> Any:
    model = AutoModelForCausalLM.from_pretrained(MODEL, dtype=torch.float32).eval()
    attach_gates(model, WINDOW)
    return model


def random_gates(seed: int) -> torch.Tensor:
    return torch.rand(LAYERS, KV_HEADS, generator=torch.Generator().manual_seed(seed))


def named(gates: torch.Tensor) -> dict[str, torch.Tensor]:
    return {f"model.layers.{layer}.self_attn.gate": row.clone() for layer, row in enumerate(gates)}


@torch.no_grad()
def assert_mixed(gates: torch.Tensor, prompt: list[int], reply: dict[str, Any]) -> None:
    """Tokens are the reference's greedy ones, log-probs within 1e-4; one pass tells."""
    write_gates(reference(), gates)
    output = reply["output_ids"]
    logits = reference()(input_ids=torch.tensor([prompt + output[:-1]])).logits[0, len(prompt) - 1 :]
    assert logits.argmax(-1).tolist() == output
    expected = logits.log_softmax(-1).gather(1, torch.tensor(output)[:, None])[:, 0]
    found = torch.tensor([entry[0] for entry in reply["meta_info"]["output_token_logprobs"]])
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=0)


@dataclass
class Mixed:
    """A server, and the gates that it should be using."""

    server: Server
    gates: torch.Tensor
    version: str

    def ask(self, prompts: list[list[int]], new_tokens: int = 16) -> list[dict[str, Any]]:
        """Generate for all prompts in one batch; every reply carries the version and equals the reference."""
        sampling = {"temperature": 0, "max_new_tokens": new_tokens, "ignore_eos": True}
        body = {"input_ids": prompts, "sampling_params": sampling, "return_logprob": True}
        replies = self.server.post("/generate", body)
        for prompt, reply in zip(prompts, replies, strict=True):
            assert reply["meta_info"]["weight_version"] == self.version
            assert_mixed(self.gates, prompt, reply)
        return replies

    def update(self, folder: Path, version: str | None, **options: Any) -> tuple[int, dict[str, Any]]:
        """Status and answer of an update from disk."""
        body = {"model_path": str(folder), "weight_version": version, **options}
        try:
            return 200, self.server.post("/update_weights_from_disk", body)
        except urllib.error.HTTPError as error:
            return error.code, json.loads(error.read())

    def replace(self, gates: torch.Tensor, folder: Path, version: str, **options: Any) -> None:
        write_gates(reference(), gates)
        save_gates(reference(), folder / "gates.safetensors")
        status, answer = self.update(folder, version, **options)
        assert (status, answer["success"]) == (200, True), answer
        self.gates, self.version = gates, version


@pytest.fixture(scope="module")
def mixed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mixed]:
    folder = tmp_path_factory.mktemp("mixed")
    path = heads_file(folder / "heads.json")
    strict = {"SGLANG_ENABLE_STRICT_MEM_CHECK_DURING_BUSY": "1"}
    flags = ["--rlkv-gates", str(path), "--max-total-tokens", "8192", "--chunked-prefill-size", str(CHUNK)]
    server = Server([*flags, "--weight-version", "first"], folder, strict)
    try:
        yield Mixed(server, torch.tensor(HeadsFile.read(path).gates), "first")
    finally:
        server.stop()


def test_cold_cached_chunked_and_batched(mixed: Mixed) -> None:
    rng = random.Random(1)
    prompts = [random_tokens(rng, length) for length in LENGTHS]
    for prompt in prompts[-3:]:
        mixed.ask([prompt])
    mixed.ask(prompts)
    [reply] = mixed.ask([prompts[-1][:150] + prompts[-2][:20]])
    assert reply["meta_info"]["cached_tokens"] == 150
    [again] = mixed.ask([prompts[-1]])
    assert again["meta_info"]["cached_tokens"] == 299


def test_an_update_takes_effect_at_once_and_empties_the_prefix_cache(mixed: Mixed, tmp_path: Path) -> None:
    """Every reply equals the reference with the new gates, as a server started with them would."""
    rng = random.Random(2)
    prompt = random_tokens(rng, 200)
    before = mixed.ask([prompt], 48)[0]
    mixed.replace(random_gates(7), tmp_path, "second", flush_cache=False)
    after = mixed.ask([prompt], 48)[0]
    assert after["meta_info"]["cached_tokens"] == 0
    assert after["output_ids"] != before["output_ids"]
    info = mixed.server.cache()
    assert (info["mode"], info["gate_version"], info["gate_updates"]) == ("mixed", "second", 1)
    assert info["mean_gate"] == pytest.approx(mixed.gates.mean().item(), abs=1e-6)
    assert json.loads(mixed.server.get("/model_info"))["model_path"] == str(MODEL)


def test_gates_of_one_are_the_plain_model(mixed: Mixed, tmp_path: Path) -> None:
    mixed.replace(torch.ones(LAYERS, KV_HEADS), tmp_path, "ones")
    prompt = random_tokens(random.Random(3), 150)
    [reply] = mixed.ask([prompt])
    plain = AutoModelForCausalLM.from_pretrained(MODEL, dtype=torch.float32).eval()
    ids = torch.tensor([prompt + reply["output_ids"][:-1]])
    with torch.no_grad():
        assert plain(input_ids=ids).logits[0, 149:].argmax(-1).tolist() == reply["output_ids"]


def changed(**changes: torch.Tensor | None) -> dict[str, torch.Tensor]:
    """A whole set of gates with some replaced, None for left out; ``l3`` stands for the gate of layer 3."""
    tensors = named(random_gates(8))
    for key, value in changes.items():
        name = f"model.layers.{key[1:]}.self_attn.gate"
        if value is None:
            del tensors[name]
        else:
            tensors[name] = value
    return tensors


BAD = {
    "missing layer": (
        changed(l3=None),
        "model.layers.3.self_attn.gate is missing, expected the 8 gates model.layers.N.self_attn.gate",
    ),
    "another name": (
        changed(l8=torch.zeros(KV_HEADS)),
        "found model.layers.8.self_attn.gate, expected the 8 gates",
    ),
    "shape": (changed(l2=torch.zeros(5)), "model.layers.2.self_attn.gate has shape [5], expected [6]"),
    "NaN": (changed(l1=torch.full((KV_HEADS,), torch.nan)), "model.layers.1.self_attn.gate[0] is nan"),
    "above one": (
        changed(l7=torch.tensor([0, 0, 1.5, 0, 0, 0])),
        "model.layers.7.self_attn.gate[2] is 1.5, expected a number in [0, 1]",
    ),
    "below zero": (changed(l0=torch.full((KV_HEADS,), -0.25)), "gate[0] is -0.25"),
    "integers": (changed(l0=torch.zeros(KV_HEADS, dtype=torch.int64)), "is torch.int64, expected a floating"),
    "weights": (
        {"model.embed_tokens.weight": torch.zeros(2, 2)},
        "found model.embed_tokens.weight, expected the 8 gates",
    ),
}


def test_wrong_updates_are_refused_and_the_old_gates_kept(mixed: Mixed, tmp_path: Path) -> None:
    prompt = random_tokens(random.Random(4), 90)
    mixed.ask([prompt])
    version = mixed.server.cache()["gate_version"]
    for index, (tensors, expected) in enumerate(BAD.values()):
        folder = tmp_path / str(index)
        folder.mkdir()
        save_file(tensors, folder / "gates.safetensors")
        status, answer = mixed.update(folder, "bad")
        assert (status, answer["success"]) == (400, False)
        assert expected in answer["message"]
        assert answer["message"].endswith("the old gates are kept")
        assert "\n" not in answer["message"]
    (tmp_path / "cut").mkdir()
    (tmp_path / "cut" / "gates.safetensors").write_bytes(b"cut off")
    save_file(named(random_gates(9)), tmp_path / "whole.safetensors")
    for folder, tag, expected in [
        (tmp_path / "cut", "bad", "cannot read"),
        (tmp_path / "nowhere", "bad", "holds no .safetensors file"),
        (tmp_path, None, "weight_version is missing"),
    ]:
        status, answer = mixed.update(folder, tag)
        assert status == 400
        assert expected in answer["message"]
    assert mixed.server.cache()["gate_version"] == version == mixed.version
    [reply] = mixed.ask([prompt])
    assert reply["meta_info"]["cached_tokens"] == 89  # refused updates left the prefix cache as it was
