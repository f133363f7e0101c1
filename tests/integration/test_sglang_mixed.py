"""Mixed attention on a real server equals the transformers reference, before and after gates change live."""

from __future__ import annotations

import base64
import json
import pickle
import random
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from rlkv_eval.throughput.launch import free_port
from safetensors.torch import save_file
from sglang_server import INSTALLED, MODEL, Server, random_tokens, run_code
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
SHORT_POOL = 1200
"""Tokens of a pool with room for a third of what sixteen requests grow to."""
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
        return self.post("/update_weights_from_disk", body)

    def post(self, route: str, body: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        try:
            return 200, self.server.post(route, body)
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


def ask_cold_cached_chunked_and_batched(mixed: Mixed, page_size: int) -> None:
    rng = random.Random(1)
    prompts = [random_tokens(rng, length) for length in LENGTHS]
    for prompt in prompts[-3:]:
        mixed.ask([prompt])
    mixed.ask(prompts)
    [reply] = mixed.ask([prompts[-1][:150] + prompts[-2][:20]])
    assert reply["meta_info"]["cached_tokens"] == 150 // page_size * page_size
    [again] = mixed.ask([prompts[-1]])
    assert again["meta_info"]["cached_tokens"] == 299 // page_size * page_size


def test_cold_cached_chunked_and_batched(mixed: Mixed) -> None:
    ask_cold_cached_chunked_and_batched(mixed, page_size=1)


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
    nothing = base64.b64encode(pickle.dumps([])).decode()
    body = {"serialized_named_tensors": [nothing], "load_format": "direct", "weight_version": "bad"}
    status, answer = mixed.post("/update_weights_from_tensor", body)
    assert status == 400
    assert "found an update by tensors, expected one from disk or distributed" in answer["message"]
    assert mixed.server.cache()["gate_version"] == version == mixed.version
    [reply] = mixed.ask([prompt])
    assert reply["meta_info"]["cached_tokens"] == 89  # refused updates left the prefix cache as it was


class Stream:
    """A request whose first token has arrived."""

    def __init__(self, server: Server, prompt: list[int], new_tokens: int) -> None:
        sampling = {"temperature": 0, "max_new_tokens": new_tokens, "ignore_eos": True}
        body = {"input_ids": prompt, "sampling_params": sampling, "stream": True, "return_logprob": True}
        request = urllib.request.Request(
            f"{server.url}/generate",
            json.dumps(body).encode(),
            {"Content-Type": "application/json"},
        )
        self.reply = urllib.request.urlopen(request, timeout=300)
        self.last = self._event(self.reply.readline())

    def rest(self) -> dict[str, Any]:
        """The whole reply, once it is complete."""
        for line in self.reply:
            self.last = self._event(line) or self.last
        return self.last

    @staticmethod
    def _event(line: bytes) -> dict[str, Any]:
        text = line.decode().removeprefix("data: ").strip()
        return json.loads(text) if text.startswith("{") else {}


def test_no_request_sees_two_versions(mixed: Mixed, tmp_path: Path) -> None:
    """An update is refused while a request holds tokens, and accepted once all were aborted."""
    prompt = random_tokens(random.Random(5), 40)
    running = Stream(mixed.server, prompt, 300)
    mixed.server.post("/pause_generation", {"mode": "in_place"})
    save_file(named(random_gates(10)), tmp_path / "gates.safetensors")
    status, answer = mixed.update(tmp_path, "between")
    mixed.server.post("/continue_generation", {})
    assert status == 400
    assert "requests are running, expected none" in answer["message"]
    reply = running.rest()
    assert reply["meta_info"]["weight_version"] == mixed.version
    assert len(reply["output_ids"]) == 300
    assert_mixed(mixed.gates, prompt, reply)

    pauses = []
    for seed in range(10, 14):
        running = Stream(mixed.server, prompt, 300)
        begin = time.monotonic()
        mixed.server.post("/pause_generation", {"mode": "abort"})
        pauses.append(time.monotonic() - begin)
        mixed.replace(random_gates(seed), tmp_path, f"after abort {seed}")  # at once: nothing runs any more
        mixed.server.post("/continue_generation", {})
        assert running.rest()["meta_info"]["finish_reason"]["type"] == "abort"
    assert min(pauses) < 0.9  # SGLang's own takes a second and more
    mixed.ask([prompt])


PAUSED_AND_CONTINUED = """
import asyncio
from types import SimpleNamespace
from rlkv_patches.sglang.mixed import pausing
from sglang.srt.managers.tokenizer_manager import TokenizerManager
from sglang.srt.utils.aio_rwlock import RWLock

class Manager:
    continue_generation = TokenizerManager.continue_generation
    aborts, idle = 0, True

    def __init__(self):
        self.model_update_lock, self.is_pause_cond, self.is_pause = RWLock(), asyncio.Condition(), False

    def abort_request(self, abort_all):
        self.aborts += 1

    async def _async_dispatch_to_scheduler(self, request):
        pass

    async def get_internal_state(self):
        return [{"rlkv": {"idle": self.idle}}]

    async def respond(self, seconds):
        async with self.model_update_lock.reader_lock:
            await asyncio.sleep(seconds)

async def main():
    manager, request = Manager(), SimpleNamespace(mode="abort", torch_empty_cache=False)
    response = asyncio.create_task(manager.respond(0.5))
    await asyncio.sleep(0.01)
    pause = asyncio.create_task(pausing.pause_soon(TokenizerManager.pause_generation, manager, request))
    await asyncio.sleep(0.1)
    await asyncio.gather(response, pause, manager.continue_generation(request))
    print(manager.is_pause, manager.aborts)
    manager.idle, pausing.IDLE_LIMIT_S = False, 0.1
    await pausing.pause_soon(TokenizerManager.pause_generation, manager, request)
    print(manager.is_pause)

asyncio.run(main())
"""


def test_to_continue_during_a_pause_waits_for_it() -> None:
    """With SGLang's own locks; a scheduler that never becomes idle ends the pause all the same."""
    done = run_code(PAUSED_AND_CONTINUED)
    assert done.stdout.split() == ["False", "1", "True"]


TRAINER = """
import json, sys, threading, urllib.error, urllib.request
import torch
from rlkv_eval.throughput.launch import free_port
from safetensors.torch import load_file
from sglang.srt.utils import init_custom_process_group

url, ranks, meeting, version, path = sys.argv[1:]
tensors = load_file(path)
answers = []

def post(route, body):
    kind = {"Content-Type": "application/json"}
    request = urllib.request.Request(url + route, json.dumps(body).encode(), kind)
    try:
        answers.append(json.loads(urllib.request.urlopen(request, timeout=120).read()))
    except urllib.error.HTTPError as error:
        answers.append(json.loads(error.read()))

def meanwhile(route, body):
    thread = threading.Thread(target=post, args=(route, body))
    thread.start()
    return thread

world = 1 + int(ranks)
where = {"master_address": "127.0.0.1", "master_port": int(meeting), "rank_offset": 1, "world_size": world}
joining = meanwhile("/init_weights_update_group", {**where, "group_name": "gates", "backend": "gloo"})
group = init_custom_process_group(
    backend="gloo", init_method=f"tcp://127.0.0.1:{meeting}", world_size=world, rank=0, group_name="gates"
)
joining.join()
for tag, sent in (("bad", {n: t + 1 for n, t in tensors.items()}), (version, tensors)):
    body = {"names": list(sent), "dtypes": ["float32"] * len(sent), "group_name": "gates"}
    body |= {"shapes": [list(t.shape) for t in sent.values()], "weight_version": tag}
    updating = meanwhile("/update_weights_from_distributed", body)
    for tensor in sent.values():
        torch.distributed.broadcast(tensor, src=0, group=group)
    updating.join()
post("/update_weights_from_distributed", {**body, "group_name": "nobody"})
print(json.dumps(answers))
"""


def update_through_a_group(mixed: Mixed, gates: torch.Tensor, folder: Path, ranks: int) -> None:
    """A trainer in a process of its own broadcasts gates to the server; bad ones first, which are refused."""
    save_file(named(gates), folder / "sent.safetensors")
    where = [mixed.server.url, str(ranks), str(free_port()), "sent", str(folder / "sent.safetensors")]
    done = run_code(TRAINER, *where, timeout=250, check=False)
    assert done.returncode == 0, done.stderr
    joined, bad, good, unknown = json.loads(done.stdout.splitlines()[-1])
    assert joined["success"], joined
    assert not bad["success"]
    assert "expected a number in [0, 1]; the old gates are kept" in bad["message"]
    assert good["success"], good
    assert not unknown["success"]
    assert "Group nobody not in" in unknown["message"]
    mixed.gates, mixed.version = gates, "sent"


def test_an_update_through_a_process_group(mixed: Mixed, tmp_path: Path) -> None:
    update_through_a_group(mixed, random_gates(11), tmp_path, ranks=1)
    mixed.ask([random_tokens(random.Random(6), 100)])
    assert mixed.server.cache()["gate_version"] == "sent"


@pytest.mark.full_matrix
@pytest.mark.parametrize("page_size", [1, 16])
def test_little_memory_and_pages_change_nothing(tmp_path: Path, page_size: int) -> None:
    """Requests are admitted by their prompts alone, so that some are retracted."""
    path = heads_file(tmp_path / "heads.json")
    flags = ["--rlkv-gates", str(path), "--weight-version", "first", "--chunked-prefill-size", str(CHUNK)]
    flags += ["--page-size", str(page_size), "--max-total-tokens", str(SHORT_POOL)]
    pages = {"SGLANG_CHECK_KV_PAGE_INVARIANTS": "1"}
    with Server([*flags, "--schedule-conservativeness", "0"], tmp_path, pages) as server:
        mixed = Mixed(server, torch.tensor(HeadsFile.read(path).gates), "first")
        ask_cold_cached_chunked_and_batched(mixed, page_size)
        rng = random.Random(8)
        prompts = [random_tokens(rng, rng.choice(LENGTHS[:-1])) for _ in range(16)]
        for version, seed in (("second", 14), ("third", 15)):
            before = server.log.read_text().count("Retract requests")
            mixed.replace(random_gates(seed), tmp_path, version)
            mixed.ask(prompts, 150)
            assert server.log.read_text().count("Retract requests") > before
        server.flush()
        time.sleep(1)
        mixed.ask(prompts[:1])  # a server whose idle check found a slot lost has ended


@pytest.mark.full_matrix
def test_two_tensor_parallel_ranks(tmp_path: Path) -> None:
    """Each rank has half of the gates; tokens and updates are those of one rank."""
    path = heads_file(tmp_path / "heads.json")
    flags = ["--rlkv-gates", str(path), "--weight-version", "first", "--max-total-tokens", "8192"]
    server = Server([*flags, "--chunked-prefill-size", str(CHUNK), "--tp", "2"], tmp_path)
    try:
        mixed = Mixed(server, torch.tensor(HeadsFile.read(path).gates), "first")
        rng = random.Random(7)
        prompts = [random_tokens(rng, length) for length in (5, 64, 200)]
        mixed.ask(prompts)
        mixed.replace(random_gates(12), tmp_path, "from disk")
        mixed.ask(prompts)
        status, answer = mixed.update(tmp_path / "nowhere", "bad")
        assert (status, answer["success"]) == (400, False)
        update_through_a_group(mixed, random_gates(13), tmp_path, ranks=2)
        mixed.ask(prompts)
    finally:
        server.stop()
