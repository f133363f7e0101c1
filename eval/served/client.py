"""Sends prompts to an OpenAI-compatible completions endpoint, many at once; hands on what comes back."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from queue import SimpleQueue
from threading import Thread
from typing import TYPE_CHECKING, Any

from rlkv.errors import DataError

if TYPE_CHECKING:
    from openai import AsyncOpenAI

PLAIN_SAMPLING = {"top_k": -1, "min_p": 0.0, "repetition_penalty": 1.0}
"""A server would put in what the model's generation_config.json recommends."""


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

    The requests live in a thread of their own: however long the caller takes over some replies, the server
    gets its next requests at once.

    Raises:
        DataError: the server cannot be reached, refused a request, or gave no token ids.
    """
    ready: SimpleQueue[Reply | BaseException] = SimpleQueue()
    loop = asyncio.new_event_loop()
    work = loop.create_task(_ask_all(endpoint, requests, ready))
    thread = Thread(target=_run, args=(loop, work, ready), daemon=True)
    thread.start()
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
        loop.call_soon_threadsafe(work.cancel)
        thread.join()
        loop.close()


def _run(loop: asyncio.AbstractEventLoop, work: asyncio.Task[None], ready: SimpleQueue[Any]) -> None:
    try:
        loop.run_until_complete(work)
    except asyncio.CancelledError:
        pass  # the caller wants no more
    except BaseException as error:
        ready.put(error)


async def _ask_all(endpoint: Endpoint, requests: Sequence[Request], ready: SimpleQueue[Any]) -> None:
    import httpx
    from openai import AsyncOpenAI, OpenAIError

    waiting = iter(requests)
    limits = httpx.Limits(max_connections=endpoint.concurrency)
    http = httpx.AsyncClient(limits=limits, timeout=None, trust_env=False)
    client = AsyncOpenAI(base_url=f"{endpoint.url}/v1", api_key="none", http_client=http, timeout=None)

    async def worker() -> None:
        for request in waiting:
            ready.put(await _ask_one(client, endpoint, request))

    async with client:
        try:
            async with asyncio.TaskGroup() as group:
                for _ in range(min(endpoint.concurrency, len(requests))):
                    group.create_task(worker())
        except* (OpenAIError, DataError) as errors:
            first = errors.exceptions[0]
            raise DataError(
                f"{endpoint.url}: {first}; answers so far are kept, run again to go on"
            ) from first


async def _ask_one(client: AsyncOpenAI, endpoint: Endpoint, request: Request) -> Reply:
    completion = await client.completions.create(
        model=endpoint.model,
        prompt=request.prompt,
        max_tokens=endpoint.max_tokens,
        temperature=endpoint.temperature,
        top_p=endpoint.top_p,
        seed=request.seed,
        extra_body={**PLAIN_SAMPLING, "return_token_ids": True},
    )
    choice = completion.choices[0]
    token_ids = (choice.model_extra or {}).get("token_ids")
    if token_ids is None:
        raise DataError("the reply has no token_ids, expected a server that knows return_token_ids")
    if choice.finish_reason not in ("stop", "length"):
        raise DataError(f"an answer ended with {choice.finish_reason!r}, expected stop or length")
    if choice.finish_reason == "length" and len(token_ids) < endpoint.max_tokens:
        raise DataError(
            f"an answer was cut at {len(token_ids)} tokens, expected room for {endpoint.max_tokens}: "
            "the server's context is too short"
        )
    return Reply(request.index, tuple(token_ids), choice.finish_reason)
