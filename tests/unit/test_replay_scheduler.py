"""Prices of the steps in a server's log, by hand."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest

SCRIPT = Path(__file__).parents[2] / "scripts" / "replay_scheduler.py"
LOG = """
Prefill batch, #new-seq: 9, #new-token: 900, #cached-token: 0, full token usage: 0.02, #queue-req: 4
Decode batch, #running-req: 10, #full token: 1000, full token usage: 0.9, #swa token: 200, #queue-req: 3
KV cache pool is full. Retract requests. #retracted_reqs: 1
Decode batch, #running-req: 5, #token: 700, token usage: 0.92, cpu graph: False, #queue-req: 0
"""


@pytest.fixture(scope="module")
def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("replay_scheduler", SCRIPT)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def test_steps_are_priced_by_what_they_read(script: ModuleType) -> None:
    found = script.price(LOG, weights=5000, full_bytes=10, window_bytes=4, bandwidth=1e6)
    prefill = 900 / script.PREFILL_TOKENS_S
    first = 40 * ((5000 + 10 * 1000 + 4 * 200) / 1e6 + script.STEP_S + 10 * script.REQUEST_S)
    second = 40 * ((5000 + 10 * 700) / 1e6 + script.STEP_S + 5 * script.REQUEST_S)
    assert found.seconds == pytest.approx(prefill + first + second)
    assert (found.waiting_s, found.waiting_tokens) == (pytest.approx(prefill + first), 400)
    assert (found.tokens, found.prefills, found.retractions, found.most_running) == (600, 1, 1, 10)


def test_a_small_prefill_takes_the_least_time(script: ModuleType) -> None:
    line = "Prefill batch, #new-seq: 1, #new-token: 3, #cached-token: 0"
    assert script.price(line, 1, 1, 1, 1.0).seconds == script.PREFILL_S


def test_the_plugin_is_found_by_its_entry_point(script: ModuleType, tmp_path: Path) -> None:
    from importlib.metadata import distributions

    folder = script.plugin_folder(tmp_path)
    found = [entry for one in distributions(path=[str(folder)]) for entry in one.entry_points]
    assert [(entry.group, entry.value) for entry in found] == [("sglang.srt.plugins", "replay_nothing:load")]
