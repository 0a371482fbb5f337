"""How far a command has come, on a terminal: rich's bar, or one line that is written over."""

from __future__ import annotations

import os
import sys
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console

# Drawing takes rich about 0.5 ms, on the thread whose latencies the demo shows: not too often.
_INTERVAL_S = 0.2


class Progress:
    """No progress at all: what is shown where there is no terminal."""

    def __init__(self, total: int | None) -> None:
        self.total = total
        self._began = time.monotonic()

    def due(self) -> bool:
        """Tell whether it is time for `update`; costs little."""
        return False

    def update(self, done: int, text: str = "") -> None:
        """Tell how far it is.

        Parameters
        ----------
        done : int
            Messages.
        text : str
            More to show.
        """
        seconds = time.monotonic() - self._began
        rate = done / seconds if seconds else 0
        of = f" of {self.total:,}" if self.total else ""
        self._draw(done, f"{done:,}{of} messages, {rate:,.0f}/s{text}")

    def hide(self) -> None:
        """Make room for a line."""

    def close(self) -> None:
        """Remove it."""

    def _draw(self, done: int, text: str) -> None:
        pass


class _Shown(Progress):
    def __init__(self, total: int | None) -> None:
        super().__init__(total)
        self._next = 0.0

    def due(self) -> bool:
        now = time.monotonic()
        if now < self._next:
            return False
        self._next = now + _INTERVAL_S
        return True


class _Line(_Shown):
    def _draw(self, done: int, text: str) -> None:
        bar = ""
        if self.total:
            filled = 20 * min(done, self.total) // self.total
            bar = f"[{'#' * filled}{'.' * (20 - filled)}] "
        columns = os.get_terminal_size(sys.stderr.fileno()).columns or 80
        self._write(f"\r{(bar + text)[: columns - 1]}\x1b[K")

    def hide(self) -> None:
        self._write("\r\x1b[K")

    def close(self) -> None:
        self.hide()

    def _write(self, text: str) -> None:
        sys.stderr.write(text)
        sys.stderr.flush()


class _Rich(_Shown):
    def __init__(self, total: int | None, console: Console) -> None:
        super().__init__(total)
        from rich import progress

        columns = [progress.BarColumn(bar_width=30)] if total else []
        # No refreshing thread: it would compete for the GIL with what is measured. No redirection:
        # stdout is data.
        self._rich = progress.Progress(
            *columns,
            progress.TextColumn("{task.description}", markup=False),
            console=console,
            auto_refresh=False,
            transient=True,
            redirect_stdout=False,
            redirect_stderr=False,
        )
        self._task = self._rich.add_task("", total=total)
        self._rich.start()

    def _draw(self, done: int, text: str) -> None:
        self._rich.start()  # after hide()
        self._rich.update(self._task, completed=done, description=text)
        self._rich.refresh()

    def hide(self) -> None:
        self._rich.stop()

    def close(self) -> None:
        self._rich.stop()


def make_progress(total: int | None, console: Console | None, *, live: bool) -> Progress:
    """Choose how to show progress.

    Parameters
    ----------
    total : int or None
        What is to be reached, if known.
    console : rich.console.Console or None
        Of stderr; None: rich is not there.
    live : bool
        Show any.

    Returns
    -------
    Progress
    """
    if not live:
        return Progress(total)
    return _Rich(total, console) if console else _Line(total)
