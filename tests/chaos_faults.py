"""What may happen to a broker and to the way to it, by lot."""

from __future__ import annotations

import random
import time
from collections import Counter
from collections.abc import Callable

from kafka_server import KafkaServer
from real_kafka import frozen
from tcp_proxy import TcpProxy


class Faults:
    """Deals out one fault after the other, all kinds of them in turn, each turn in another order.

    Parameters
    ----------
    kafka, proxy
        A broker that is reached through the proxy.
    seed
        The same seed gives the same faults.
    """

    def __init__(self, kafka: KafkaServer, proxy: TcpProxy, seed: str) -> None:
        self._kafka = kafka
        self._proxy = proxy
        self._random = random.Random(seed)
        self._kinds: list[Callable[[], str]] = []
        self.counts: Counter[str] = Counter()

    def next(self) -> str:
        """Let the next one happen, and wait until it is over; what it was."""
        if not self._kinds:
            self._kinds = [self._freeze, self._kill, self._restart, self._cut, self._refuse, self._stall]
            self._kinds += [self._forget, self._delay, self._throttle]
            self._random.shuffle(self._kinds)
        kind = self._kinds.pop()
        self.counts[kind.__name__[1:]] += 1
        return kind()

    def is_patient(self) -> bool:
        """Whether the clients may recover before the next one."""
        return self._random.random() < 0.75

    def _wait(self, most_s: float) -> str:
        seconds = self._random.uniform(0.2, most_s)
        time.sleep(seconds)
        return f"{seconds:.1f} s"

    def _freeze(self) -> str:
        with frozen(self._kafka):
            return f"frozen for {self._wait(8)}"

    def _kill(self) -> str:
        self._kafka.kill()
        dead = self._wait(4)
        self._kafka.start()
        return f"killed, dead for {dead}"

    def _restart(self) -> str:
        self._kafka.restart()
        return "restarted"

    def _cut(self) -> str:
        times = self._random.randint(1, 10)
        cut = 0
        for _ in range(times):
            cut += self._proxy.cut()
            self._wait(0.5)
        return f"{cut} connections cut, {times} times"

    def _refuse(self) -> str:
        with self._proxy.refusing():
            return f"connections refused for {self._wait(8)}"

    def _stall(self) -> str:
        with self._proxy.stalled():
            return f"nothing carried for {self._wait(8)}"

    def _forget(self) -> str:
        return f"{self._proxy.forget()} connections half open"

    def _delay(self) -> str:
        delay_s = self._random.uniform(0.01, 0.5)
        with self._proxy.slow(delay_s=delay_s):
            return f"{delay_s * 1e3:.0f} ms late, for {self._wait(6)}"

    def _throttle(self) -> str:
        bytes_per_s = self._random.uniform(5_000, 100_000)
        with self._proxy.slow(bytes_per_s=bytes_per_s):
            return f"{bytes_per_s / 1e3:.0f} KB/s each, for {self._wait(6)}"
