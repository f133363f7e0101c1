"""heads.json: what is written is read back, what is malformed is refused by reader and schema alike."""

import copy
import errno
import json
import math
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from transformers import LlamaConfig, Qwen3Config

from rlkv.errors import HeadsFileError
from rlkv.heads import SCHEMA_PATH, HeadsFile, MeasuredAccuracy, ModelShape, Provenance
from rlkv.window import Window

SCHEMA = json.loads(SCHEMA_PATH.read_text())
VALIDATOR = jsonschema.Draft202012Validator(SCHEMA)

VALID: dict[str, Any] = {
    "format_version": 1,
    "model": {
        "model_id": "org/tiny",
        "revision": None,
        "model_type": "llama",
        "num_layers": 3,
        "num_kv_heads": 2,
        "num_query_heads": 4,
        "head_dim": 16,
    },
    "gates": [[0, 1], [0.25, 0.5], [0.1, 1.0]],
    "training_window": {"sink_size": 128, "recent_size": 256},
    "serving_window": {"sink_size": 0, "recent_size": 64},
    "recommended_sparsity": 0.5,
    "measured": [
        {
            "task": "math500",
            "sparsity": 0.5,
            "accuracy": 0.87,
            "num_problems": 500,
            "window": {"sink_size": 16, "recent_size": 64},
        }
    ],
    "provenance": {
        "recipe": {"learning_rate": 0.01, "tags": ["a"]},
        "data": "org/data@1",
        "steps": 100,
        "seed": 0,
        "packages": {"torch": "2.13"},
    },
}


def heads_file(**changes: Any) -> HeadsFile:
    fields: dict[str, Any] = {
        "model": ModelShape("org/tiny", "abc", "llama", 3, 2, 4, 16),
        "gates": ((0.0, 1.0), (0.25, 0.1), (1 / 3, 0.30000001192092896)),
        "training_window": Window(128, 256),
        "serving_window": Window(16, 64),
        "recommended_sparsity": 0.5,
        "measured": (MeasuredAccuracy("math500", 0.5, 0.87, 500, Window(16, 64)),),
        "provenance": Provenance({"lr": 0.01}, "org/data", 100, 7, {"torch": "2.13"}),
    }
    return HeadsFile(**fields | changes)


def edited(path: str, value: Any) -> Callable[[dict[str, Any]], None]:
    """An edit that sets the field at a dotted path; numbers index arrays."""

    def edit(data: Any) -> None:
        *parents, last = [int(part) if part.isdigit() else part for part in path.split(".")]
        for parent in parents:
            data = data[parent]
        data[last] = value

    return edit


def removed(path: str) -> Callable[[dict[str, Any]], None]:
    def edit(data: Any) -> None:
        *parents, last = path.split(".")
        for parent in parents:
            data = data[int(parent) if parent.isdigit() else parent]
        del data[last]

    return edit


IN_SCHEMA, BEYOND_SCHEMA = True, False
FRACTION = "expected a number in [0, 1]"
MISSING = "is missing, expected in every file of this format_version"

ALL_FIELDS = [
    *VALID,
    *(f"model.{name}" for name in VALID["model"]),
    *(f"serving_window.{name}" for name in VALID["serving_window"]),
    *(f"measured.0.{name}" for name in VALID["measured"][0]),
    *(f"provenance.{name}" for name in VALID["provenance"]),
]

