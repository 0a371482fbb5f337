"""What is measured, of whom: groups of rows, each row one client doing one thing."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

from kafka_async.bench import awaiting, clients, consuming, crossing, footprint, producing
from kafka_async.bench.clients import Broker
from kafka_async.bench.timing import Values

CLIENTS = {
    "kafka_async": "kafka_async",
    "confluent": "confluent_kafka",
    "aiokafka": "aiokafka",
    "c": "",  # the program of bench/limit.c
}


@dataclass(frozen=True)
class Load:
    """How much a sample does."""

    calls: int = 50_000
    messages: int = 300_000
    seconds: float = 5.0


@dataclass(frozen=True)
class InC:
    """A sample that the program of bench/limit.c takes."""

    command: str
    count: Callable[[Load], int]
    size: int = producing.SIZE
    rate: float = 0.0


@dataclass(frozen=True)
class Row:
    """A client doing one thing, with a topic of so many partitions, by default those of the command line."""

    name: str
    client: str
    sample: Callable[[Broker, Load], Values] | InC
    partitions: int | None = None


@dataclass(frozen=True)
class Column:
    """A quantity as it is shown."""

    heading: str
    factor: float = 1.0
    decimals: int = 2


@dataclass(frozen=True)
class Group:
    """Rows that are compared: by the quantity `main`, with those named in `against`."""

    key: str
    title: str
    columns: dict[str, Column]
    main: str
    against: tuple[str, ...]
    rows: tuple[Row, ...]
    filled: bool = False  # its topic, before anything is measured
    drawn: str = ""  # as "curve" or "bars"


CALL = {"p50": Column("p50, us"), "p99": Column("p99, us"), "p99.9": Column("p99.9, us")}
LOOP = {"loop_ns": Column("loop, ns a call", decimals=0), "cpu_ns": Column("CPU of the caller, ns", decimals=0)}
TIMES = {"p50": Column("p50, ms", 1e-3), "p99": Column("p99, ms", 1e-3), "p99.9": Column("p99.9, ms", 1e-3)}
SPEED = {"messages_s": Column("thousand messages/s", 1e-3, 0)}
CORES = {"own_cores": Column("cores, own"), "all_cores": Column("cores, whole machine")}
PASSED = {"cpu_ns": Column("CPU of the caller, ns a message", decimals=0), "wall_ns": Column("passed, ns", decimals=0)}

BARE = "confluent produce, outcomes unknown"
INFORMED = "confluent produce(on_delivery) + poll(0)"
LIMIT = "plain C"

_SENDERS: dict[str, tuple[str, producing.Opened]] = {
    "kafka_async send": ("kafka_async", producing.send),
    "kafka_async send(on_delivery)": ("kafka_async", producing.send_with_callback),
    "kafka_async submit": ("kafka_async", producing.submit),
    BARE: ("confluent", producing.produce),
    INFORMED: ("confluent", producing.produce_and_poll),
}
_PLAIN = ("kafka_async send", BARE, INFORMED)


def _senders(names: tuple[str, ...], measure: Callable[[producing.Opened, Broker, Load], Values]) -> tuple[Row, ...]:
    def row(name: str) -> Row:
        client, opened = _SENDERS[name]
        return Row(name, client, lambda broker, load: measure(opened, broker, load))

    return tuple(map(row, names))


def _sending() -> Iterator[Group]:
    everyone = tuple(_SENDERS)
    versus = (INFORMED, BARE, LIMIT)

    def loop(who: producing.Opened, at: Broker, load: Load) -> Values:
        return producing.time_calls(who, at, load.calls)

    batches = Row(
        "kafka_async send_many(1000), each",
        "kafka_async",
        lambda broker, load: producing.time_batches(broker, load.messages),
    )
    yield Group(
        "call",
        "Time inside one call, in a tight loop, 100 bytes",
        CALL | LOOP,
        "p50",
        versus,
        (
            *_senders(everyone, loop),
            Row(LIMIT, "c", InC("calls", lambda load: load.calls)),
        ),
        drawn="curve",
    )
    yield Group(
        "call-many",
        "The calling thread's time for a message, one or a thousand at a time",
        LOOP,
        "loop_ns",
        ("kafka_async send",),
        (*_senders(_PLAIN[:1], loop), batches),
    )
    yield Group(
        "call-busy",
        "Time inside one call, in a tight loop beside a busy Python thread",
        CALL,
        "p99.9",
        versus[:2],
        _senders(everyone, lambda who, at, load: producing.time_calls_busy(who, at, load.calls)),
        drawn="curve",
    )
    rate = 2000
    yield Group(
        "call-paced",
        f"Time inside one call at {rate:,}/s, open loop, linger.ms 0",
        CALL,
        "p50",
        versus,
        (
            *_senders(_PLAIN, lambda who, at, load: producing.time_paced(who, at, rate, load.seconds)),
            Row(LIMIT, "c", InC("paced", lambda load: int(load.seconds * rate), rate=rate)),
        ),
        drawn="curve",
    )
    yield Group(
        "call-paced-busy",
        f"Time inside one call at {rate:,}/s beside a busy Python thread",
        CALL,
        "p99.9",
        versus[:2],
        _senders(_PLAIN, lambda who, at, load: producing.time_paced_busy(who, at, rate, load.seconds)),
    )
    for size in (100, 1000):
        yield Group(
            f"flushed-{size}",
            f"Produced to one partition until the last is delivered, {size:,} bytes, linger.ms 0",
            SPEED | CORES,
            "messages_s",
            versus,
            (
                *_senders(
                    _PLAIN,
                    lambda who, at, load, size=size: producing.time_delivery(who, at, load.messages, size=size),  # type: ignore[misc]
                ),
                Row(LIMIT, "c", InC("delivery", lambda load: load.messages, size=size)),
            ),
            drawn="bars",
        )


_OURS = {
    "kafka_async poll_message": consuming.poll_message,
    "kafka_async iteration": consuming.iterate,
    f"kafka_async poll_batch({consuming.BATCH})": consuming.poll_batch,
    f"kafka_async poll_batch({consuming.BATCH}), columns": consuming.columns,
}
POLL, CONSUME = "confluent poll", f"confluent consume({consuming.BATCH})"
_THEIRS = {POLL: consuming.poll, CONSUME: consuming.consume}
LIMIT_BATCH = f"plain C, batches of {consuming.BATCH}"


def _reading() -> Iterator[Group]:
    def rows(ours: Callable[..., Values], theirs: Callable[..., Values]) -> Iterator[Row]:
        for names, client, measure in ((_OURS, "kafka_async", ours), (_THEIRS, "confluent", theirs)):
            for name, read in names.items():
                yield Row(
                    name,
                    client,
                    lambda broker, load, measure=measure, read=read: measure(read, broker, load.messages),  # type: ignore[misc]
                )

    def in_c(prefix: str) -> tuple[Row, ...]:
        return tuple(
            Row(name, "c", InC(prefix + how, lambda load: load.messages))
            for name, how in ((LIMIT, "poll"), (LIMIT_BATCH, "consume"))
        )

    yield Group(
        "prefetched",
        "Reading what is prefetched, two fields of each message",
        PASSED,
        "cpu_ns",
        (POLL, CONSUME, LIMIT),
        (*rows(consuming.call_ours, consuming.call_theirs), *in_c("prefetched-")),
        filled=True,
        drawn="bars",
    )
    untuned = Row(
        "confluent poll, its defaults",
        "confluent",
        lambda broker, load: consuming.read_theirs(consuming.poll, broker, load.messages, tuned=False),
    )
    yield Group(
        "read",
        "Reading a filled topic from the broker (confluent with fetch.queue.backoff.ms=2, as kafka_async)",
        SPEED | {"first_ms": Column("first message, ms", decimals=0)} | CORES,
        "messages_s",
        (POLL, CONSUME, LIMIT),
        (*rows(consuming.read_ours, consuming.read_theirs), untuned, *in_c("read-")),
        filled=True,
        drawn="bars",
    )


def _crossing() -> Iterator[Group]:
    def rows(measure: Callable[..., Values], rate: float) -> tuple[Row, ...]:
        return tuple(
            Row(name, client, lambda broker, load, who=who: measure(who, broker, rate, load.seconds))  # type: ignore[misc]
            for name, client, who in (
                ("kafka_async", "kafka_async", crossing.OURS),
                ("confluent, tuned", "confluent", crossing.THEIRS),
            )
        )

    def in_c(rate: int) -> Row:
        return Row(LIMIT, "c", InC("crossing", lambda load: int(load.seconds * rate), rate=rate))

    versus = ("confluent, tuned", LIMIT)
    for rate in (500, 2000):
        title = f"End to end at {rate:,}/s: from when a send was due until another process polled it"
        alone = (*rows(crossing.time_crossing, rate), in_c(rate))
        yield Group(f"cross-{rate}", title, TIMES, "p50", versus, alone, drawn="curve")
        busy = rows(crossing.time_crossing_busy, rate)
        title = f"End to end at {rate:,}/s, the poller beside a busy Python thread"
        yield Group(f"cross-{rate}-busy", title, TIMES, "p99", versus[:1], busy, drawn="curve")


SLOW = 5_000  # messages, where one takes a millisecond; at 50,000 tasks aiokafka's sends end by its timeout


def _awaiting() -> Iterator[Group]:
    ours = ("kafka_async.aio", "kafka_async", clients.async_producer, None)
    aiokafka = ("aiokafka", "aiokafka", clients.aiokafka_producer, None)
    confluent = ("confluent AIOProducer", "confluent", clients.confluent_aio_producer, SLOW)
    tuned = partial(clients.confluent_aio_producer, batch_size=1, buffer_timeout=0.01)
    tuned_confluent = ("confluent AIOProducer, tuned", "confluent", tuned, SLOW)
    spin = ("kafka_async.aio, idle=spin", "kafka_async", partial(clients.async_producer, idle="spin"), None)
    unawaited = (
        "kafka_async.aio send_nowait, flush",
        "kafka_async",
        partial(clients.async_producer, waits=False),
        None,
    )

    def rows(measure: Callable[..., Values], *rivals: tuple[str, str, awaiting.Opened, int | None]) -> tuple[Row, ...]:
        return tuple(
            Row(name, client, lambda broker, load, who=who, most=most: measure(who, broker, load, most))  # type: ignore[misc]
            for name, client, who, most in rivals
        )

    for rate in (200, 2000):
        timed = rows(
            lambda who, at, load, _, rate=rate: awaiting.time_awaited(who, at, rate, load.seconds),
            ours,
            spin,
            aiokafka,
            *([confluent] if rate < 1000 else []),
            tuned_confluent,
        )
        limit = Row(LIMIT, "c", InC("awaited", lambda load, rate=rate: int(load.seconds * rate), rate=rate))  # type: ignore[misc]
        title = f"An awaited send at {rate:,}/s on an event loop, acknowledged"
        yield Group(f"awaited-{rate}", title, TIMES, "p50", ("aiokafka", LIMIT), (*timed, limit), drawn="curve")
    yield Group(
        "gathered",
        f"Awaited sends, {SLOW:,} tasks begun at once",
        SPEED,
        "messages_s",
        ("aiokafka",),
        rows(lambda who, at, _load, _most: awaiting.time_gathered(who, at, SLOW), ours, aiokafka, tuned_confluent),
        drawn="bars",
    )
    yield Group(
        "pipelined",
        "Sends from one task, their futures gathered, or flushed",
        SPEED,
        "messages_s",
        ("aiokafka",),
        rows(
            lambda who, at, load, most: awaiting.time_pipelined(who, at, most or load.calls),
            ours,
            unawaited,
            aiokafka,
            tuned_confluent,
        ),
    )
    yield Group(
        "iterated",
        "Reading a filled topic on an event loop, one at a time",
        SPEED,
        "messages_s",
        ("aiokafka async for",),
        (
            Row("kafka_async.aio async for", "kafka_async", lambda at, load: awaiting.read_ours(at, load.messages)),
            Row("aiokafka async for", "aiokafka", lambda at, load: awaiting.read_aiokafka(at, load.messages)),
            Row("confluent AIOConsumer poll", "confluent", lambda at, _load: awaiting.read_confluent(at, SLOW)),
        ),
        filled=True,
    )


def _standing() -> Iterator[Group]:
    yield Group(
        "memory",
        "Resident memory for a message of 100 bytes that is queued",
        {"bytes": Column("bytes", decimals=0)},
        "bytes",
        ("confluent",),
        (
            Row("kafka_async", "kafka_async", lambda at, load: footprint.queue_ours(at, load.messages)),
            Row("confluent", "confluent", lambda at, load: footprint.queue_theirs(at, load.messages)),
            Row(LIMIT, "c", InC("memory", lambda load: load.messages)),
        ),
    )
    yield Group(
        "import",
        "Importing the module",
        {"import_ms": Column("ms", decimals=1)},
        "import_ms",
        ("confluent_kafka",),
        tuple(
            Row(module, client, lambda at, _load, module=module: footprint.time_import(module, at))  # type: ignore[misc]
            for client, module in CLIENTS.items()
            if module
        ),
    )


def _growing() -> Iterator[Group]:
    """How the cost of a message changes as there is more of something."""
    rivals = {"kafka_async send": ("kafka_async", producing.send), BARE: ("confluent", producing.produce)}

    def rows(
        what: str, counts: tuple[int, ...], measure: Callable[..., Values], *, apart: bool = False
    ) -> tuple[Row, ...]:
        return tuple(
            Row(
                f"{name}, {count:,} {what}",
                client,
                lambda at, load, who=who, count=count: measure(who, at, load, count),  # type: ignore[misc]
                count if apart else None,
            )
            for count in counts
            for name, (client, who) in rivals.items()
        )

    def threads(who: producing.Opened, at: Broker, load: Load, count: int) -> Values:
        return producing.time_delivery(who, at, load.messages, threads=count)

    def partitions(who: producing.Opened, at: Broker, load: Load, _count: int) -> Values:
        return producing.time_delivery(who, at, load.messages)

    def sizes(who: producing.Opened, at: Broker, load: Load, size: int) -> Values:
        return producing.time_delivery(who, at, max(100, min(load.messages, 200_000_000 // size)), size=size)

    loop = {"loop_ns": Column("loop, ns a message", decimals=0)}
    yield Group(
        "threads", "More threads that send", loop | SPEED, "loop_ns", (), rows("threads", (1, 2, 4, 8), threads)
    )
    counts = (1, 10, 100, 1000)
    spread = rows("partitions", counts, partitions, apart=True)
    yield Group("partitions", "More partitions to send to", loop | SPEED, "messages_s", (), spread)
    yield Group(
        "sizes",
        "Larger messages",
        {**loop, "messages_s": Column("thousand messages/s", 1e-3), "megabytes_s": Column("MB/s", decimals=0)},
        "loop_ns",
        (),
        rows("bytes", (10, 100, 1000, 10_000, 100_000, 900_000), sizes),
    )
    reads = tuple(
        Row(f"{name}, {count:,} partitions", client, sample, count)
        for count in counts
        for name, client, sample in (
            ("kafka_async poll_message", "kafka_async", partial(_read_as, consuming.read_ours, consuming.poll_message)),
            (POLL, "confluent", partial(_read_as, consuming.read_theirs, consuming.poll)),
        )
    )
    yield Group("partitions-read", "More partitions to read", SPEED, "messages_s", (), reads, filled=True)


def _read_as(measure: Callable[..., Values], read: consuming.Read, broker: Broker, load: Load) -> Values:
    return measure(read, broker, load.messages)


GROUPS: dict[str, Group] = {
    group.key: group for groups in (_sending, _reading, _crossing, _awaiting, _standing, _growing) for group in groups()
}
