"""Latencies: counted in buckets of bounded memory, drawn in the terminal."""

from __future__ import annotations

from collections.abc import Iterator

from kafka_async.cli.terminal import duration

_BITS = 5  # 32 buckets for each power of two: within 1.6 % of the true value
_BAR = 40
_EIGHTHS = " ▏▎▍▌▋▊▉"


class Latencies:
    """A distribution of times.

    Attributes
    ----------
    count : int
    max_ns : int
        The longest, exactly.
    """

    def __init__(self) -> None:
        self.count = 0
        self.max_ns = 0
        self._buckets = [0] * ((64 - _BITS) << _BITS)

    def add(self, ns: int) -> None:
        """Count a time.

        Parameters
        ----------
        ns : int
            Nanoseconds, >= 0 and < 2**63.
        """
        shift = max(0, ns.bit_length() - _BITS - 1)
        self._buckets[(shift << _BITS) + (ns >> shift)] += 1
        self.count += 1
        if ns > self.max_ns:
            self.max_ns = ns

    def percentile(self, percent: float) -> float:
        """Find the time that so many percent do not exceed.

        Parameters
        ----------
        percent : float
            0 to 100.

        Returns
        -------
        float
            Seconds; 0 if nothing was counted.
        """
        left = self.count * percent / 100
        for ns, count in self._counted():
            left -= count
            if left <= 0:
                return min(ns, self.max_ns) / 1e9
        return 0.0

    def rows(self) -> list[tuple[float, int]]:
        """Sum up for a drawing.

        Returns
        -------
        list of (float, int)
            Upper limit in seconds (1, 2, 5, 10 ...), and how many are below it and not below the limit before;
            from the first row that has any to the last.
        """
        rows: list[tuple[float, int]] = []
        limits = _limits()
        limit = next(limits)
        below = 0
        for ns, count in self._counted():
            while ns >= limit * 1e9:
                if rows or below:
                    rows.append((limit, below))
                limit, below = next(limits), 0
            below += count
        return [*rows, (limit, below)] if below else rows

    def draw(self) -> list[str]:
        """Draw a histogram.

        Returns
        -------
        list of str
            Its lines.
        """
        rows = self.rows()
        most = max((count for _, count in rows), default=0)
        return [f"< {duration(limit):>7}  {_bar(count, most):<{_BAR}} {count:>11,}" for limit, count in rows]

    def _counted(self) -> Iterator[tuple[float, int]]:
        """Go through the middle of each bucket that is not empty, in ns, and its count."""
        for index, count in enumerate(self._buckets):
            if count:
                shift = max(0, (index >> _BITS) - 1)
                yield ((index - (shift << _BITS)) << shift) + (1 << shift) / 2, count


def _limits() -> Iterator[float]:
    """Yield 1, 2 and 5 of each power of ten from 1 us on, in seconds."""
    exponent = -6
    while True:
        for digit in (1, 2, 5):
            yield digit * 10.0**exponent
        exponent += 1


def _bar(count: int, most: int) -> str:
    eighths = -(-count * _BAR * 8 // most)  # rounded up: one message is seen
    return "█" * (eighths // 8) + _EIGHTHS[eighths % 8].strip()
