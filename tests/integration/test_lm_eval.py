"""lm_eval against our server: the same problems, the same verdicts, the same accuracy as our own harness."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
import rlkv_eval
from rlkv_eval.config import EvalConfig
from rlkv_eval.records import read_journal
from rlkv_eval.runner import evaluate
from rlkv_eval.tasks import get_task
from sglang_server import INSTALLED, Server

pytestmark = [
    pytest.mark.full_matrix,
    pytest.mark.skipif(not INSTALLED, reason="sglang is not installed, see third_party/README.md"),
    pytest.mark.skipif(find_spec("lm_eval") is None, reason="lm_eval is not installed: make lm-eval"),
]

TASKS = Path(rlkv_eval.__file__).parent / "interop" / "lm_eval_tasks"
LEVEL, PROBLEMS, SPARSITY = "easy", 100, 0.8


def lm_eval(url: str, out: Path) -> tuple[float, dict[str, tuple[str, bool]]]:
    """Accuracy of a served model, and by problem its answer and the verdict."""
    model = f"model=tiny-reasoner,base_url={url}/v1/chat/completions,num_concurrent=8"
    command = [sys.executable, "-m", "lm_eval", "run", "--model", "local-chat-completions"]
    command += ["--model_args", model, "--include_path", str(TASKS), "--tasks", "rlkv_tiny"]
    command += ["--metadata", json.dumps({"n": PROBLEMS}), "--apply_chat_template"]
    command += ["--log_samples", "--output_path", str(out)]
    offline = {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "OPENAI_API_KEY": "none"}
    done = subprocess.run(command, env={**os.environ, **offline}, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    [results], [samples] = out.rglob("results_*.json"), out.rglob("samples_*.jsonl")
    rows = [json.loads(line) for line in samples.open()]
    answers = {row["doc"]["id"]: (row["resps"][0][0], bool(row["acc"])) for row in rows}
    return json.loads(results.read_text())["results"]["rlkv_tiny"]["acc,none"], answers


def test_same_accuracy_as_our_harness(tmp_path: Path) -> None:
    assert (
        f"max_gen_toks: {get_task('tiny').max_new_tokens(LEVEL)}\n" in (TASKS / "rlkv_tiny.yaml").read_text()
    )
    flags = ["--rlkv-heads", "tiny-reasoner", "--rlkv-sparsity", str(SPARSITY)]
    with Server(flags, tmp_path) as server:
        accuracy, answers = lm_eval(server.url, tmp_path / "lm_eval")
    config = EvalConfig(
        out=tmp_path / "run", tasks=(f"tiny:{LEVEL}",), n=PROBLEMS, methods=("rlkv",), sparsities=(SPARSITY,)
    )
    [result] = evaluate(config)
    assert accuracy == pytest.approx(result.accuracy) and 0 < accuracy < 1
    _, samples = read_journal(tmp_path / "run" / result.file)
    assert answers == {sample.id: (sample.text, sample.correct) for sample in samples}
    print(f"lm_eval {accuracy:.3f}, rlkv eval {result.accuracy:.3f}, n = {PROBLEMS}, sparsity {SPARSITY}")
