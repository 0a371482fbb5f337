"""What came out, as Markdown and as JSON."""

from __future__ import annotations

import os
import pathlib
import platform
import statistics
from collections.abc import Mapping, Sequence
from importlib import metadata

import kafka_async
from kafka_async.bench.catalog import GROUPS, Column, Group, Load
from kafka_async.bench.rounds import Result

Results = Mapping[str, Sequence[Result]]


def environment(load: Load, rounds: int, partitions: int) -> dict[str, str]:
    """Tell what the numbers depend on.

    Parameters
    ----------
    load : Load
        Of a sample.
    rounds, partitions : int
        As the command line has them.

    Returns
    -------
    dict of str to str
    """
    return {
        "kafka_async": f"{metadata.version('kafka-async-native')}, librdkafka {kafka_async.librdkafka_version}",
        **{name: version for name in ("confluent-kafka", "aiokafka") if (version := _version(name))},
        "Python": f"{platform.python_version()}, {platform.system()} {platform.release()}",
        "machine": f"{os.cpu_count()} CPUs ({_processor()})",
        "rounds": f"{rounds}; a sample has {load.calls:,} calls, {load.messages:,} messages or {load.seconds:g} s",
        "topic": f"{partitions} partition(s), acks=all, no compression, no idempotence",
    }


def _version(name: str) -> str:
    try:
        version = metadata.version(name)
    except metadata.PackageNotFoundError:
        return ""
    if name == "confluent-kafka":
        import confluent_kafka

        return f"{version}, librdkafka {confluent_kafka.libversion()[0]}"
    return version


def _processor() -> str:
    try:
        lines = pathlib.Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def markdown(about: Mapping[str, str], results: Results) -> str:
    """Write everything as Markdown.

    Parameters
    ----------
    about : mapping of str to str
        From `environment`.
    results : mapping of str to sequence of Result
        By the keys of groups.

    Returns
    -------
    str
        A table for each group; a cell is the median over the rounds, with the least and the greatest value.
    """
    parts = ["\n".join(f"- {name}: {value}" for name, value in about.items())]
    parts += [f"## {GROUPS[key].title}\n\n{_table(GROUPS[key], rows)}" for key, rows in results.items() if rows]
    return "\n\n".join(parts) + "\n"


def _table(group: Group, rows: Sequence[Result]) -> str:
    against = [row for name in group.against for row in rows if row.row == name]
    main = group.columns[group.main].heading.partition(",")[0]
    heads = ["", *(column.heading for column in group.columns.values()), *(f"{main} x {row.row}" for row in against)]
    lines = [_line(heads), "|---" * len(heads) + "|"]
    for row in rows:
        cells = [_cell(row.values.get(key), column) for key, column in group.columns.items()]
        ratios = [ratio(row, other, group.main) for other in against]
        lines.append(_line([row.row, *cells, *("" if row in against and not r else _ratio(r) for r in ratios)]))
    return "\n".join(lines)


def ratio(row: Result, other: Result, quantity: str) -> list[float]:
    """Divide two rows, round by round: what the machine did then happened to both.

    Parameters
    ----------
    row, other : Result
        Of one group.
    quantity : str
        Of both.

    Returns
    -------
    list of float
        Empty where one of them is missing, or both are the same.
    """
    if row is other:
        return []
    pairs = zip(row.values.get(quantity, []), other.values.get(quantity, []), strict=False)
    return [mine / theirs for mine, theirs in pairs if theirs]


def _ratio(values: list[float]) -> str:
    return _cell(values, Column(""))


def _cell(values: list[float] | None, column: Column) -> str:
    if not values:
        return ""
    shown = [
        f"{value * column.factor:,.{column.decimals}f}"
        for value in (statistics.median(values), min(values), max(values))
    ]
    return f"{shown[0]} [{shown[1]} - {shown[2]}]" if len(values) > 1 else shown[0]


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cells) + " |"
