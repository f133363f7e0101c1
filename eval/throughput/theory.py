"""What reading memory alone would allow: requests decoded step by step on a device that does nothing else.

A step takes the time to read the weights and the keys and values that its requests see. Prefill takes none.
So the result is a bound, with the ramp and the tail that the lengths set.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from .timeline import Timeline


@dataclass(frozen=True)
class Device:
    """What a step reads besides keys and values, and how fast.

    Attributes:
        weight_bytes: bytes of weights.
        bandwidth: bytes a second.
    """

    weight_bytes: int
    bandwidth: float


@dataclass(frozen=True)
class Cache:
    """The cache of a server.

    Attributes:
        full_token_bytes: of one token in the heads that keep all of them.
        window_token_bytes: of one token in the streaming heads, 0 for a stock server.
        window: tokens that a streaming head sees.
        capacity: tokens that fit into the full pool.
    """

    full_token_bytes: int
    window_token_bytes: int
    window: int
    capacity: int

    def read_bytes(self, held: int, shared: int) -> int:
        """Bytes that one step reads of a request of ``held`` tokens, but for ``shared`` of all requests."""
        seen = min(held, self.window)
        return (held - shared) * self.full_token_bytes + seen * self.window_token_bytes


def simulate(
    prompt_tokens: int, lengths: Sequence[int], cache: Cache, device: Device, shared_tokens: int = 0
) -> list[Timeline]:
    """Decode all requests, first come first served; each is admitted as soon as its prompt fits.

    When the running ones outgrow the cache, the one that came last waits again, and goes on where it was.
    Tokens with which all prompts begin are stored once, and read once a step.

    Returns:
        A timeline for each request; the first token comes with the step after the admission.
    """
    waiting = list(range(len(lengths)))[::-1]
    running: list[int] = []
    made = [0] * len(lengths)
    times: list[list[float]] = [[] for _ in lengths]
    counts: list[list[int]] = [[] for _ in lengths]
    own_tokens = prompt_tokens - shared_tokens
    clock, held = 0.0, shared_tokens
    while waiting or running:
        while waiting and (held + own_tokens + made[waiting[-1]] + 1 <= cache.capacity or not running):
            request = waiting.pop()
            running.append(request)
            held += own_tokens + made[request]
        while len(running) > 1 and held + len(running) > cache.capacity:
            request = running.pop()
            held -= own_tokens + made[request]
            waiting.append(request)
        read = sum(cache.read_bytes(prompt_tokens + made[request], shared_tokens) for request in running)
        read += shared_tokens * cache.full_token_bytes
        clock += (read + device.weight_bytes) / device.bandwidth
        held += len(running)
        for request in running:
            made[request] += 1
            if made[request] == 1 or made[request] == lengths[request] or made[request] % 64 == 1:
                times[request].append(clock)
                counts[request].append(made[request])
        done = [request for request in running if made[request] == lengths[request]]
        if done:
            held -= sum(own_tokens + made[request] for request in done)
            running = [request for request in running if made[request] < lengths[request]]
    return [Timeline(tuple(t), tuple(n)) for t, n in zip(times, counts, strict=True)]
