"""``bench``: this client and others side by side on a broker; tables, their numbers as JSON, and plots."""

from __future__ import annotations

import argparse
import dataclasses
import importlib.util
import json
import os
import pathlib

from kafka_async.bench import report
from kafka_async.bench.catalog import CLIENTS, GROUPS, Load
from kafka_async.bench.rounds import Bench, Result
from kafka_async.cli import anatomy
from kafka_async.cli.connect import UsageError, reach, usage
from kafka_async.cli.signals import Signals
from kafka_async.cli.terminal import Screen
from kafka_async.producer import Producer


def run(args: argparse.Namespace, screen: Screen, signals: Signals) -> int:
    """Measure, and write what came out. A signal ends it at once: the sample is killed, the topics are deleted.

    Parameters
    ----------
    args : argparse.Namespace
        The command line.
    screen : Screen
        For the tables and what is going on.
    signals : Signals
        The first signal ends it.

    Returns
    -------
    int
        The exit status.
    """
    from kafka_async.bench import plots  # which uses this package

    groups = [GROUPS[key] for key in args.only]
    clients = _clients(args, screen)
    if not any(row.client in clients for group in groups for row in group.rows):
        raise UsageError("nothing to measure: none of these groups has a sample of these clients")
    with usage():
        Producer(args.bootstrap_servers, config=args.config).stop()
    reach(args.bootstrap_servers)
    args.output.mkdir(parents=True, exist_ok=True)
    load = Load(args.calls, args.messages, args.seconds)
    bench = Bench(args.bootstrap_servers, args.config, args.partitions, load, args.limit)
    with signals.raising:
        results = bench.measure(groups, clients, args.rounds, screen.note)
    about = report.environment(load, args.rounds, args.partitions)
    _write(args.output, about, results)
    screen.out(report.markdown(about, results))
    for key, rows in results.items():
        for row in rows if GROUPS[key].drawn == "curve" else ():
            for side, parts in plots.sides_of(row).items():
                _show_hops(screen, f"{side}: {key}, {row.row}", parts)
    try:
        plots.draw(args.output, results)
    except ImportError:
        screen.note("no plots: they need matplotlib (pip install 'kafka_async[bench]')")
    screen.note(f"tables, numbers and plots are in {args.output}")
    return 0


def _clients(args: argparse.Namespace, screen: Screen) -> list[str]:
    """Leave out who is not there, and tell how to have them."""
    if importlib.util.find_spec("confluent_kafka") is None:
        raise UsageError("bench makes its topics with confluent-kafka: pip install 'kafka_async[bench]'")
    if args.limit is not None and not (args.limit.is_file() and os.access(args.limit, os.X_OK)):
        raise UsageError(f"--limit {args.limit}: no program that can be run; script/bench builds it")
    missing = {client: "it is not installed" for client, module in CLIENTS.items() if not _is_there(module)}
    if args.limit is None:
        missing["c"] = "name the program of bench/limit.c with --limit; script/bench builds it"
    if args.config:
        missing["aiokafka"] = "it does not know the properties that are given"
    for client in sorted(missing.keys() & set(args.clients or CLIENTS)):
        screen.note(f"{client} is left out: {missing[client]}")
    return [client for client in args.clients or CLIENTS if client not in missing]


def _is_there(module: str) -> bool:
    return not module or importlib.util.find_spec(module) is not None


def _show_hops(screen: Screen, whose: str, parts: list[anatomy.Part]) -> None:
    if lines := anatomy.draw(parts):
        screen.out(f"where the time goes, {whose}")
        screen.out("\n".join(lines) + "\n")


def _write(folder: pathlib.Path, about: dict[str, str], results: dict[str, list[Result]]) -> None:
    numbers = {key: [dataclasses.asdict(row) for row in rows] for key, rows in results.items()}
    (folder / "bench.json").write_text(json.dumps({"environment": about, "results": numbers}, indent=1) + "\n")
    (folder / "bench.md").write_text(report.markdown(about, results))
