"""What a person sees: results on stdout; notes, progress and librdkafka's log on stderr.

rich is used where it is installed and the stream is a terminal; it honours NO_COLOR. Everything is
composed as plain text first, so without it the same lines appear.
"""

from __future__ import annotations

import contextlib
import logging
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING, TextIO

from kafka_async.cli.progress import Progress, make_progress

if TYPE_CHECKING:
    from rich.console import Console

# For terminals that can't show the left ones.
_ASCII = str.maketrans(dict(zip("µ█▉▊▋▌▍▎▏▓▒░", "u########+=-", strict=True)))


class Screen:
    """Both output streams of a command.

    Parameters
    ----------
    quiet : bool
        No notes and no progress.
    """

    def __init__(self, *, quiet: bool = False) -> None:
        self.quiet = quiet
        self._progress: Progress | None = None
        self._console = _console(sys.stdout)

    def out(self, text: str = "", style: str = "") -> None:
        """Print a line of the result on stdout.

        Parameters
        ----------
        text : str
            The line.
        style : str
            For rich.
        """
        if self._console:
            self._console.print(
                _encodable(text, sys.stdout), style=style, soft_wrap=True, markup=False, highlight=False, emoji=False
            )
        else:
            _write(text, sys.stdout)

    def note(self, text: str) -> None:
        """Print a line on stderr, unless the command is to be quiet.

        Parameters
        ----------
        text : str
            The line.
        """
        if not self.quiet:
            self.error(text)

    def error(self, text: str) -> None:
        """Print a line on stderr.

        Parameters
        ----------
        text : str
            The line.
        """
        if self._progress:
            self._progress.hide()
        with contextlib.suppress(OSError):  # nobody listens: that must not keep a message from being sent
            _write(text, sys.stderr)

    @contextlib.contextmanager
    def progress(self, total: int | None, *, live: bool = True) -> Iterator[Progress]:
        """Show progress on stderr if it is a terminal.

        Parameters
        ----------
        total : int or None
            What is to be reached, if known.
        live : bool
            False: show none.

        Yields
        ------
        Progress
        """
        live = live and not self.quiet and _is_terminal(sys.stderr)
        self._progress = make_progress(total, _console(sys.stderr) if live else None, live=live)
        try:
            yield self._progress
        finally:
            self._progress.close()
            self._progress = None

    def show_log(self, *, verbose: bool) -> None:
        """Bring librdkafka's log lines to stderr: errors, or all that it writes.

        Parameters
        ----------
        verbose : bool
            All.
        """
        logger = logging.getLogger("kafka_async")
        logger.addHandler(_LogHandler(self))
        logger.setLevel(logging.DEBUG if verbose else logging.WARNING)
        logger.propagate = False


class _LogHandler(logging.Handler):
    def __init__(self, screen: Screen) -> None:
        super().__init__()
        self._screen = screen

    def emit(self, record: logging.LogRecord) -> None:
        self._screen.error(f"librdkafka: {record.getMessage()}")


def duration(seconds: float) -> str:
    """Write a time for people.

    Parameters
    ----------
    seconds : float
        >= 0.

    Returns
    -------
    str
        Three digits and a unit, e.g. ``"12.3 ms"``.
    """
    for unit, scale in (("µs", 1e-6), ("ms", 1e-3)):
        if seconds < 999.5 * scale:
            return f"{_three_digits(seconds / scale)} {unit}"
    return f"{_three_digits(seconds)} s"


def megabytes(count: float) -> str:
    """Write a number of bytes for people.

    Parameters
    ----------
    count : float
        Bytes.

    Returns
    -------
    str
        E.g. ``"12.3 MB"``.
    """
    return f"{count / 1e6:,.1f} MB" if count >= 1e5 else f"{count:,.0f} bytes"


def _three_digits(value: float) -> str:
    decimals = 2 if value < 9.995 else 1 if value < 99.95 else 0
    return f"{value:,.{decimals}f}"


def _write(text: str, stream: TextIO | None) -> None:
    if stream is not None:  # None: the process was started without it
        print(_encodable(text, stream), file=stream, flush=True)


def _encodable(text: str, stream: TextIO) -> str:
    encoding = stream.encoding or "ascii"
    try:
        text.encode(encoding)
        return text
    except UnicodeEncodeError:
        return text.translate(_ASCII).encode(encoding, "replace").decode(encoding)


def _is_terminal(stream: TextIO) -> bool:
    try:
        return stream.isatty()
    except (AttributeError, ValueError):  # None or closed: the process was started without it
        return False


def _console(stream: TextIO) -> Console | None:
    if not _is_terminal(stream):
        return None
    try:
        from rich.console import Console
    except ImportError:
        return None
    return Console(file=stream)
