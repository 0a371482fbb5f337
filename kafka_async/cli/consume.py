"""``consume``: values of messages go to the standard output, a line each."""

from __future__ import annotations

import argparse
import os
import select
import sys
import time

from kafka_async.cli.connect import reach, usage
from kafka_async.cli.progress import Progress
from kafka_async.cli.signals import Signals, Stopped
from kafka_async.cli.terminal import Screen, megabytes
from kafka_async.consumer import Consumer
from kafka_async.errors import PartitionEnd
from kafka_async.message import Message

_IDLE_S = 0.1  # how long a signal or a reader that went away may go unnoticed while nothing comes
_GATHER = 64 * 1024  # what a pipe holds


def run(args: argparse.Namespace, screen: Screen, signals: Signals) -> int:
    """Write messages until the count or the end is reached, a signal comes or the reader goes away.

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
    if sys.stdout is None:
        raise OSError("there is no standard output")
    terminal = sys.stdout.isatty()
    config = {"auto.offset.reset": "earliest" if args.from_beginning else "latest", **args.config}
    if args.exit:
        config["enable.partition.eof"] = "true"
    # In a group, asking for a message declares the one before it processed, which is true once it is
    # written.
    gather = 0 if args.group or terminal else _GATHER
    output = _Output(sys.stdout.fileno(), signals, gather)
    with usage():
        consumer = Consumer(args.bootstrap_servers, group_id=args.group, config=config)
    try:
        with consumer:
            reach(args.bootstrap_servers)
            screen.show_log(verbose="debug" in config)
            consumer.subscribe(args.topic)
            # On one terminal data and progress would be mixed.
            with screen.progress(args.count, live=not terminal) as progress:
                _Job(output, signals, args.count, at_end=args.exit).read(consumer, progress)
    except (BrokenPipeError, Stopped):
        pass  # on the way here the consumer committed what was written, and nothing else
    screen.note(f"{output.messages:,} messages, {megabytes(output.bytes)} in {output.seconds:.2f} s")
    return signals.status


class _Job:
    """The loop of the command."""

    def __init__(self, output: _Output, signals: Signals, count: int | None, *, at_end: bool) -> None:
        self._output = output
        self._signals = signals
        self._count = count
        self._at_end = at_end
        self._ended: set[tuple[str, int]] = set()

    def read(self, consumer: Consumer, progress: Progress) -> None:
        """Read and write.

        Leaving by an exception, the message in hand counts as not processed; leaving by return, as
        processed: so a signal that came while nothing was being written must end it by return.
        """
        taken = 0
        timeout = 0.0
        while not self._signals.received and taken != self._count and not self._all_ended(consumer):
            message = self._poll(consumer, timeout)
            if message is not None:
                self._output.add(message.value or b"")
                taken += 1
                timeout = 0.0
            elif timeout == 0.0:
                self._output.flush()
                timeout = _IDLE_S
            else:
                self._output.check_reader()
            if progress.due():
                progress.update(taken)
        self._output.flush()

    def _poll(self, consumer: Consumer, timeout: float) -> Message | None:
        try:
            return consumer.poll_message(timeout)
        except PartitionEnd as end:
            if end.partition is not None:
                self._ended.add(end.partition[:2])
            return None

    def _all_ended(self, consumer: Consumer) -> bool:
        if not self._at_end or not self._ended:
            return False
        return {partition[:2] for partition in consumer.assignment()} <= self._ended


class _Output:
    """A file descriptor, written to directly: what is gathered here is known not to be written.

    Attributes
    ----------
    messages, bytes : int
        What was written; line feeds are not counted.
    """

    def __init__(self, fd: int, signals: Signals, gather: int) -> None:
        self.messages = self.bytes = 0
        self._began = time.monotonic()
        self._fd = fd
        self._signals = signals
        self._gather = gather
        self._waiting: list[bytes] = []
        self._size = 0
        self._poll = select.poll()
        self._poll.register(fd, select.POLLOUT)

    @property
    def seconds(self) -> float:
        """How old it is."""
        return time.monotonic() - self._began

    def add(self, value: bytes) -> None:
        """Take a value; write if enough is gathered."""
        self._waiting += (value, b"\n")
        self._size += len(value) + 1
        if self._size > self._gather:
            self.flush()

    def flush(self) -> None:
        """Write everything.

        Raises
        ------
        Stopped
            A signal came and the reader does not read.
        BrokenPipeError
            The reader is gone.
        """
        if not self._waiting:
            return
        data = memoryview(b"".join(self._waiting))
        while data:
            self._wait_for_room()
            data = data[os.write(self._fd, data[: select.PIPE_BUF]) :]
        count = len(self._waiting) // 2
        self.messages += count
        self.bytes += self._size - count
        self._waiting.clear()
        self._size = 0

    def check_reader(self) -> None:
        """Raise BrokenPipeError if the reader is gone, which otherwise only the next message would tell."""
        if any(event & (select.POLLERR | select.POLLHUP) for _, event in self._poll.poll(0)):
            raise BrokenPipeError

    def _wait_for_room(self) -> None:
        """Wait until PIPE_BUF bytes can be written without waiting.

        So no write is cut short by a signal, and it is known what was written.
        """
        while not self._poll.poll(_IDLE_S * 1000):
            if self._signals.received:
                raise Stopped(self._signals.received)
