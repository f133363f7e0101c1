"""The YAML file of ``rlkv eval run``: every option by its name, and flags before it."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path

import pytest
from rlkv_eval.config import EvalConfig
from rlkv_eval.config_file import read_config

from rlkv.errors import ConfigError
from rlkv.window import Window

EVERYTHING = """
out: runs/x
heads: {rlkv: heads.json, duo: duo.json}
model: tiny-reasoner
tasks: [tiny:easy, tiny:hard]
data-dir: data
allow-unsandboxed-code: false
split: test
n: 20
samples: 2
methods: full,rlkv
sparsities: [0.5, 1]
budgets: 0.8,0.5
budget-schedule: fixed
method-options: [r-kv.window=4]
window: 4+28
seed: 3
random-seeds: 2
ablation-problems: 8
max-new-tokens: 100
temperature: 1
top-p: 0.95
thinking: false
dtype: bfloat16
device: cpu
batch-size: 7
serve: true
server-flags: --page-size 16
concurrency: 5
"""


def write(folder: Path, text: str) -> Path:
    path = folder / "config.yaml"
    path.write_text(text)
    return path


def test_every_option_can_be_written(tmp_path: Path) -> None:
    settings = read_config(write(tmp_path, EVERYTHING))
    config = EvalConfig(**settings)
    assert (config.out, config.data_dir) == (Path("runs/x"), Path("data"))
    assert config.heads == {"rlkv": "heads.json", "duo": "duo.json"}
    assert (config.tasks, config.methods) == (("tiny:easy", "tiny:hard"), ("full", "rlkv"))
    assert (config.sparsities, config.window) == ((0.5, 1.0), Window(4, 28))
    assert (config.budgets, config.budget_schedule) == ((0.8, 0.5), "fixed")
    assert config.method_options == ("r-kv.window=4",)
    assert (config.temperature, config.top_p, config.thinking) == (1.0, 0.95, False)
    assert (config.n, config.samples, config.seed, config.batch_size) == (20, 2, 3, 7)
    assert (config.serve, config.server_flags, config.concurrency) == (True, "--page-size 16", 5)
    left_out = {field.name for field in fields(EvalConfig)} - settings.keys()
    assert left_out == {"endpoint"}, f"add {left_out} to EVERYTHING"
    assert read_config(write(tmp_path, "endpoint: http://here")) == {"endpoint": "http://here"}


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("problems: 3", "config.yaml: found option 'problems', expected some of out, heads, model"),
        ("n: many", "config.yaml: n is 'many', expected int"),
        ("n: true", "config.yaml: n is True, expected int"),
        ("n: 20.5", "config.yaml: n is 20.5, expected int"),
        ("model: 7", "config.yaml: model is 7, expected str"),
        ("heads: a.json", "config.yaml: heads is 'a.json', expected Mapping"),
        ("tasks: [[tiny]]", "config.yaml: tasks is [['tiny']], expected TASK[:LEVEL]"),
        ("sparsities: [half]", "sparsities: found 'half', expected numbers"),
        ("thinking: 1", "config.yaml: thinking is 1, expected bool"),
        ("- a", "config.yaml: found list, expected a mapping of options to values"),
        ("a: [", "config.yaml: is no YAML"),
    ],
)
def test_refusals(tmp_path: Path, line: str, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        read_config(write(tmp_path, line))
    assert message in str(caught.value) and "\n" not in str(caught.value)
