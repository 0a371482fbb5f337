"""``python -m kafka_async demo | produce | consume | bench``: the command line.

Here are the arguments and what an error or a signal means for the exit status; each command is a module
beside this one with ``run(args, screen, signals) -> int``, imported when it is asked for. Nothing but the library
itself is needed: with rich (the extra ``cli``) progress bars look better.
"""

from __future__ import annotations

import argparse
import os
import pathlib
import sys
from collections.abc import Sequence
from importlib import import_module

from kafka_async.cli.connect import UsageError
from kafka_async.cli.signals import Signals, Stopped
from kafka_async.cli.terminal import Screen
from kafka_async.cli.verify import STAMP
from kafka_async.errors import KafkaError

PROG = "python -m kafka_async"

STATUS = """\
exit status:
  0    done; for consume also when the reader of its output went away
  1    it failed: a message was lost, repeated or not delivered; no broker
       answers; the topic does not exist
  2    the command line or a property is wrong
  130  ended by SIGINT (Ctrl-C), 143 by SIGTERM: cleanly, everything accepted
       was delivered. A second signal gives up waiting for that, tells how many
       messages are unsent, and makes it 1."""

DEMO = f"""\
Run a producer and a consumer side by side, check every message that comes back
(its content, its order in its partition, that it is there, and that it is there
once), and show speed and latencies. Without --bootstrap-servers the broker is
librdkafka's in-process mock cluster, reached over this machine's loopback. It
drops data past about 5 MB a partition, read or not, so the producer never runs
further ahead of the consumer than fits.

{STATUS}"""

PRODUCE = f"""\
Send each line of the standard input as a message.

A line ends with a line feed, which is not part of the message; the last one may
lack it. Everything else is kept byte for byte: nothing is decoded, a carriage
return stays, an empty line is an empty message. With -k the bytes before the
first SEP are the key; a line without SEP has no key. Order is kept within a
partition; messages with the same key go to the same one. A signal ends it after
the last whole line.

{STATUS}

example: produce -t access < access.log"""

CONSUME = f"""\
Write the value of each message to the standard output, byte for byte, and a line
feed. A message without a value (a tombstone) is an empty line.

Without -g it reads all partitions of the topic and commits nothing; output is
gathered while there is more to come, and written out as soon as there is not.
With -g it joins the group; only what was written is committed, so each message
is written by itself before the next one is asked for.

{STATUS}

example: consume -t access --from-beginning --exit | grep ' 500 '"""


BENCH = """\
Run this client, confluent-kafka and aiokafka side by side on a broker, in rounds,
each sample in a process of its own, and with --limit plain C over librdkafka as well.
Prints tables (medians over the rounds, with the least and the greatest value, and
ratios) and where the time of our messages went; writes them, all numbers as JSON, and
plots into a folder. It makes topics of its own, and deletes them. Clients that are not
installed are left out: pip install 'kafka_async[bench]'.

A complete run takes some five minutes a round. bench/README.md tells how to read it.

groups:
  {groups}

{status}"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command.

    Parameters
    ----------
    argv : sequence of str, optional
        The arguments; by default the process's.

    Returns
    -------
    int
        The exit status.
    """
    argv = sys.argv[1:] if argv is None else argv
    args = _parser(of_bench="bench" in argv).parse_args(argv)
    args.config = dict(args.config)
    screen = Screen(quiet=args.quiet)
    status = _guarded(args, screen)
    _close_output()
    return status


def _guarded(args: argparse.Namespace, screen: Screen) -> int:
    try:
        with Signals() as signals:
            return int(import_module(f"kafka_async.cli.{args.command}").run(args, screen, signals))
    except UsageError as error:
        screen.error(str(error))
        return 2
    except Stopped as stopped:
        return stopped.status
    except BrokenPipeError:
        return 0
    except (KafkaError, OSError) as error:
        screen.error(str(error))
        return 1


def _close_output() -> None:
    """Flush what is printed; the interpreter would complain at its exit if the reader is gone."""
    if sys.stdout is None:
        return
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        devnull = os.open(os.devnull, os.O_WRONLY)
        os.dup2(devnull, sys.stdout.fileno())
        os.close(devnull)


def _parser(of_bench: bool) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog=PROG, description="A Kafka client for latency-sensitive Python.")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    _demo_arguments(_command(commands, "demo", "producer and consumer side by side, with numbers", DEMO))
    _produce_arguments(_command(commands, "produce", "lines of the standard input to a topic", PRODUCE))
    _consume_arguments(_command(commands, "consume", "a topic to the standard output", CONSUME))
    bench = _command(commands, "bench", "this client beside others, measured", BENCH)
    if of_bench:  # its choices come from all that is measured
        _bench_arguments(bench)
    return parser


