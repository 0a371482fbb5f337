"""What the tests of futures and callbacks share."""

from __future__ import annotations

import threading
from collections.abc import Callable

THREAD = "kafka_async-delivery"
SOON = {"message.timeout.ms": 100}  # librdkafka looks once a second


class Running:
    """A call in a thread of its own."""

    def __init__(self, call: Callable[[], object], *, start: bool = True) -> None:
        self.error: BaseException | None = None

        def run() -> None:
            try:
                call()
            except BaseException as error:
                self.error = error

        self._thread = threading.Thread(target=run)
        if start:
            self.start()

    def start(self) -> None:
        self._thread.start()

    def is_done(self) -> bool:
        return not self._thread.is_alive()

    def join(self) -> None:
        self._thread.join(20)
        assert self.is_done()