# edit of the valid file, the line after "FILE: ", whether the schema can express it
MALFORMED = [
    (edited("format_version", 2), "format_version is 2, expected at most 1: a newer rlkv", IN_SCHEMA),
    (edited("format_version", 0), "format_version is 0, expected an integer of at least 1", IN_SCHEMA),
    (edited("format_version", "1"), "format_version is '1', expected an integer of at least 1", IN_SCHEMA),
    (edited("format_version", True), "format_version is true, expected an integer of at least 1", IN_SCHEMA),
    *[(removed(name), f"{name.replace('.0.', '[0].')} {MISSING}", IN_SCHEMA) for name in ALL_FIELDS],
    (edited("gate", []), "gate is an unknown field, expected only format_version, model, gates,", IN_SCHEMA),
    (edited("a\nb", 1), r"'a\nb' is an unknown field, expected only format_version, model,", IN_SCHEMA),
    (edited("model.layers", 3), "model.layers is an unknown field, expected only model_id,", IN_SCHEMA),
    (edited("measured.0.window.W", 1), "measured[0].window.W is an unknown field, expected only", IN_SCHEMA),
    (edited("model", None), "model is null, expected an object", IN_SCHEMA),
    (edited("model.model_id", ""), "model.model_id is '', expected a non-empty string", IN_SCHEMA),
    (edited("model.revision", 7), "model.revision is 7, expected a non-empty string", IN_SCHEMA),
    (edited("model.model_type", None), "model.model_type is null, expected a non-empty string", IN_SCHEMA),
    (
        edited("model.num_layers", "3"),
        "model.num_layers is '3', expected an integer of at least 1",
        IN_SCHEMA,
    ),
    (edited("model.num_layers", 3.0), "model.num_layers is 3.0, expected an integer", BEYOND_SCHEMA),
    (edited("model.num_layers", 4), "gates has 3 rows, expected 4 as in model.num_layers", BEYOND_SCHEMA),
    (edited("model.num_kv_heads", 1), "gates[0] has 2 values, expected 1 as in model.num_kv", BEYOND_SCHEMA),
    (edited("model.num_kv_heads", True), "model.num_kv_heads is true, expected an integer", IN_SCHEMA),
    (edited("model.num_query_heads", 5), "model.num_query_heads is 5, expected a multiple of", BEYOND_SCHEMA),
    (edited("model.head_dim", 0), "model.head_dim is 0, expected an integer of at least 1", IN_SCHEMA),
    (edited("gates", {}), "gates is an object of 0, expected an array", IN_SCHEMA),
    (edited("gates", []), "gates has 0 rows, expected 3 as in model.num_layers", IN_SCHEMA),
    (edited("gates.1", [0.5]), "gates[1] has 1 values, expected 2 as in model.num_kv_heads", BEYOND_SCHEMA),
    (edited("gates.1", 0.5), "gates[1] is 0.5, expected an array", IN_SCHEMA),
    (edited("gates.1", "ab"), "gates[1] is 'ab', expected an array", IN_SCHEMA),
    (edited("gates.2.1", math.nan), f"gates[2][1] is NaN, {FRACTION}", BEYOND_SCHEMA),
    (edited("gates.2.1", math.inf), f"gates[2][1] is inf, {FRACTION}", IN_SCHEMA),
    (edited("gates.2.1", -math.inf), f"gates[2][1] is -inf, {FRACTION}", IN_SCHEMA),
    (edited("gates.0.1", 1.0000001), f"gates[0][1] is 1.0000001, {FRACTION}", IN_SCHEMA),
    (edited("gates.0.1", -1e-9), f"gates[0][1] is -1e-09, {FRACTION}", IN_SCHEMA),
    (edited("gates.0.1", 10**400), f"gates[0][1] is an integer of over 60 digits, {FRACTION}", IN_SCHEMA),
    (edited("gates.0.1", "0.5"), f"gates[0][1] is '0.5', {FRACTION}", IN_SCHEMA),
    (edited("gates.0.1", None), f"gates[0][1] is null, {FRACTION}", IN_SCHEMA),
    (edited("gates.0.1", True), f"gates[0][1] is true, {FRACTION}", IN_SCHEMA),
    (edited("gates.0.1", [1]), f"gates[0][1] is an array of 1, {FRACTION}", IN_SCHEMA),
    (edited("training_window", "128+256"), "training_window is '128+256', expected an object", IN_SCHEMA),
    (
        edited("training_window.sink_size", -1),
        "training_window.sink_size is -1, expected an integer",
        IN_SCHEMA,
    ),
    (edited("serving_window.recent_size", 0), "serving_window.recent_size is 0, expected an int", IN_SCHEMA),
    (edited("recommended_sparsity", 1.5), f"recommended_sparsity is 1.5, {FRACTION}", IN_SCHEMA),
    (edited("recommended_sparsity", math.nan), f"recommended_sparsity is NaN, {FRACTION}", BEYOND_SCHEMA),
    (edited("recommended_sparsity", None), f"recommended_sparsity is null, {FRACTION}", IN_SCHEMA),
    (edited("measured", {}), "measured is an object of 0, expected an array", IN_SCHEMA),
    (edited("measured.0", 1), "measured[0] is 1, expected an object", IN_SCHEMA),
    (edited("measured.0.task", ""), "measured[0].task is '', expected a non-empty string", IN_SCHEMA),
    (edited("measured.0.sparsity", -0.1), f"measured[0].sparsity is -0.1, {FRACTION}", IN_SCHEMA),
    (edited("measured.0.accuracy", 87), f"measured[0].accuracy is 87, {FRACTION}", IN_SCHEMA),
    (edited("measured.0.num_problems", 0), "measured[0].num_problems is 0, expected an integer", IN_SCHEMA),
    (edited("measured.0.window.recent_size", 0), "measured[0].window.recent_size is 0, expected", IN_SCHEMA),
    (edited("provenance", []), "provenance is an array of 0, expected an object", IN_SCHEMA),
    (edited("provenance.recipe", "grpo"), "provenance.recipe is 'grpo', expected an object", IN_SCHEMA),
    (edited("provenance.recipe.lr", math.nan), "provenance.recipe holds", BEYOND_SCHEMA),
    (edited("provenance.data", None), "provenance.data is null, expected a non-empty string", IN_SCHEMA),
    (edited("provenance.steps", -1), "provenance.steps is -1, expected an integer of at least 0", IN_SCHEMA),
    (edited("provenance.seed", 0.5), "provenance.seed is 0.5, expected an integer of at least 0", IN_SCHEMA),
    (edited("provenance.packages", None), "provenance.packages is null, expected an object", IN_SCHEMA),
    (edited("provenance.packages.torch", 2), "provenance.packages.torch is 2, expected a non-em", IN_SCHEMA),
]