def _command(
    commands: argparse._SubParsersAction[argparse.ArgumentParser], name: str, short: str, text: str
) -> argparse.ArgumentParser:
    parser = commands.add_parser(
        name, help=short, description=text, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("-q", "--quiet", action="store_true", help="no progress and no summary on stderr: errors alone")
    parser.add_argument(
        "-X",
        dest="config",
        metavar="PROP=VALUE",
        type=_property,
        action="append",
        default=[],
        help="set a property of librdkafka; may be repeated",
    )
    return parser


def _demo_arguments(parser: argparse.ArgumentParser) -> None:
    servers = "a real Kafka to use; by default an embedded cluster is started"
    topic = (
        "by default a new one for each run, created by the broker when first written to; it is read from its beginning"
    )
    add = parser.add_argument
    add("--bootstrap-servers", metavar="HOST:PORT", help=servers)
    add("--messages", type=_number(1), default=300_000, metavar="N", help="how many to send (default: 300,000)")
    size = f"bytes in a message, {STAMP.size} or more for the demo's own stamp (default: 100)"
    add("--size", type=_number(STAMP.size), default=100, metavar="BYTES", help=size)
    rate = "messages/s, evenly spaced; by default as fast as it goes, so that latencies include waiting in queues"
    add("--rate", type=_number(1), metavar="N", help=rate)
    ahead = "how many messages may be on their way at a time (default: 1,000; fewer if the embedded cluster needs it)"
    add("--ahead", type=_number(1), default=1_000, metavar="N", help=ahead)
    add("--topic", type=_text, metavar="TOPIC", help=topic)
    partitions = "of the embedded cluster's topic; a real one has what its broker gives it (default: 4)"
    add("--partitions", type=_number(1), default=4, metavar="N", help=partitions)


def _produce_arguments(parser: argparse.ArgumentParser) -> None:
    _topic_arguments(parser)
    parser.add_argument(
        "-k",
        "--key-separator",
        type=_separator,
        metavar="SEP",
        help="split each line into key and value at the first SEP; a tab is $'\\t' in most shells",
    )


def _consume_arguments(parser: argparse.ArgumentParser) -> None:
    _topic_arguments(parser)
    add = parser.add_argument
    add("-g", "--group", type=_text, metavar="GROUP", help="read as a member of this consumer group")
    beginning = "start with the oldest message rather than with what comes next; in a group, where nothing is committed"
    add("--from-beginning", action="store_true", help=beginning)
    add("--count", type=_number(1), metavar="N", help="end after N messages; by default it goes on until SIGINT")
    add("-e", "--exit", action="store_true", help="end when every partition was read to its end")


def _bench_arguments(parser: argparse.ArgumentParser) -> None:
    from kafka_async.bench.catalog import CLIENTS, GROUPS

    parser.description = BENCH.format(groups=", ".join(GROUPS), status=STATUS)
    add = parser.add_argument
    _servers_argument(parser)
    add("--clients", nargs="+", choices=CLIENTS, metavar="CLIENT", help=f"by default all: {', '.join(CLIENTS)}")
    add("--only", nargs="+", choices=GROUPS, metavar="GROUP", default=list(GROUPS), help="groups; by default all")
    add("--rounds", type=_number(1), default=5, metavar="N", help="samples of each row (default: 5)")
    add("--calls", type=_number(1000), default=50_000, metavar="N", help="calls that are timed (default: 50,000)")
    messages = "of a sample that is not timed call by call (default: 300,000)"
    add("--messages", type=_number(5000), default=300_000, metavar="N", help=messages)
    add("--seconds", type=_number(1), default=5, metavar="S", help="of a sample at a steady rate (default: 5)")
    add("--partitions", type=_number(1, 100_000), default=1, metavar="N", help="of the topics (default: 1)")
    add("--limit", type=pathlib.Path, metavar="PROGRAM", help="bench/limit.c, compiled: adds plain C")
    output = "where to write bench.json, bench.md and plots (default: kafka_async-bench)"
    add("--output", type=pathlib.Path, default=pathlib.Path("kafka_async-bench"), metavar="FOLDER", help=output)


def _servers_argument(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--bootstrap-servers",
        type=_text,
        default="localhost:9092",
        metavar="HOST:PORT",
        help="one or more, with commas between (default: localhost:9092)",
    )


def _topic_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("-t", "--topic", type=_text, required=True, metavar="TOPIC", help="the topic")
    _servers_argument(parser)


class _number:  # noqa: N801 - argparse shows its name
    """A whole number within limits; commas and underscores may group its digits."""

    def __init__(self, least: int, most: int | None = None) -> None:
        self.least, self.most = least, most

    def __call__(self, text: str) -> int:
        try:
            value = int(text.replace(",", ""))
        except ValueError:
            raise argparse.ArgumentTypeError(f"{text!r} is not a whole number") from None
        if value < self.least:
            raise argparse.ArgumentTypeError(f"{text}: must be {self.least:,} or more")
        if self.most is not None and value > self.most:
            raise argparse.ArgumentTypeError(f"{text}: must be {self.most:,} or less")
        return value


def _property(text: str) -> tuple[str, str]:
    name, _, value = text.partition("=")
    if not name.strip() or not value:
        raise argparse.ArgumentTypeError(f"{text!r} is not PROP=VALUE")
    return name.strip(), value


def _text(text: str) -> str:
    if not text.strip():
        raise argparse.ArgumentTypeError("must not be empty")
    return text


def _separator(text: str) -> bytes:
    if not text:
        raise argparse.ArgumentTypeError("must not be empty")
    return os.fsencode(text)
