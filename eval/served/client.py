"""Sends prompts to an OpenAI-compatible completions endpoint, many at once; hands on what comes back."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from http.client import HTTPException
from queue import SimpleQueue
from threading import Event, Lock, Thread
from typing import Any

from rlkv.errors import DataError

from .connection import Connection

PLAIN_SAMPLING = {"top_k": -1, "min_p": 0.0, "repetition_penalty": 1.0}
"""A server would put in what the model's generation_config.json recommends."""

PAUSES_S = (0.5, 1.0)
"""Seconds before a request that failed is tried once more, and once again."""

PASSING = frozenset((408, 409, 429, 500, 502, 503, 504))
"""Statuses that the next try may not meet."""


@dataclass(frozen=True)
class Request:
    """One prompt.

    Attributes:
        index: given back with the reply.
        prompt: token ids.
        seed: of the sampling, None where greedy.
    """

    index: int
    prompt: list[int]
    seed: int | None


@dataclass(frozen=True)
class Reply:
    """What the server wrote.

    Attributes:
        index: of the request.
        token_ids: new tokens, the end-of-sequence token included where the model wrote one.
        finish_reason: ``stop`` or ``length``.
    """

    index: int
    token_ids: tuple[int, ...]
    finish_reason: str


@dataclass(frozen=True)
class Endpoint:
    """A server and how it is asked.

    Attributes:
        url: of the server, without ``/v1``.
        model: name that the server gave its model.
        max_tokens: token limit of an answer.
        temperature: 0 is greedy.
        top_p: nucleus of sampling.
        concurrency: requests in flight.
    """

    url: str
    model: str
    max_tokens: int
    temperature: float
    top_p: float
    concurrency: int


def ask(endpoint: Endpoint, requests: Sequence[Request]) -> Iterator[list[Reply]]:
    """Send the requests, a number of them at a time, and hand on the replies as they come.

    Each request in flight has a thread and a connection of its own: however long the caller takes over some
    replies, the server gets its next requests at once. Plain sockets, because a general client takes
    milliseconds of CPU time a request (``scripts/bench_harness.py``), which a server on this machine lacks.

    Raises:
        DataError: the server cannot be reached, refused a request, or gave no token ids.
    """
    ready: SimpleQueue[Reply | BaseException] = SimpleQueue()
    crew = _Crew(endpoint, requests, ready)
    try:
        left = len(requests)
        while left:
            replies = [ready.get()]
            while not ready.empty():
                replies.append(ready.get())
            good = [reply for reply in replies if isinstance(reply, Reply)]
            if good:
                yield good
            left -= len(good)
            for error in replies:
                if isinstance(error, BaseException):
                    raise error
    finally:
        crew.stop()


class _Crew:
    """Threads that ask one request after another until none is left."""

    def __init__(
        self, endpoint: Endpoint, requests: Sequence[Request], ready: SimpleQueue[Reply | BaseException]
    ) -> None:
        self._endpoint = endpoint
        self._ready = ready
        self._waiting = iter(requests)
        self._taking = Lock()
        self._stopped = Event()
        count = min(endpoint.concurrency, len(requests))
        self._connections = [Connection(endpoint.url) for _ in range(count)]
        self._threads = [Thread(target=self._work, args=(own,), daemon=True) for own in self._connections]
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """Break off what is in flight, which the server notices."""
        self._stopped.set()
        for connection in self._connections:
            connection.abort()
        for thread in self._threads:
            thread.join()

    def _work(self, connection: Connection) -> None:
        try:
            while not self._stopped.is_set():
                with self._taking:
                    request = next(self._waiting, None)
                if request is None:
                    return
                self._ready.put(self._ask(connection, request))
        except (DataError, OSError, HTTPException) as error:
            found = f"{self._endpoint.url}: {error}; answers so far are kept, run again to go on"
            self._ready.put(DataError(found))
        except BaseException as error:
            self._ready.put(error)
        finally:
            connection.close()

    def _ask(self, connection: Connection, request: Request) -> Reply:
        body = json.dumps(completion_body(self._endpoint, request)).encode()
        for pause in (*PAUSES_S, None):
            try:
                status, content = connection.post("/v1/completions", body)
            except (OSError, HTTPException):
                connection.close()  # the next try opens it anew
                if pause is None:
                    raise
            else:
                if pause is None or status not in PASSING:
                    return _reply(self._endpoint, request, status, content)
            self._stopped.wait(pause)
        raise AssertionError("the last try returns or raises")


def completion_body(endpoint: Endpoint, request: Request) -> dict[str, Any]:
    """What ``/v1/completions`` is sent."""
    return {
        "model": endpoint.model,
        "prompt": request.prompt,
        "max_tokens": endpoint.max_tokens,
        "temperature": endpoint.temperature,
        "top_p": endpoint.top_p,
        "seed": request.seed,
        **PLAIN_SAMPLING,
        "return_token_ids": True,
    }


def _reply(endpoint: Endpoint, request: Request, status: int, content: bytes) -> Reply:
    if status != 200:
        raise DataError(f"status {status}: {content[:300].decode(errors='replace')}")
    try:
        (choice,) = json.loads(content)["choices"]
        token_ids, finish_reason = choice.get("token_ids"), choice["finish_reason"]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataError(f"the reply is no completion: {content[:300].decode(errors='replace')}") from error
    if token_ids is None:
        raise DataError("the reply has no token_ids, expected a server that knows return_token_ids")
    if finish_reason not in ("stop", "length"):
        raise DataError(f"an answer ended with {finish_reason!r}, expected stop or length")
    if finish_reason == "length" and len(token_ids) < endpoint.max_tokens:
        raise DataError(
            f"an answer was cut at {len(token_ids)} tokens, expected room for {endpoint.max_tokens}: "
            "the server's context is too short"
        )
    return Reply(request.index, tuple(token_ids), finish_reason)
