"""Sends requests of given lengths to a running server, all at once, and notes when their tokens come."""

from __future__ import annotations

import asyncio
import gc
import json
import random
import re
import time
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from rlkv.errors import DataError

from .config import Workload
from .timeline import Timeline

if TYPE_CHECKING:
    import httpx

REPORT_TOKENS = 32
"""New tokens between two reports of a request: few enough that neither side spends its time on them."""

COMPLETED = re.compile(r'"completion_tokens":\s*(\d+)')


def server_info(url: str) -> dict[str, Any]:
    """What a server says of itself.

    Raises:
        DataError: nobody answers at this address.
    """
    try:
        with urllib.request.urlopen(f"{url}/server_info", timeout=60) as reply:
            info: dict[str, Any] = json.loads(reply.read())
            return info
    except (OSError, ValueError) as error:
        raise DataError(f"{url}/server_info: found no SGLang server: {error}") from error


def random_prompts(load: Workload, vocabulary: int, seed: int = 0) -> tuple[list[int], list[list[int]]]:
    """The prefix that all prompts of a load share, and the prompts, as ids; a tokenizer is not needed."""
    rng = random.Random(seed)

    def draw(count: int) -> list[int]:
        return [rng.randrange(1, vocabulary) for _ in range(count)]

    shared = draw(load.shared_tokens)
    return shared, [shared + draw(load.prompt_tokens - load.shared_tokens) for _ in load.lengths]


def drive(
    url: str,
    prompts: Sequence[Sequence[int]],
    lengths: Sequence[int],
    advanced: Callable[[int], None] = lambda tokens: None,
) -> list[Timeline]:
    """Send all requests at once and wait for the last token.

    Args:
        url: of the server.
        prompts: token ids of each request.
        lengths: new tokens of each request; an end-of-sequence token does not end it.
        advanced: called with the number of new tokens as they come.

    Raises:
        DataError: a request failed, or got another number of tokens than it asked for.
    """
    import httpx

    try:
        return asyncio.run(_drive(url, prompts, lengths, advanced))
    except* (DataError, httpx.HTTPError) as errors:
        first = _first(errors)
        raise DataError(str(first) if isinstance(first, DataError) else f"{url}: {first!r}") from first


def _first(error: BaseException) -> BaseException:
    """The first of the errors that requests of a group ended with."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error


async def _drive(
    url: str,
    prompts: Sequence[Sequence[int]],
    lengths: Sequence[int],
    advanced: Callable[[int], None],
) -> list[Timeline]:
    import httpx

    limits = httpx.Limits(max_connections=None, max_keepalive_connections=0)
    bodies = [_body(prompt, length) for prompt, length in zip(prompts, lengths, strict=True)]
    async with httpx.AsyncClient(base_url=url, timeout=None, limits=limits, trust_env=False) as client:
        with _no_long_collections():
            start = time.monotonic()
            requests = [
                _request(client, body, length, start, advanced)
                for body, length in zip(bodies, lengths, strict=True)
            ]
            async with asyncio.TaskGroup() as group:
                tasks = [group.create_task(request) for request in requests]
    return [task.result() for task in tasks]


def _body(prompt: Sequence[int], length: int) -> bytes:
    sampling = {
        "temperature": 0,
        "max_new_tokens": length,
        "ignore_eos": True,
        "stream_interval": REPORT_TOKENS,
    }
    body = {"input_ids": list(prompt), "sampling_params": sampling, "stream": True}
    return json.dumps(body).encode()


@contextmanager
def _no_long_collections() -> Iterator[None]:
    """Keep what exists out of Python's garbage collections.

    With torch and transformers imported, one takes longer than a server takes to its first token.
    """
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()


async def _request(
    client: httpx.AsyncClient, body: bytes, length: int, start: float, advanced: Callable[[int], None]
) -> Timeline:
    times: list[float] = []
    tokens: list[int] = []
    headers = {"Content-Type": "application/json"}
    async with client.stream("POST", "/generate", content=body, headers=headers) as reply:
        async for line in reply.aiter_lines():
            found = COMPLETED.search(line)
            if found is None:
                if "error" in line or reply.status_code != 200:
                    raise DataError(f"/generate: status {reply.status_code}: {line[:300]}")
                continue
            completed = int(found[1])
            before = tokens[-1] if tokens else 0
            if completed > before:
                times.append(time.monotonic() - start)
                tokens.append(completed)
                advanced(completed - before)
    if not tokens or tokens[-1] != length:
        made = tokens[-1] if tokens else 0
        raise DataError(f"/generate: a request ended with {made} new tokens, expected {length}")
    return Timeline(tuple(times), tuple(tokens))
