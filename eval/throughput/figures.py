"""The figures of a measurement, and the same figures of the simulated bound."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from .config import CONCURRENCY, FULL, MEMORY, PREFIX, Workload
from .theory import Cache, Device, simulate
from .timeline import Rate, Timeline, end_to_end, first_token, while_all_decode, while_requests_wait

STRETCHES: dict[str, dict[str, Callable[[Sequence[Timeline]], Rate | None]]] = {
    MEMORY: {"while requests wait": while_requests_wait, "end to end": end_to_end},
    CONCURRENCY: {"while all decode": while_all_decode, "end to end": end_to_end},
    PREFIX: {"end to end": end_to_end},
}
"""What is looked at in each case: a steady stretch, and all of the run with its ramp and tail."""


@dataclass(frozen=True)
class Figure:
    """Tokens a second of one arm in one stretch of a case.

    Attributes:
        case, stretch, arm: what was measured.
        measured: new tokens a second, None where there was no such stretch.
        theory: what reading memory alone would allow.
        measured_ratio, theory_ratio: of the stock server in the same stretch.
        step_ms, theory_step_ms: a decode step, where all requests decode.
        first_token_ms: mean time to the first token, waiting included; of a whole run only.
        first_token_ratio: of the stock server.
    """

    case: str
    stretch: str
    arm: str
    measured: float | None
    theory: float | None
    measured_ratio: float | None
    theory_ratio: float | None
    step_ms: float | None
    theory_step_ms: float | None
    first_token_ms: float | None
    first_token_ratio: float | None


def figures(
    case: str,
    load: Workload,
    measured: Mapping[str, Sequence[Timeline]],
    caches: dict[str, dict[str, Any]],
    device: Device,
) -> list[Figure]:
    """Of all arms of a case.

    Args:
        case: of the arms.
        load: their requests.
        measured: timelines of each arm, the stock one among them.
        caches: the cache in use of each arm (``run.cache_in_use``).
        device: for the bound.
    """
    bounds = {
        arm: simulate(
            load.prompt_tokens, load.lengths, cache_of(caches, arm), device, shared_tokens=load.shared_tokens
        )
        for arm in measured
    }
    found = []
    for stretch, rate in STRETCHES[case].items():
        real = {arm: rate(timelines) for arm, timelines in measured.items()}
        ideal = {arm: rate(timelines) for arm, timelines in bounds.items()}
        decoding = len(load.lengths) if rate is while_all_decode else 0
        first = {arm: first_token(lines) for arm, lines in measured.items() if rate is end_to_end}
        for arm in measured:
            found.append(
                Figure(
                    case,
                    stretch,
                    arm,
                    _speed(real[arm]),
                    _speed(ideal[arm]),
                    _ratio(real[arm], real[FULL]),
                    _ratio(ideal[arm], ideal[FULL]),
                    _step_ms(real[arm], decoding),
                    _step_ms(ideal[arm], decoding),
                    1e3 * first[arm] if first else None,
                    first[arm] / first[FULL] if first else None,
                )
            )
    return found


def cache_of(caches: dict[str, dict[str, Any]], arm: str) -> Cache:
    """The bytes of an arm's cache; those of the stock one are told by a hybrid one, of the same model."""
    cache = caches[arm]
    if arm != FULL:
        window = cache["sink_size"] + cache["recent_size"]
        return Cache(cache["full_token_bytes"], cache["window_token_bytes"], window, cache["full_tokens"])
    hybrid = next(cache for other, cache in caches.items() if other != FULL)
    return Cache(hybrid["dense_token_bytes"], 0, 0, cache["full_tokens"])


def _speed(rate: Rate | None) -> float | None:
    return None if rate is None else rate.tokens_per_second


def _ratio(rate: Rate | None, stock: Rate | None) -> float | None:
    if rate is None or stock is None or not stock.tokens_per_second:
        return None
    return rate.tokens_per_second / stock.tokens_per_second


def _step_ms(rate: Rate | None, decoding: int) -> float | None:
    """Milliseconds in which each of the decoding requests gets one token."""
    return 1e3 * decoding / rate.tokens_per_second if rate and decoding and rate.tokens_per_second else None
