"""What a server with the hybrid cache says of itself, and how it ends when it cannot serve it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from rlkv_eval.throughput.client import drive, random_prompts, server_info
from rlkv_eval.throughput.config import FULL, Workload
from rlkv_eval.throughput.run import cache_in_use
from rlkv_patches.sglang.serve import cpu_environment
from sglang_server import INSTALLED, MODEL, RUN_PARSER, Server, run_code
from tiny_heads import heads_file
from transformers import DeepseekV2Config, Gemma2Config, LlamaConfig, MistralConfig
from typer.testing import CliRunner

from rlkv.cli.main import app
from rlkv.errors import DataError

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not INSTALLED, reason="sglang is not installed, see third_party/README.md"),
]

CHUNK = 64


@pytest.fixture(scope="module")
def heads(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return heads_file(tmp_path_factory.mktemp("heads") / "heads.json")


@pytest.fixture(scope="module")
def server(heads: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    flags = ["--rlkv-heads", str(heads), "--mem-fraction-static", "0.5"]
    flags += ["--rlkv-request-tokens", "1000", "--chunked-prefill-size", str(CHUNK)]
    running = Server([*flags, "--enable-metrics"], tmp_path_factory.mktemp("sglang"))
    try:
        yield running
    finally:
        running.stop()


def test_memory_is_what_rlkv_plan_says_to_the_byte(server: Server, heads: Path) -> None:
    info = server.cache()
    args = ["plan", "--model", str(MODEL), "--heads", str(heads), "--kv-bytes", str(info["budget_bytes"])]
    args += ["--element-bytes", "4", "--chunked-prefill-size", str(CHUNK), "--json"]
    done = CliRunner().invoke(app, [*args, "--prompt-tokens", "400", "--output-tokens", "1200"])
    assert done.exit_code == 0, done.output
    plan = json.loads(done.stdout)
    for name in ("full_tokens", "window_tokens", "pool_bytes", "full_token_bytes", "dense_token_bytes"):
        assert plan[name] == info[name], name
    assert 0 <= info["budget_bytes"] - info["pool_bytes"] < info["dense_token_bytes"] * 2
    assert sum(info["streaming_heads"]) == 24
    assert info["dense_token_bytes"] == 8 * 6 * 64 * 2 * 4


def test_length_of_requests_is_observed(server: Server) -> None:
    assert server.cache()["request_tokens_observed"] == 0
    server.generate([5] * 300, 64)
    assert 300 <= server.cache()["request_tokens_observed"] <= 364


def test_table_at_start(server: Server) -> None:
    log = server.log.read_text()
    assert "RLKV: 24 of 48 KV heads stream, window 4+28" in log
    assert "KV bytes of a token beyond the window" in log


def test_gauges_agree_with_server_info(server: Server) -> None:
    server.generate([5] * 200, 8)
    info = server.cache()
    gauges = {
        line.split("{")[0]: float(line.rsplit(" ", 1)[1])
        for line in server.get("/metrics").splitlines()
        if line.startswith("rlkv:")
    }
    assert gauges["rlkv:full_pool_tokens"] == info["full_tokens"]
    assert gauges["rlkv:window_pool_tokens"] == info["window_tokens"]
    assert gauges["rlkv:pool_bytes"] == info["pool_bytes"]
    assert {"rlkv:bytes_saved", "rlkv:window_tokens_freed", "rlkv:full_tokens_used"} <= gauges.keys()


def test_openai_chat_and_stream(server: Server) -> None:
    body = {
        "model": "tiny-reasoner",
        "messages": [{"role": "user", "content": "1 + 2"}],
        "max_tokens": 12,
        "temperature": 0,
    }
    whole = server.post("/v1/chat/completions", body)["choices"][0]["message"]["content"]
    events = server.post("/v1/chat/completions", {**body, "stream": True}).splitlines()
    parts = [json.loads(line[6:]) for line in events if line.startswith("data: {")]
    streamed = "".join(part["choices"][0]["delta"].get("content") or "" for part in parts if part["choices"])
    assert streamed == whole != ""


def test_throughput_bench_drives_a_running_server(server: Server) -> None:
    lengths = [40, 70, 1]
    timelines = drive(server.url, random_prompts(Workload(20, lengths), 700)[1], lengths)
    assert [line.tokens[-1] for line in timelines] == lengths
    for line, length in zip(timelines, lengths, strict=True):
        # Every 32 tokens and at the end; a server that is behind puts two reports into one.
        assert set(line.tokens) <= {1, 33, 65, length}
        assert line.tokens[0] == 1 and list(line.tokens) == sorted(set(line.tokens))
    assert all(list(line.times) == sorted(line.times) for line in timelines)
    assert cache_in_use(server_info(server.url), "0.5", server.url)["full_tokens"] > 0
    with pytest.raises(DataError, match=r"serves 0.5, expected full"):
        cache_in_use(server_info(server.url), FULL, server.url)
    with pytest.raises(DataError, match="/generate"):
        drive(server.url, [[5] * 20], [4000])  # beyond the context


REFUSED = {
    "--speculative-algorithm NGRAM": "--speculative-algorithm: found 'NGRAM'",
    "--disaggregation-mode prefill": "--disaggregation-mode: found 'prefill'",
    "--enable-hierarchical-cache": "--enable-hierarchical-cache: found True",
    "--enable-lora": "--enable-lora: found True",
    "--kv-cache-dtype fp8_e4m3": "--kv-cache-dtype: found 'fp8_e4m3'",
    "--tp 4": "--tp-size: found 4, expected a divisor of the 6 KV heads of a layer",
    "--tp 2 --load-format gguf": "--load-format: found 'gguf'",
    "--pp-size 2": "--pp-size: found 2",
    "--dp-size 2": "--dp-size: found 2",
    "--lora-paths a=b": "--lora-paths: found",
    "--enable-lmcache": "--enable-lmcache: found True",
    "--cpu-offload-gb 1": "--cpu-offload-gb: found 1",
    "--enable-torch-compile": "--enable-torch-compile: found True",
    "--is-embedding": "--is-embedding: found True",
    "--enable-mis": "--enable-mis: found True",
    "--enable-deterministic-inference": "--enable-deterministic-inference: found True",
    "--swa-full-tokens-ratio 0.5": "--swa-full-tokens-ratio: found 0.5",
    "--disable-hybrid-swa-memory": "--disable-hybrid-swa-memory: found True",
    "--tp 2 --weight-cache-mode client": "--weight-cache-mode: found 'client'",
    "--disaggregation-mode decode": "--disaggregation-mode: found 'decode'",
    "--speculative-algorithm EAGLE": "--speculative-algorithm: found 'EAGLE'",
    "--kv-cache-dtype fp8_e5m2": "--kv-cache-dtype: found 'fp8_e5m2'",
    "--attention-backend triton": "--attention-backend: found 'triton'",
    "--radix-cache-backend lmcache": "--radix-cache-backend: found 'lmcache'",
    "--rlkv-sparsity 1.5": "sparsity is 1.5, expected a number in [0, 1]",
    "--rlkv-recent-size 0": "window: recent_size is 0",
    "--rlkv-request-tokens 9999": "--rlkv-request-tokens: found 9999, expected 1 to 2048",
    '--json-model-override-args {"num_key_value_heads":3}': "model.num_kv_heads is 6, expected 3",
}


def other_models(folder: Path) -> dict[str, str]:
    """Flags of models that the hybrid cache does not fit, and what the refusal says; configs alone."""
    common = {"num_hidden_layers": 2, "hidden_size": 64, "num_attention_heads": 4, "vocab_size": 100}
    configs = {
        "mla": DeepseekV2Config(architectures=["DeepseekV2ForCausalLM"], **common),
        "gemma": Gemma2Config(architectures=["Gemma2ForCausalLM"], num_key_value_heads=2, **common),
        "mistral": MistralConfig(architectures=["MistralForCausalLM"], sliding_window=64, **common),
        "classifier": LlamaConfig(architectures=["LlamaForSequenceClassification"], **common),
    }
    for name, config in configs.items():
        config.save_pretrained(folder / name)
    said = {
        "mla": "has latent attention (MLA), expected KV heads",
        "gemma": "has layers of type sliding_attention, expected full attention in every layer",
        "classifier": "generates no text, expected a model that does",
        "mistral": "has a sliding window (sliding_window is 64), expected full attention in every layer",
    }
    return {f"--model-path {folder / name}": words for name, words in said.items()}


def test_what_is_not_served_is_refused_in_one_line(heads: Path, tmp_path: Path) -> None:
    """All in one process: importing SGLang takes ten seconds."""
    refused = REFUSED | other_models(tmp_path)
    flags = ["--model-path", str(MODEL), "--device", "cpu", "--rlkv-heads", str(heads)]
    done = run_code(RUN_PARSER, *flags, input="\n".join(refused))
    errors = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert done.stderr.splitlines().count("status 2") == len(refused)
    for expected, found in zip(refused.values(), errors, strict=True):
        assert expected in found


ODD_LAYERS = """
import torch
from rlkv.errors import UnsupportedError
from rlkv_patches.sglang.attention_layers import check_layers
from sglang.srt.layers.radix_attention import AttentionType, RadixAttention