def refusal(path: Path) -> str:
    """The message with which a file is refused, checked to be one line."""
    with pytest.raises(HeadsFileError) as caught:
        HeadsFile.read(path)
    message = str(caught.value)
    assert len(message.splitlines()) == 1
    return message


def test_the_schema_is_a_schema_and_takes_what_the_reader_takes(tmp_path: Path) -> None:
    jsonschema.Draft202012Validator.check_schema(SCHEMA)
    VALIDATOR.validate(VALID)
    assert HeadsFile.from_json(VALID).gates == ((0.0, 1.0), (0.25, 0.5), (0.1, 1.0))
    unknown = copy.deepcopy(VALID) | {"measured": []}
    unknown["provenance"] |= {"steps": None, "seed": None, "recipe": {}}
    VALIDATOR.validate(unknown)
    assert HeadsFile.from_json(unknown).provenance.steps is None


@pytest.mark.parametrize(("edit", "line", "in_schema"), MALFORMED, ids=[case[1][:48] for case in MALFORMED])
def test_malformed_files_are_refused(
    edit: Callable[[dict[str, Any]], None], line: str, in_schema: bool, tmp_path: Path
) -> None:
    data = copy.deepcopy(VALID)
    edit(data)
    path = tmp_path / "heads.json"
    path.write_text(json.dumps(data))
    assert refusal(path).startswith(f"{path}: {line}")
    assert VALIDATOR.is_valid(data) is not in_schema


@pytest.mark.parametrize(
    ("content", "line"),
    [
        (b"", "is not JSON: Expecting value: line 1 column 1 (char 0)"),
        (b'{"format_version": 1,', "is not JSON: "),
        (b"\xff\xfe", "is not JSON: 'utf-8' codec can't decode byte 0xff"),
        (b"[" * 100_000, "is not JSON: "),
        (b'{"gates": ' + b"9" * 5000 + b"}", "is not JSON: "),
        (b"[]", "the top level is an array of 0, expected an object"),
        (b'{"format_version": 1, "format_version": 1}', "'format_version' is given twice, expected once"),
        (b'{"format_version": 2, "heads": []}', "format_version is 2, expected at most 1"),
    ],
)
def test_files_that_are_no_heads_file_are_refused(content: bytes, line: str, tmp_path: Path) -> None:
    path = tmp_path / "heads.json"
    path.write_bytes(content)
    assert refusal(path).startswith(f"{path}: {line}")


def test_files_that_cannot_be_read_are_refused(tmp_path: Path) -> None:
    missing = tmp_path / "heads.json"
    assert refusal(missing) == f"{missing}: cannot read: No such file or directory"
    assert refusal(tmp_path) == f"{tmp_path}: cannot read: Is a directory"


def test_an_invalid_heads_file_cannot_be_made() -> None:
    with pytest.raises(HeadsFileError, match=r"^gates\[2\]\[0\] is NaN, expected a number in \[0, 1\]$"):
        heads_file(gates=[[0, 1], [0, 1], [math.nan, 1]])
    with pytest.raises(HeadsFileError, match=r"^recommended_sparsity is 2, "):
        heads_file(recommended_sparsity=2)


def test_write_then_read_gives_the_same_file(tmp_path: Path) -> None:
    heads = heads_file()
    path = tmp_path / "heads.json"
    heads.write(path)
    assert HeadsFile.read(path) == heads  # 1/3 and a float32 too: no digit is lost
    VALIDATOR.validate(json.loads(path.read_text()))
    assert [entry.name for entry in tmp_path.iterdir()] == ["heads.json"]
    again = tmp_path / "again.json"
    HeadsFile.read(path).write(again)
    assert again.read_bytes() == path.read_bytes()


