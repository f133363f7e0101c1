"""What a request was given and when, and the rates that follow; pure functions of times and counts."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from statistics import fmean, median

PAUSE = 4
"""A request that gets nothing for so many times the median time between two reports has lost its place."""


@dataclass(frozen=True)
class Timeline:
    """Progress of one request, times in seconds since the first request was sent.

    Attributes:
        times: of every report, the first token first, the last token last.
        tokens: new tokens that were there at each of these times.
    """

    times: tuple[float, ...]
    tokens: tuple[int, ...]

    @property
    def admitted(self) -> float:
        """When its first token was there: before, it waited or was being prefilled."""
        return self.times[0]

    @property
    def finished(self) -> float:
        """When its last token was there."""
        return self.times[-1]

    def tokens_at(self, time: float) -> float:
        """New tokens at a time, on a straight line between two reports."""
        after = bisect_right(self.times, time)
        if after == 0:
            return 0.0
        if after == len(self.times):
            return float(self.tokens[-1])
        begin, end = self.times[after - 1 : after + 1]
        low, high = self.tokens[after - 1 : after + 1]
        return low + (high - low) * (time - begin) / (end - begin)


@dataclass(frozen=True)
class Rate:
    """New tokens of all requests in a stretch of time.

    Attributes:
        begin, end: of the stretch, in seconds.
        tokens: made in it.
    """

    begin: float
    end: float
    tokens: float

    @property
    def tokens_per_second(self) -> float:
        """Zero for a stretch of no length."""
        return self.tokens / (self.end - self.begin) if self.end > self.begin else 0.0


def end_to_end(timelines: Sequence[Timeline]) -> Rate:
    """From the first request's sending to the last token of all, tail included."""
    return _between(timelines, 0.0, max(line.finished for line in timelines))


def while_requests_wait(timelines: Sequence[Timeline]) -> Rate | None:
    """The steady state: from the first request's end, which lets another one in, until none waits any more.

    A request waits until its first token, and again when it has to make way for others (SGLang retracts it).
    None when the last one was admitted for good before the first one ended.
    """
    begin = min(line.finished for line in timelines)
    gaps = [after - before for line in timelines for before, after in pairwise(line.times)]
    pause = PAUSE * median(gaps) if gaps else 0.0
    end = max(_resumed(line, pause) for line in timelines)
    return _between(timelines, begin, end) if end > begin else None


def _resumed(line: Timeline, pause: float) -> float:
    """When a request last got its place: at its first token, or behind a pause longer than ``pause``."""
    return max([line.admitted, *(after for before, after in pairwise(line.times) if after - before > pause)])


def while_all_decode(timelines: Sequence[Timeline]) -> Rate | None:
    """From the time when every request has reported progress beyond its first token, to the first one's end.

    None when a request ended before.
    """
    begin = max(line.times[min(1, len(line.times) - 1)] for line in timelines)
    end = min(line.finished for line in timelines)
    return _between(timelines, begin, end) if end > begin else None


def first_token(timelines: Sequence[Timeline]) -> float:
    """Mean time to the first token in seconds, waiting included."""
    return fmean(line.admitted for line in timelines)


def _between(timelines: Sequence[Timeline], begin: float, end: float) -> Rate:
    return Rate(begin, end, sum(line.tokens_at(end) - line.tokens_at(begin) for line in timelines))
