"""Solve problems with any server that speaks OpenAI's protocol, greedily, with many requests in flight."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator
from concurrent.futures import FIRST_COMPLETED, Future, wait
from contextlib import contextmanager
from itertools import islice
from threading import Thread
from types import ModuleType
from typing import TYPE_CHECKING, Any

from rlkv.data.buckets import Sample
from rlkv.data.responses import Response, ResponseGrader
from rlkv.data.sampling import Attempts
from rlkv.data.source import Problem
from rlkv.errors import ConfigError, DataError, RLKVError
from rlkv.models import shipped_models

if TYPE_CHECKING:
    from openai import AsyncOpenAI

RETRIES = 5
"""Tries after the first one, with pauses that double from half a second."""

API_KEY = "OPENAI_API_KEY"

THOUGHT_FIELDS = ("reasoning", "reasoning_content")
"""Where servers put a thought that they split off: vLLM dropped the second name for the first in its pull
request 33402; SGLang has the second."""


class EndpointSolver:
    """A ``rlkv.data.sampling.Solver`` behind an endpoint.

    Args:
        url: of the server, with or without ``/v1``.
        model: by a name that the server gives it, or a shipped model's name for its path.
        max_new_tokens: responses that do not end by then are not solutions.
        thinking: the answer stands after ``</think>`` (``rlkv.grading.grade``).
        in_flight: requests at the same time.
        timeout_s: longest that one try of a request may take.

    Raises:
        ConfigError: the server does not serve this model.
        DataError: the server does not answer.
        RLKVError: the package ``openai`` is not installed.
    """

    def __init__(
        self, url: str, model: str, max_new_tokens: int, thinking: bool, in_flight: int, timeout_s: float
    ) -> None:
        self.url = url
        self.max_new_tokens = max_new_tokens
        self.in_flight = in_flight
        self._grader = ResponseGrader(thinking)
        self._openai = _import_openai()
        self._options = _client_options(url, timeout_s)
        self.model = self._served_name(model)

    def __call__(self, problems: Iterator[tuple[int, Problem]]) -> Attempts:
        running: dict[Future[Response], tuple[int, Problem]] = {}
        with _background_loop() as loop:
            client = self._openai.AsyncOpenAI(**self._options)
            try:
                while True:
                    for item in islice(problems, self.in_flight - len(running)):
                        running[asyncio.run_coroutine_threadsafe(self._ask(client, item[1]), loop)] = item
                    if not running:
                        return
                    finished = wait(running, return_when=FIRST_COMPLETED).done
                    failure = next((error for future in finished if (error := future.exception())), None)
                    whole = [future for future in finished if future.exception() is None]
                    if whole:
                        yield self._attempts([(*running.pop(future), future.result()) for future in whole])
                    if failure is not None:
                        raise failure
            finally:
                for future in running:
                    future.cancel()  # closes its connection, and the server stops generating
                asyncio.run_coroutine_threadsafe(client.close(), loop).result()

    def _attempts(self, answered: list[tuple[int, Problem, Response]]) -> list[tuple[int, Sample | None]]:
        numbers, problems, responses = zip(*answered, strict=True)
        return list(zip(numbers, self._grader.samples(problems, responses), strict=True))

    async def _ask(self, client: AsyncOpenAI, problem: Problem) -> Response:
        with self._one_line_errors():
            reply = await client.chat.completions.create(
                model=self.model,
                messages=[{"role": "user", "content": problem.prompt}],
                temperature=0.0,
                max_tokens=self.max_new_tokens,
            )
        choice = reply.choices[0]
        if reply.usage is None:
            raise DataError(f"{self.url}: a reply has no usage.completion_tokens, expected them in each")
        return Response(_text(choice.message), reply.usage.completion_tokens, choice.finish_reason)

    def _served_name(self, model: str) -> str:
        with self._openai.OpenAI(**self._options) as client, self._one_line_errors():
            served = [entry.id for entry in client.models.list().data]
        for name in (model, str(shipped_models().get(model))):
            if name in served:
                return name
        raise ConfigError(f"{self.url}: serves {', '.join(served) or 'nothing'}, expected {model}")

    @contextmanager
    def _one_line_errors(self) -> Iterator[None]:
        """Around a request, whose retries the client makes.

        Raises:
            DataError: it failed for good.
        """
        try:
            yield
        except self._openai.APITimeoutError as error:
            raise DataError(f"{self.url}: no answer in time, {RETRIES + 1} times in a row") from error
        except self._openai.APIConnectionError as error:
            cause = error.__cause__ or error
            raise DataError(
                f"{self.url}: cannot be reached, {RETRIES + 1} times in a row: {cause}"
            ) from error
        except self._openai.APIStatusError as error:
            said = error.body.get("message") if isinstance(error.body, dict) else None
            text = " ".join(str(said or error.message).split())[:300]
            raise DataError(f"{self.url}: answered with status {error.status_code}: {text}") from error


@contextmanager
def _background_loop() -> Iterator[asyncio.AbstractEventLoop]:
    """A loop in a thread of its own, for requests that go on while the caller grades; cancels what is left.

    Requests are tasks and not threads because a thread that waits for an answer cannot be woken: it would
    hold up the end of the program until the answer is there.
    """
    loop = asyncio.new_event_loop()
    stop = asyncio.Event()

    def serve() -> None:
        with asyncio.Runner(loop_factory=lambda: loop) as runner:
            runner.run(stop.wait())

    thread = Thread(target=serve, name="endpoint", daemon=True)
    thread.start()
    try:
        yield loop
    finally:
        loop.call_soon_threadsafe(stop.set)
        thread.join()


def _import_openai() -> ModuleType:
    try:
        import openai
    except ImportError as error:
        raise RLKVError("--endpoint needs openai: pip install 'rlkv[train]'") from error
    return openai


def _client_options(url: str, timeout_s: float) -> dict[str, Any]:
    base = url.rstrip("/")
    base = base if base.endswith("/v1") else f"{base}/v1"
    # A local server wants no key, and the client insists on one.
    key = os.environ.get(API_KEY) or "none"
    return {"base_url": base, "api_key": key, "timeout": timeout_s, "max_retries": RETRIES}


def _text(message: Any) -> str:
    """The whole response; some servers split the thought off."""
    thoughts = (getattr(message, field, None) for field in THOUGHT_FIELDS)
    thought = next((found for found in thoughts if found is not None), None)
    answer = message.content or ""
    return answer if thought is None else f"{thought}</think>{answer}"