def model(**odd):
    return torch.nn.ModuleList([RadixAttention(4, 32, 1.0, 2, layer_id=i, **odd) for i in range(2)])

print(check_layers(model(), 2))
odd = [{"logit_cap": 30.0}, {"attn_type": AttentionType.ENCODER_ONLY}, {"is_cross_attention": True}]
for options, layers in [*((one, 2) for one in odd), ({"sliding_window_size": 64}, 2), ({}, 3)]:
    try:
        check_layers(model(**options), layers)
    except UnsupportedError as error:
        print(error)
"""


def test_layers_that_are_not_plain_attention_are_refused_whatever_the_config_says() -> None:
    done = run_code(ODD_LAYERS)
    assert done.stdout.splitlines() == [
        "{0: '0', 1: '1'}",
        "ModuleList: 0 caps its logits, expected plain causal attention in every layer",
        "ModuleList: 0 is encoder_only, expected plain causal attention in every layer",
        "ModuleList: 0 attends to another sequence, expected plain causal attention in every layer",
        "ModuleList: 0 has a window, expected plain causal attention in every layer",
        "ModuleList: found 2 attention layers, expected one in each of 3 layers",
    ]


LAUNCH_BROKEN = """
import os, sys
if __name__ == "__main__":
    from sglang.srt.plugins import load_plugins
    from sglang.srt.server_args import prepare_server_args
    load_plugins()
    args = prepare_server_args(sys.argv[2:])
    exec(sys.argv[1])
    from sglang.launch_server import run_server
    run_server(args)
