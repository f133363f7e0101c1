"""What ``rlkv serve`` adds on a machine without a GPU, and what it leaves alone."""

from __future__ import annotations

import os
import socket
import subprocess
import sys

import pytest
from rlkv_patches.sglang.serve import (
    CPU_IMPORTS,
    check_port,
    cpu_environment,
    located,
    server_environment,
    with_cpu_flags,
)

from rlkv.errors import ConfigError
from rlkv.models import MODELS_FOLDER


def test_given_flags_win() -> None:
    flags = with_cpu_flags(["--model-path", "m", "--dtype=bfloat16", "--device", "cpu"])
    assert flags == [
        "--model-path",
        "m",
        "--dtype=bfloat16",
        "--device",
        "cpu",
        "--mem-fraction-static",
        "0.2",
    ]


def test_environment_keeps_what_is_set() -> None:
    found = cpu_environment({"PYTHONPATH": "/mine", "SGLANG_USE_CPU_ENGINE": "0"})
    assert found == {"SGLANG_USE_CPU_ENGINE": "0", "PYTHONPATH": f"{CPU_IMPORTS}{os.pathsep}/mine"}


def test_pages_need_the_interpreter() -> None:
    assert "TRITON_INTERPRET" not in cpu_environment({}, page_size=1)
    assert cpu_environment({}, page_size=16)["TRITON_INTERPRET"] == "1"


def test_a_flag_that_is_no_number_is_left_for_the_server_to_refuse() -> None:
    flags = ["--page-size=7x", "--tp", "two"]
    assert server_environment({"A": "1"}, flags) == {"A": "1", **cpu_environment({"A": "1"})}


def test_ranks_are_told_their_cores() -> None:
    cores = sorted(os.sched_getaffinity(0))
    found = cpu_environment({}, ranks=2)["SGLANG_CPU_OMP_THREADS_BIND"].split("|")
    assert len(found) == 2
    assert {int(core) for share in found for core in share.split(",")} == set(cores)
    assert "SGLANG_CPU_OMP_THREADS_BIND" not in cpu_environment({})


def test_stand_ins_can_be_imported_and_raise_when_called() -> None:
    code = (
        "from torchvision.io import decode_jpeg\n"
        "from torchvision.transforms import InterpolationMode\n"
        "default = InterpolationMode.BICUBIC\n"
        "from sgl_kernel import assign_req_to_token_pool_cpu\n"
        "try:\n    assign_req_to_token_pool_cpu(1)\n"
        "except NotImplementedError as error:\n    print(error)\n"
        "try:\n    import sgl_kernel.scalar_type\n"
        "except ImportError:\n    print('no submodules')\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONPATH": str(CPU_IMPORTS)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.splitlines() == [
        "sgl_kernel.assign_req_to_token_pool_cpu: not available on a machine without a GPU",
        "no submodules",
    ]


def test_a_port_in_use_is_refused_before_anything_is_loaded() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        for flags in (["--port", str(port)], [f"--port={port}", "--host=127.0.0.1"]):
            with pytest.raises(ConfigError, match=f"--port: found {port}, on which 127.0.0.1 serves already"):
                check_port(flags)
    check_port(["--port", str(port)])
    check_port(["--port", "many"])


def test_a_model_that_is_nowhere_is_refused_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    assert located("tiny-reasoner") == str(MODELS_FOLDER / "tiny-reasoner")
    with pytest.raises(ConfigError) as caught:
        located("tiny-reasonr")
    said = str(caught.value)
    assert said.startswith("tiny-reasonr: cannot be loaded: ") and "\n" not in said
    assert said.endswith("; neither a folder nor a model shipped with rlkv (tiny-reasoner)")
