"""What a served comparison refuses: a server that runs something else, replies that lack something."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import torch
from rlkv_eval.checkpoint import Checkpoint, locate
from rlkv_eval.config import EvalConfig
from rlkv_eval.runner import answerer
from rlkv_eval.served import client
from rlkv_eval.served.check import cache_type, check_server, number_type
from rlkv_eval.served.client import Endpoint, Reply, Request, ask
from rlkv_eval.throughput.client import server_info

from rlkv.errors import ConfigError, DataError
from rlkv.generation import HeadSplit
from rlkv.window import Window

MODEL = "tiny-reasoner"
SPLIT = HeadSplit(torch.tensor([[True, False], [False, True]]), Window(4, 16))
CACHE = {"mask": ["sF", "Fs"], "sink_size": 4, "recent_size": 16, "sparsity": 0.5, "heads_file": "own.json"}


@pytest.fixture(scope="module")
def checkpoint() -> Checkpoint:
    return Checkpoint(locate(MODEL))


def info(cache: dict[str, Any] | None, **changed: Any) -> dict[str, Any]:
    """What a server says, as far as it is looked at."""
    state = {} if cache is None else {"rlkv": cache}
    base = {"model_path": MODEL, "dtype": "float32", "kv_cache_dtype": "auto", "internal_states": [state]}
    return base | changed


def test_the_asked_configuration_is_accepted(checkpoint: Checkpoint) -> None:
    check_server(info(CACHE), MODEL, checkpoint, "float32", SPLIT)
    check_server(info(None), MODEL, checkpoint, "float32", None)
    check_server(info(None, model_path=str(checkpoint.folder)), MODEL, checkpoint, "float32", None)


def test_a_copy_of_the_model_is_the_model(checkpoint: Checkpoint, tmp_path: Path) -> None:
    for file in checkpoint.folder.iterdir():
        (tmp_path / file.name).symlink_to(file)
    check_server(info(None, model_path=str(tmp_path)), MODEL, checkpoint, "float32", None)


@pytest.mark.parametrize(
    ("found", "split", "message"),
    [
        (info(CACHE, model_path="other/model"), SPLIT, "model is other/model, expected tiny-reasoner"),
        (info(CACHE, dtype="bfloat16"), SPLIT, "dtype is bfloat16, expected float32"),
        (info(CACHE), None, "cache is hybrid at sparsity 0.5, expected full"),
        (info(None), SPLIT, "cache is full, expected a hybrid one"),
        (
            info({**CACHE, "mask": ["Fs", "Fs"]}),
            SPLIT,
            "2 heads stream at sparsity 0.5 of own.json",
        ),
        (info({**CACHE, "mask": ["ss", "Fs"]}), SPLIT, "expected the 2 of the comparison: 1 heads differ"),
        (info({**CACHE, "mask": ["sF"]}), SPLIT, "heads is ['sF'], expected ['sF', 'Fs']"),
        (info({**CACHE, "recent_size": 17}), SPLIT, "window is 4+17, expected 4+16"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_another_configuration_is_refused(
    checkpoint: Checkpoint, found: dict[str, Any], split: HeadSplit | None, message: str
) -> None:
    with pytest.raises(ConfigError, match=r"^server: ") as caught:
        check_server(found, MODEL, checkpoint, "float32", split)
    assert message in str(caught.value) and "\n" not in str(caught.value)


def test_every_scheduler_is_looked_at(checkpoint: Checkpoint) -> None:
    states = [{"rlkv": CACHE}, {"rlkv": {**CACHE, "sink_size": 5}}]
    with pytest.raises(ConfigError, match=r"window is 5\+16"):
        check_server(info(CACHE, internal_states=states), MODEL, checkpoint, "float32", SPLIT)


@pytest.mark.parametrize(
    ("dtype", "cache", "expected"),
    [
        ("float32", "auto", ("float32", "float32")),
        ("half", "bf16", ("float16", "bfloat16")),
        ("auto", "fp8_e5m2", ("bfloat16", "fp8_e5m2")),
    ],
)
def test_types(checkpoint: Checkpoint, dtype: str, cache: str, expected: tuple[str, str]) -> None:
    found = info(None, dtype=dtype, kv_cache_dtype=cache)
    assert str(checkpoint.model_config.dtype) == "torch.bfloat16"
    assert (number_type(found, checkpoint), cache_type(found, checkpoint)) == expected


def test_an_unknown_cache_type_is_refused(checkpoint: Checkpoint) -> None:
    with pytest.raises(ConfigError, match="kv_cache_dtype is 'int3', expected one of float32"):
        cache_type(info(None, kv_cache_dtype="int3"), checkpoint)


def test_one_running_server_has_one_cache(checkpoint: Checkpoint) -> None:
    config = EvalConfig(out=Path("run"), methods=("full", "rlkv"), endpoint="http://127.0.0.1:9")
    with pytest.raises(
        ConfigError, match=r"7 caches are compared \(full, rlkv at 0.3, ...\), expected the one"
    ):
        answerer(config, checkpoint)


def test_nobody_at_the_address(checkpoint: Checkpoint) -> None:
    config = EvalConfig(out=Path("run"), methods=("full",), endpoint="http://127.0.0.1:9/v1")
    with pytest.raises(DataError, match=r"http://127\.0\.0\.1:9/server_info: found no SGLang server"):
        answerer(config, checkpoint)


@contextmanager
def replying(body: dict[str, Any], status: int = 200, fail: Sequence[int] = ()) -> Iterator[str]:
    """A server that says the same to everything; its address.

    Args:
        fail: statuses that come before; 0 is a connection that breaks.
    """
    failures = iter(fail)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"  # keeps connections open

        def do_POST(self) -> None:
            self.rfile.read(int(self.headers.get("Content-Length", 0)))
            content = json.dumps(body).encode()
            found = next(failures, status)
            if not found:
                self.close_connection = True
                return
            self.send_response(found)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(content)))
            with suppress(BrokenPipeError):  # a client that has given up
                self.end_headers()
                self.wfile.write(content)

        do_GET = do_POST  # noqa: N815 - the name that the base class asks for

        def log_message(self, *args: Any) -> None: ...

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()


def completion(**choice: Any) -> dict[str, Any]:
    base = {"index": 0, "text": "", "finish_reason": "stop", "token_ids": [5, 6]}
    return {
        "id": "a",
        "object": "text_completion",
        "created": 0,
        "model": "m",
        "choices": [base | choice],
    }


def asked(url: str, count: int) -> list[Reply]:
    endpoint = Endpoint(url, "m", max_tokens=8, temperature=0.0, top_p=1.0, concurrency=3)
    requests = [Request(index, [1, 2, 3], None) for index in range(count)]
    return [reply for replies in ask(endpoint, requests) for reply in replies]


def test_every_request_is_answered_once() -> None:
    with replying(completion()) as url:
        replies = asked(url, 20)
    assert sorted(reply.index for reply in replies) == list(range(20))
    assert {(reply.token_ids, reply.finish_reason) for reply in replies} == {((5, 6), "stop")}


def test_who_wants_no_more_can_leave() -> None:
    endpoint = Endpoint("", "m", max_tokens=8, temperature=0.0, top_p=1.0, concurrency=2)
    with replying(completion()) as url:
        replies = ask(Endpoint(**{**vars(endpoint), "url": url}), [Request(i, [1], None) for i in range(500)])
        next(replies)
        replies.close()
    assert threading.active_count() < 10


@pytest.mark.parametrize(
    ("body", "status", "message"),
    [
        (completion(token_ids=None), 200, "the reply has no token_ids"),
        (completion(finish_reason="content_filter"), 200, "ended with 'content_filter', expected stop or"),
        (completion(finish_reason="length"), 200, "an answer was cut at 2 tokens, expected room for 8"),
        ({"message": "too long"}, 400, 'status 400: {"message": "too long"}; answers so far are kept'),
    ],
    ids=["no ids", "reason", "cut", "status"],
)
def test_replies_that_are_refused(body: dict[str, Any], status: int, message: str) -> None:
    with replying(body, status) as url, pytest.raises(DataError) as caught:
        asked(url, 5)
    assert message in str(caught.value) and str(caught.value).startswith(url)


def test_a_server_that_is_busy_or_breaks_off_is_asked_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client, "PAUSES_S", (0.0, 0.0))
    with replying(completion(), fail=[503, 0]) as url:
        assert len(asked(url, 1)) == 1
    with replying(completion(), fail=[503, 503, 503]) as url, pytest.raises(DataError, match="status 503"):
        asked(url, 1)


def test_server_info_of_something_else() -> None:
    with replying({"detail": "not found"}, 404) as url, pytest.raises(DataError, match="no SGLang server"):
        server_info(url)