def test_a_layer_of_gates_is_a_line(tmp_path: Path) -> None:
    path = tmp_path / "heads.json"
    heads_file().write(path)
    assert "    [0.25, 0.1],\n" in path.read_text()


def test_permissions_are_those_of_a_plain_write_and_are_kept(tmp_path: Path) -> None:
    path, plain = tmp_path / "heads.json", tmp_path / "plain"
    heads_file().write(path)
    plain.touch()
    assert path.stat().st_mode == plain.stat().st_mode
    path.chmod(0o640)
    heads_file(recommended_sparsity=0.25).write(path)
    assert path.stat().st_mode & 0o777 == 0o640


def test_a_full_disk_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "heads.json"
    heads_file().write(path)
    old = path.read_bytes()

    def no_space(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", no_space)
    with pytest.raises(HeadsFileError) as caught:
        heads_file(recommended_sparsity=0.25).write(path)
    assert str(caught.value) == f"{path}: cannot write: No space left on device (an old file stays as it was)"
    assert path.read_bytes() == old
    assert [entry.name for entry in tmp_path.iterdir()] == ["heads.json"]


def in_child(path: Path, setup: str) -> subprocess.CompletedProcess[str]:
    """Rewrite a heads file with another sparsity in a process of its own, after ``setup``."""
    program = (
        "import dataclasses, os, resource, signal, sys\n"
        "from rlkv.heads import HeadsFile\n"
        "heads = dataclasses.replace(HeadsFile.read(sys.argv[1]), recommended_sparsity=0.25)\n"
        f"{setup}\n"
        "heads.write(sys.argv[1])\n"
    )
    return subprocess.run([sys.executable, "-c", program, path], capture_output=True, text=True, check=False)


def test_a_write_cut_half_way_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "heads.json"
    heads_file().write(path)
    old = path.read_bytes()
    limit = (
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN); resource.setrlimit(resource.RLIMIT_FSIZE, (100, 100))"
    )
    result = in_child(path, limit)
    assert result.stderr.splitlines()[-1] == (
        f"rlkv.errors.HeadsFileError: {path}: cannot write: File too large (an old file stays as it was)"
    )
    assert path.read_bytes() == old
    assert [entry.name for entry in tmp_path.iterdir()] == ["heads.json"]


def test_a_kill_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "heads.json"
    heads_file().write(path)
    old = path.read_bytes()
    result = in_child(path, "os.fsync = lambda descriptor: os.kill(os.getpid(), signal.SIGKILL)")
    assert result.returncode == -signal.SIGKILL
    assert path.read_bytes() == old


def llama_config(**changes: Any) -> LlamaConfig:
    sizes = {
        "num_hidden_layers": 3,
        "num_key_value_heads": 2,
        "num_attention_heads": 4,
        "hidden_size": 64,
    }
    return LlamaConfig(**sizes | changes)


def test_shape_from_config() -> None:
    shape = ModelShape.from_config(llama_config(), model_id="org/tiny", revision="abc")
    assert shape == ModelShape("org/tiny", "abc", "llama", 3, 2, 4, 16)
    config = Qwen3Config(
        num_hidden_layers=2, num_key_value_heads=8, num_attention_heads=32, hidden_size=64, head_dim=128
    )
    shape = ModelShape.from_config(config, model_id="q")
    assert shape == ModelShape("q", None, "qwen3", 2, 8, 32, 128)


def test_check_model_takes_the_model_the_file_was_made_for() -> None:
    heads_file().check_model(llama_config(), "heads.json")


@pytest.mark.parametrize(
    ("config", "line"),
    [
        (llama_config(num_hidden_layers=4), "model.num_layers is 3, expected 4"),
        (llama_config(num_key_value_heads=4), "model.num_kv_heads is 2, expected 4"),
        (llama_config(num_attention_heads=8, head_dim=16), "model.num_query_heads is 4, expected 8"),
        (llama_config(head_dim=32), "model.head_dim is 16, expected 32"),
        (
            Qwen3Config(
                num_hidden_layers=3, num_key_value_heads=2, num_attention_heads=4, hidden_size=64, head_dim=16
            ),
            "model.model_type is 'llama', expected 'qwen3'",
        ),
    ],
)
def test_check_model_refuses_another_model(config: Any, line: str) -> None:
    config.name_or_path = "org/served"
    with pytest.raises(HeadsFileError) as caught:
        heads_file().check_model(config, "heads.json")
    assert str(caught.value) == f"heads.json: {line} as in the model org/served"
