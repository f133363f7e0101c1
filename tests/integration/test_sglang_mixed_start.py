"""Which servers with mixed attention do not start, and what they say."""

from __future__ import annotations

import pytest
from sglang_server import INSTALLED, MODEL, RUN_PARSER, run_code

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not INSTALLED, reason="sglang is not installed, see third_party/README.md"),
]

REFUSED = {
    "--rlkv-gates ones --rlkv-heads tiny-reasoner": "--rlkv-heads: given with --rlkv-gates",
    "--rlkv-gates ones --rlkv-sparsity 0.5": "--rlkv-sparsity: given with --rlkv-gates",
    "--rlkv-gates nowhere.json": "nowhere.json: no such file, nor a heads file shipped",
    "--rlkv-gates ones --rlkv-recent-size 0": "window: recent_size is 0",
    "--rlkv-gates ones --pp-size 2": "--pp-size: found 2 with --rlkv-gates",
    "--rlkv-gates ones --tokenizer-worker-num 2": "--tokenizer-worker-num: found 2 with --rlkv-gates",
    "--rlkv-gates ones --enable-lora": "--enable-lora: found True with --rlkv-gates",
    "--rlkv-gates ones --attention-backend triton": "--attention-backend: found 'triton' with --rlkv-gates",
    "--rlkv-gates ones --device xpu": "--device: found 'xpu' with --rlkv-gates, expected cpu or cuda",
    '--rlkv-gates tiny-reasoner --json-model-override-args {"num_key_value_heads":3}': "is 6, expected 3",
}


def test_what_is_not_served_is_refused_in_one_line() -> None:
    flags = ["--model-path", str(MODEL), "--device", "cpu"]
    done = run_code(RUN_PARSER, *flags, input="\n".join(REFUSED))
    errors = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert done.stderr.splitlines().count("status 2") == len(REFUSED)
    for expected, found in zip(REFUSED.values(), errors, strict=True):
        assert expected in found


BROKEN = """
from types import SimpleNamespace
import torch
from rlkv_patches.sglang.carry import carry
from rlkv_patches.sglang.mixed import process
from rlkv_patches.sglang.mixed.settings import MixedSettings
from rlkv.window import Window

def attempt(make):
    try:
        make()
    except Exception as error:
        print(error)

settings = MixedSettings("f", ((1.0,),), Window(4, 28))
arguments = SimpleNamespace(weight_version="default")
runner = SimpleNamespace(server_args=arguments, token_to_kv_pool=object(), model=torch.nn.Linear(1, 1))
attempt(lambda: process.prepare(runner))
carry(arguments, settings)
attempt(lambda: process.prepare(runner))
context = SimpleNamespace(tp_worker=SimpleNamespace(model_runner=runner))
attempt(lambda: process.create_prefix_cache(context))
"""


def test_a_scheduler_that_would_not_mix_does_not_start() -> None:
    done = run_code(BROKEN)
    start = "--rlkv-gates cannot be served, and the server ends: "
    assert done.stdout.splitlines() == [
        start + "a scheduler process has no gates",
        start + "the KV pool is object, expected MHATokenToKVPool",
        start + "the model of a scheduler process has no gates",
    ]
