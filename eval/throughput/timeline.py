"""What a request was given and when, and the rates that follow; pure functions of times and counts."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass


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
    """The steady state: from the first request's end, which lets a new one in, to the last one's admission.

    None when all were admitted before the first one ended: then nobody waited.
    """
    begin = min(line.finished for line in timelines)
    end = max(line.admitted for line in timelines)
    return _between(timelines, begin, end) if end > begin else None


def while_all_decode(timelines: Sequence[Timeline]) -> Rate | None:
    """From the time when every request has reported progress beyond its first token, to the first one's end.

    None when a request ended before.
    """
    begin = max(line.times[min(1, len(line.times) - 1)] for line in timelines)
    end = min(line.finished for line in timelines)
    return _between(timelines, begin, end) if end > begin else None


def _between(timelines: Sequence[Timeline], begin: float, end: float) -> Rate:
    return Rate(begin, end, sum(line.tokens_at(end) - line.tokens_at(begin) for line in timelines))