"""

BROKEN = {
    "os.environ['SGLANG_PLUGINS'] = 'another'": "--radix-cache-backend='rlkv' is not registered",
    "del args._rlkv": "the prefix cache found a pool of type MHATokenToKVPool, expected HybridHeadPool",
}
"""What goes wrong between the launching process and its scheduler, and what the server then says."""


@pytest.mark.parametrize(("defect", "expected"), BROKEN.items(), ids=["no plugin", "no settings"])
def test_a_scheduler_that_would_serve_the_dense_model_ends_the_server(
    heads: Path, tmp_path: Path, defect: str, expected: str
) -> None:
    script = tmp_path / "launch.py"
    script.write_text(LAUNCH_BROKEN)
    flags = ["--model-path", str(MODEL), "--device", "cpu", "--dtype", "float32", "--rlkv-heads", str(heads)]
    done = subprocess.run(
        [sys.executable, str(script), defect, *flags, "--max-total-tokens", "1024", "--skip-server-warmup"],
        env={**os.environ, **cpu_environment(os.environ), "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"},
        capture_output=True,
        text=True,
        timeout=250,
        check=False,
    )
    assert done.returncode != 0
    assert expected in done.stdout + done.stderr


BREAK_A_HOOK = """
from rlkv_patches.sglang import hooks, install
from rlkv_patches.sglang.settings import Settings
from rlkv.window import Window
real = install.hooks()
install.hooks = lambda: [*real, hooks.Hook("sglang.srt.managers.scheduler.Scheduler.gone", "after", print)]
install.install(Settings("f", "m", 0.5, Window(4, 28), ((True, False),), 100), None, "cpu")
print("serving")
"""


def test_a_hook_that_is_not_in_place_ends_the_process() -> None:
    done = run_code(BREAK_A_HOOK, check=False)
    assert done.returncode != 0
    assert "serving" not in done.stdout
    errors = [
        line for line in done.stderr.splitlines() if line.startswith("error: --rlkv-heads cannot be served")
    ]
    assert len(errors) == 1
    assert "Scheduler.gone is not in place" in errors[0]


def test_without_the_flag_the_server_is_the_stock_one(tmp_path: Path) -> None:
    stock = Server(["--max-total-tokens", "4096"], tmp_path)
    try:
        assert "rlkv" not in json.loads(stock.get("/server_info"))["internal_states"][0]
        log = stock.log.read_text()
        assert "impl=RadixCache" in log
        assert (
            "kv_cache_configurator" not in log
        )  # the hooks of a hybrid cache are named when they are applied
        assert len(stock.generate([5] * 100, 8)["output_ids"]) == 8
    finally:
        stock.stop()
