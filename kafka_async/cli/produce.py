"""``produce``: lines of the standard input become messages."""

from __future__ import annotations

import argparse
import contextlib
import sys
import time
from collections import Counter
from collections.abc import Iterator
from typing import BinaryIO

from kafka_async.cli.connect import reach, usage
from kafka_async.cli.progress import Progress
from kafka_async.cli.signals import Signals, Stopped
from kafka_async.cli.terminal import Screen, megabytes
from kafka_async.config import Value
from kafka_async.errors import DeliveryError, FlushTimeout, KafkaError
from kafka_async.producer import Producer

# Files come by the million lines: a few milliseconds for larger requests are well spent, and nobody sees them.
_BATCHING: dict[str, Value] = {"linger.ms": 5}

# More than any message may have: one that long is refused by the producer, and the rest of the line
# need not be read for that.
_LONGEST = 64 * 2**20 + 1


def run(args: argparse.Namespace, screen: Screen, signals: Signals) -> int:
    """Send every line, wait for every outcome, tell the numbers.

    Parameters
    ----------
    args : argparse.Namespace
        The command line.
    screen : Screen
        For notes and progress.
    signals : Signals
        Tells when to end early.

    Returns
    -------
    int
        The exit status.
    """
    if sys.stdin is None:
        raise OSError("there is no standard input")
    terminal = sys.stdin.isatty()
    with usage():
        config = {**_BATCHING, **args.config}
        producer = Producer(args.bootstrap_servers, args.topic, config=config, on_full="block")
    with producer:
        reach(args.bootstrap_servers)
        screen.show_log(verbose="debug" in config)
        if terminal:
            screen.note("a line is a message; Ctrl-D ends")
        job = _Job(producer, screen, signals)
        with screen.progress(None, live=not terminal) as progress:
            try:
                job.send(_lines(sys.stdin.buffer), args.key_separator, progress)
            finally:  # whatever ended it, what was accepted is sent
                job.finish(progress)
        return job.status()


class _Job:
    """One run of the command; counts what became of its messages."""

    def __init__(self, producer: Producer, screen: Screen, signals: Signals) -> None:
        self._producer = producer
        self._screen = screen
        self._signals = signals
        self._began = time.monotonic()
        self._bytes = 0
        self._refused = False
        self._reasons: Counter[str] = Counter()

    def send(self, lines: Iterator[bytes], separator: bytes | None, progress: Progress) -> None:
        """Send until the input ends, a signal comes or a line is refused."""
        number = 0
        try:
            with self._signals.raising:
                for number, line in enumerate(lines, 1):
                    key, value = _split(line, separator)
                    self._producer.send(value, key)
                    self._bytes += len(line)
                    if progress.due():
                        self._show(number, progress)
        except Stopped:
            pass
        except KafkaError as error:
            self._refused = True
            self._screen.error(f"line {number:,} was refused, nothing after it is read: {error}")

    def finish(self, progress: Progress) -> None:
        """Wait for all outcomes and close; a second signal gives up."""
        try:
            if not self._flushed(progress) and self._signals.received:
                outstanding = self._producer.metrics().outstanding
                self._screen.note(f"waiting for {outstanding:,} acknowledgements; a second signal gives up")
            while not self._flushed(progress):
                pass
            self._close(5.0)
        except Stopped:
            self._close(0)
        self._collect_failures()
        self._summary()

    def status(self) -> int:
        """Tell the exit status: a loss counts more than a signal."""
        return 1 if self._refused or self._unsent() or self._reasons else self._signals.status

    def _unsent(self) -> int:
        metrics = self._producer.metrics()
        return metrics.purged + metrics.outstanding

    def _flushed(self, progress: Progress) -> bool:
        try:
            self._producer.flush(0.2)
        except FlushTimeout:
            self._show(self._producer.metrics().accepted, progress)
            return False
        except DeliveryError:
            pass  # counted by _collect_failures
        return True

    def _close(self, timeout: float) -> None:
        with contextlib.suppress(FlushTimeout, DeliveryError):  # the metrics tell
            self._producer.stop(timeout)

    def _show(self, number: int, progress: Progress) -> None:
        outstanding = self._producer.metrics().outstanding
        progress.update(number, f", {outstanding:,} not acknowledged yet")

    def _collect_failures(self) -> None:
        """Count failures by reason. The producer keeps a bounded number of them, its counter has all."""
        self._reasons.update(str(report.error) for report in self._producer.failures())
        others = self._producer.metrics().failed - self._reasons.total()
        if others > 0:
            self._reasons["(reason not kept)"] = others

    def _summary(self) -> None:
        metrics = self._producer.metrics()
        seconds = time.monotonic() - self._began
        self._screen.note(
            f"{metrics.accepted:,} messages, {megabytes(self._bytes)} in {seconds:.2f} s: "
            f"{metrics.delivered:,} delivered, {metrics.failed:,} failed, {self._unsent():,} unsent"
        )
        for reason, count in self._reasons.most_common():
            self._screen.error(f"{count:,} not delivered: {reason}")
        if unsent := self._unsent():
            self._screen.error(f"{unsent:,} unsent: the waiting for them was ended")


def _lines(source: BinaryIO) -> Iterator[bytes]:
    """Read lines without their line feed."""
    while line := source.readline(_LONGEST):
        yield line[:-1] if line.endswith(b"\n") else line


def _split(line: bytes, separator: bytes | None) -> tuple[bytes | None, bytes]:
    if separator is not None:
        key, found, value = line.partition(separator)
        if found:
            return key, value
    return None, line
