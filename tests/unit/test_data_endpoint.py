"""``rlkv data --endpoint`` against servers that fail in every way a server can."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from rlkv.data import Journal, Problem, Selection, collect, endpoint, parse_buckets
from rlkv.data.endpoint import EndpointSolver
from rlkv.data.responses import Response, ResponseGrader
from rlkv.errors import ConfigError, DataError

MODEL = "small"
Answer = tuple[int, dict[str, Any]] | None
"""Status and body; None never answers, as a server that still generates."""

Reply = Callable[[int, dict[str, Any]], Answer]
"""From the number of the request and its body."""


@dataclass
class Server:
    """A server that does what ``reply`` says, and remembers what it was asked."""

    reply: Reply
    bodies: list[dict[str, Any]] = field(default_factory=list)
    most_at_once: int = 0
    given_up: threading.Semaphore = field(default_factory=lambda: threading.Semaphore(0))
    """Counts the clients that went away without an answer."""
    _now: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def answer(self, body: dict[str, Any]) -> Answer:
        with self._lock:
            self.bodies.append(body)
            number = len(self.bodies) - 1
            self._now += 1
            self.most_at_once = max(self.most_at_once, self._now)
        try:
            return self.reply(number, body)
        finally:
            with self._lock:
                self._now -= 1


@pytest.fixture
def start(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[Reply], tuple[Server, str]]]:
    """Starts a server; gives it and its address. Requests are tried twice, without a pause."""
    monkeypatch.setattr(endpoint, "RETRIES", 1)
    monkeypatch.setattr("openai._base_client.INITIAL_RETRY_DELAY", 0.01)
    running: list[ThreadingHTTPServer] = []

    def begin(reply: Reply) -> tuple[Server, str]:
        server = Server(reply)

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self.send(200, {"object": "list", "data": [{"id": MODEL, "object": "model"}]})

            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                answer = server.answer(body)
                if answer is None:
                    assert self.connection.recv(1) == b"", "nothing follows a request"
                    server.given_up.release()
                else:
                    self.send(*answer)

            def send(self, status: int, body: dict[str, Any]) -> None:
                text = json.dumps(body).encode()
                self.send_response(status)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(text)))
                self.end_headers()
                with suppress(ConnectionError):  # clients that are done leave
                    self.wfile.write(text)

            def log_message(self, *_: Any) -> None:
                """Quiet."""

        http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        http.daemon_threads = True
        threading.Thread(target=http.serve_forever, daemon=True).start()
        running.append(http)
        return server, f"http://127.0.0.1:{http.server_address[1]}"

    yield begin
    for http in running:
        http.shutdown()
        http.server_close()


def completion(text: str, tokens: int, **message: Any) -> dict[str, Any]:
    choice = {
        "index": 0,
        "finish_reason": "stop",
        "message": {"role": "assistant", "content": text, **message},
    }
    usage = {"prompt_tokens": 1, "completion_tokens": tokens, "total_tokens": 1 + tokens}
    head = {"id": "1", "object": "chat.completion", "created": 0, "model": MODEL}
    return {**head, "choices": [choice], "usage": usage}


def right(number: int, body: dict[str, Any]) -> tuple[int, dict[str, Any]]:
    """The right answer to p<n>, n, in 10 + n tokens."""
    asked = body["messages"][0]["content"].removeprefix("p")
    return 200, completion(f"hm</think>\\boxed{{{asked}}}", 10 + int(asked))


def problems(count: int = 100) -> Iterator[Problem]:
    return (Problem(f"p{n}", str(n)) for n in range(count))


def solver(url: str, timeout_s: float = 30.0, in_flight: int = 4) -> EndpointSolver:
    return EndpointSolver(url, MODEL, 64, True, in_flight, timeout_s)


def run(path: Path, solve: EndpointSolver, buckets: str = "6:0-100", **options: Any) -> Selection:
    selection = Selection(parse_buckets(buckets))
    with Journal(path, {"model": MODEL}) as journal:
        collect(problems(), solve, journal, selection, **options)
    return selection


def test_requests_are_greedy_and_in_flight_together(start: Any, tmp_path: Path) -> None:
    together = threading.Barrier(4, timeout=20)

    def slow(number: int, body: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        if number < 4:
            together.wait()  # passes only if four requests are under way at once
        return right(number, body)

    server, url = start(slow)
    selection = run(tmp_path / "j", solver(url))
    assert [s.prompt for s in selection.kept[0]] == [f"p{n}" for n in range(6)]
    assert [s.response_length for s in selection.kept[0]] == [10 + n for n in range(6)]
    assert server.most_at_once == 4
    assert all(b["temperature"] == 0 and b["max_tokens"] == 64 and b["model"] == MODEL for b in server.bodies)


def test_result_does_not_depend_on_which_answer_comes_first(start: Any, tmp_path: Path) -> None:
    def late_first(number: int, body: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        time.sleep(0.3 if number == 0 else 0.0)
        return right(number, body)

    _, url = start(late_first)
    selection = run(tmp_path / "j", solver(url), buckets="3:0-100")
    assert [s.prompt for s in selection.kept[0]] == ["p0", "p1", "p2"]


@pytest.mark.parametrize(
    "thought",
    [{"reasoning": "hm"}, {"reasoning_content": "hm"}, {"reasoning": None, "reasoning_content": "hm"}],
)
def test_a_thought_split_off_by_the_server_counts(thought: dict, start: Any, tmp_path: Path) -> None:
    _, url = start(lambda number, body: (200, completion("\\boxed{0}", 5, **thought)))
    assert run(tmp_path / "j", solver(url), max_problems=1).solved == 1


@pytest.mark.parametrize(("solved", "warnings"), [(-1, 1), (63, 0), (64, 1)])
def test_first_problems_without_a_solution_are_pointed_out_once(
    solved: int, warnings: int, start: Any, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    """A server drops the thought, and ``</think>`` with it, of all problems but one."""

    def dropped(number: int, body: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        status, found = right(number, body)
        if number != solved:
            found["choices"][0]["message"]["content"] = "7"
        return status, found

    _, url = start(dropped)
    run(tmp_path / "j", solver(url, in_flight=1))
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == warnings
    for line in lines:
        assert line.startswith("warning: none of the first 64 problems was solved, 64 of them with: no cl")
        assert "reasoning parser" in line and "--no-thinking" in line and "--buckets" in line


def test_responses_that_are_cut_off_are_pointed_out_as_such(capsys: pytest.CaptureFixture) -> None:
    """Whatever is left of them; of the second batch only four belong to the first problems."""
    grader = ResponseGrader(True)
    cut_off, wrong = Response("\\boxed{0}", 64, "length"), Response("</think>1", 9, "stop")
    for count, response in ((60, cut_off), (40, wrong)):
        assert not any(grader.samples([Problem("p0", "0")] * count, [response] * count))
    assert "solved, 60 of them with: finish reason length; look at" in capsys.readouterr().err


def test_cut_off_and_wrong_answers_are_not_kept(start: Any, tmp_path: Path) -> None:
    def reply(number: int, body: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        status, found = right(number, body)
        if body["messages"][0]["content"] == "p1":
            found["choices"][0]["finish_reason"] = "length"
        if body["messages"][0]["content"] == "p2":
            found["choices"][0]["message"]["content"] = "</think>\\boxed{7}"
        return status, found

    _, url = start(reply)
    selection = run(tmp_path / "j", solver(url), max_problems=4)
    assert [s.prompt for s in selection.kept[0]] == ["p0", "p3"]
    assert (selection.asked, selection.solved) == (4, 2)


def test_a_server_that_stumbles_is_tried_again(start: Any, tmp_path: Path) -> None:
    server, url = start(lambda number, body: (503, {}) if number == 0 else right(number, body))
    assert run(tmp_path / "j", solver(url), max_problems=2).solved == 2
    assert len(server.bodies) == 3


def test_a_server_that_dies_ends_in_one_line_and_loses_nothing(start: Any, tmp_path: Path) -> None:
    server, url = start(lambda number, body: right(number, body) if number < 3 else (500, {"error": "gone"}))
    with pytest.raises(DataError, match=f"^{url}: answered with status 500: [^\n]*$"):
        run(tmp_path / "j", solver(url, in_flight=1))
    assert len(server.bodies) == 3 + 2, "two tries of the fourth"
    server, url = start(right)
    selection = run(tmp_path / "j", solver(url))
    assert [s.prompt for s in selection.kept[0]] == [f"p{n}" for n in range(6)]
    asked = {body["messages"][0]["content"] for body in server.bodies}
    assert not asked & {"p0", "p1", "p2"}, "nothing is asked twice"


def test_a_server_that_hangs_ends_in_one_line(start: Any, tmp_path: Path) -> None:
    def hang(number: int, body: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        time.sleep(1)
        return right(number, body)

    _, url = start(hang)
    with pytest.raises(DataError, match="no answer in time, 2 times in a row"):
        run(tmp_path / "j", solver(url, timeout_s=0.2, in_flight=1))


IN_FLIGHT = 4


def hang_but_for_p0(p0: Answer) -> Reply:
    """That answer to p0, once all other places are taken by problems without an answer."""
    together = threading.Barrier(IN_FLIGHT, timeout=20)

    def reply(number: int, body: dict[str, Any]) -> Answer:
        if number < IN_FLIGHT:
            together.wait()
        return p0 if body["messages"][0]["content"] == "p0" else None

    return reply


def assert_given_up(server: Server, count: int) -> None:
    """The server sees its clients go, none of which comes back; no thread keeps the program alive."""
    for _ in range(count):
        assert server.given_up.acquire(timeout=2)
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("endpoint")]
    time.sleep(0.1)  # retries come after 0.01 s
    assert len(server.bodies) == IN_FLIGHT


P0 = (200, completion("</think>\\boxed{0}", 10))


def test_full_buckets_end_the_requests_that_hang(start: Any, tmp_path: Path) -> None:
    server, url = start(hang_but_for_p0(P0))
    assert run(tmp_path / "j", solver(url, in_flight=IN_FLIGHT), "1:0-100").full
    assert_given_up(server, IN_FLIGHT - 1)


def test_an_error_ends_the_requests_that_hang(start: Any, tmp_path: Path) -> None:
    server, url = start(hang_but_for_p0((400, {"message": "no"})))
    with pytest.raises(DataError, match="answered with status 400: no"):
        run(tmp_path / "j", solver(url, in_flight=IN_FLIGHT))
    assert_given_up(server, IN_FLIGHT - 1)


def test_closing_ends_the_requests_that_hang(start: Any) -> None:
    server, url = start(hang_but_for_p0(P0))
    attempts = solver(url, in_flight=IN_FLIGHT)(iter(enumerate(problems())))
    assert [number for number, _ in next(attempts)] == [0]
    begin = time.monotonic()
    attempts.close()
    assert time.monotonic() - begin < 2
    assert_given_up(server, IN_FLIGHT - 1)


def test_ctrl_c_ends_the_program(start: Any, tmp_path: Path) -> None:
    server, url = start(hang_but_for_p0(None))
    words = [MODEL, "--source", "tiny", "--endpoint", url, "--in-flight", str(IN_FLIGHT)]
    process = subprocess.Popen(
        [sys.executable, "-m", "rlkv", "data", *words, "--out", str(tmp_path / "out")],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    try:
        end = time.monotonic() + 60
        while len(server.bodies) < IN_FLIGHT and process.poll() is None and time.monotonic() < end:
            time.sleep(0.05)
        process.send_signal(signal.SIGINT)
        output, _ = process.communicate(timeout=5)  # 2 s and what a busy machine adds
    finally:
        process.kill()
    assert process.returncode == 130 and "Traceback" not in output, output
    assert_given_up(server, IN_FLIGHT)


def test_refusals(start: Any, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"127.0.0.1:1: cannot be reached, 2 times in a row: [^\n]*$"):
        solver("http://127.0.0.1:1")
    _, url = start(lambda number, body: (400, {"message": "longer than the\ncontext of 64"}))
    with pytest.raises(ConfigError, match=f"{url}: serves small, expected large"):
        EndpointSolver(url, "large", 64, True, 4, 30.0)
    with pytest.raises(DataError, match=r"answered with status 400: .*longer than the context of 64"):
        run(tmp_path / "j", solver(url))
