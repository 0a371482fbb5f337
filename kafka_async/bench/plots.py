"""Plots of what came out: percentile curves for times, bars for speeds, and where the time of a message went."""

from __future__ import annotations

import pathlib
import statistics
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from kafka_async.bench.catalog import GROUPS, Group
from kafka_async.bench.hops import from_values
from kafka_async.bench.rounds import Result
from kafka_async.bench.timing import PERCENTS
from kafka_async.cli.anatomy import PERCENTILES, consumer_parts, producer_parts
from kafka_async.cli.terminal import duration

# Of the same client the same hue; that of ours is the darkest.
_HUES = {
    "kafka_async": ("#0b3d91", "#3b7dd8", "#86b6f6", "#5b4fc4"),
    "plain C": ("#555555", "#999999"),
    "": ("#c1440e", "#e08e45", "#8d5a97"),
}
_SHADES = ("#0b3d91", "#3b7dd8", "#a9c8f5", "#d9d9d9")
_HIGHEST = 99.99


def draw(folder: pathlib.Path, results: Mapping[str, Sequence[Result]]) -> list[pathlib.Path]:
    """Write a file for each group that is drawn.

    Parameters
    ----------
    folder : Path
        Where to; it exists.
    results : mapping of str to sequence of Result
        By the keys of groups.

    Returns
    -------
    list of Path
        PNG files.

    Raises
    ------
    ImportError
        There is no matplotlib.
    """
    from matplotlib.figure import Figure

    written = []
    for key, rows in results.items():
        for kind, drawing in _DRAWINGS[GROUPS[key].drawn].items():
            figure = Figure(figsize=(8, 4.5), layout="constrained")
            figure.suptitle(GROUPS[key].title, fontsize=10)
            if drawing(figure, GROUPS[key], rows):
                written.append(folder / f"{key}{kind}.png")
                figure.savefig(written[-1], dpi=110)
    return written


def _colours(rows: Sequence[Result]) -> list[str]:
    used = dict.fromkeys(_HUES, 0)
    colours = []
    for row in rows:
        family = next(name for name in _HUES if row.row.startswith(name))
        colours.append(_HUES[family][used[family] % len(_HUES[family])])
        used[family] += 1
    return colours


def _curve(figure: Any, group: Group, rows: Sequence[Result]) -> bool:
    """Draw percentiles over a scale on which each nine has the same room: the median of the rounds, and their range."""
    axes = figure.add_subplot()
    percents = [percent for percent in PERCENTS if 50 <= percent <= _HIGHEST]
    places = [1 / (1 - percent / 100) for percent in percents]
    shown = [row for row in rows if "p50" in row.values]
    factor, unit = (1e-3, "ms") if any("ms" in column.heading for column in group.columns.values()) else (1.0, "µs")
    for row, colour in zip(shown, _colours(shown), strict=True):
        times = [[value * factor for value in row.values[f"p{percent:g}"]] for percent in percents]
        axes.plot(places, list(map(statistics.median, times)), color=colour, label=row.row, marker=".")
        axes.fill_between(places, list(map(min, times)), list(map(max, times)), color=colour, alpha=0.12, linewidth=0)
    axes.set(xscale="log", yscale="log", xlabel="percentile", ylabel=unit)
    axes.set_xticks(places, [f"{percent:g}" for percent in percents])
    axes.minorticks_off()
    axes.yaxis.set_major_formatter("{x:g}")
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8)
    return bool(shown)


def _bars(figure: Any, group: Group, rows: Sequence[Result]) -> bool:
    """Draw a bar for each row: the median of the rounds, and their range."""
    axes = figure.add_subplot()
    column = group.columns[group.main]
    values = [[value * column.factor for value in row.values[group.main]] for row in rows]
    middle = list(map(statistics.median, values))
    spread = [
        [mid - min(each) for mid, each in zip(middle, values, strict=True)],
        [max(each) - mid for mid, each in zip(middle, values, strict=True)],
    ]
    bars = axes.barh([row.row for row in rows], middle, xerr=spread, color=_colours(rows), ecolor="#333333", capsize=3)
    axes.bar_label(
        bars, [f" {value:,.{column.decimals}f}" for value in middle], padding=4, fontsize=8, label_type="edge"
    )
    axes.margins(x=0.15)
    axes.invert_yaxis()
    axes.set(xlabel=column.heading)
    axes.grid(axis="x", alpha=0.3)
    return bool(rows)


def _anatomy(figure: Any, _group: Group, rows: Sequence[Result]) -> bool:
    """Draw where the time of our messages went: for each percentile the shares of its parts, and their sum."""
    sides = [(side, parts) for row in rows[:1] for side, parts in sides_of(row).items()]
    for number, (side, parts) in enumerate(sides):
        axes = figure.add_subplot(len(sides), 1, number + 1)
        sums = [sum(getattr(summary, name) for _, summary in parts) or 1.0 for name in PERCENTILES.values()]
        left = [0.0] * len(sums)
        for (part, summary), shade in zip(parts, _SHADES, strict=False):
            shares = [getattr(summary, name) / whole for name, whole in zip(PERCENTILES.values(), sums, strict=True)]
            axes.barh(list(PERCENTILES), shares, left=left, label=part, color=shade)
            left = [begin + share for begin, share in zip(left, shares, strict=True)]
        for place, whole in enumerate(sums):
            axes.text(1.01, place, duration(whole), va="center", fontsize=8)
        axes.set(xlim=(0, 1), xticks=[], title=side)
        axes.invert_yaxis()
        axes.legend(fontsize=8, ncols=len(parts), loc="upper center", bbox_to_anchor=(0.5, 0))
    return bool(sides)


_DRAWINGS: dict[str, dict[str, Callable[[Any, Group, Sequence[Result]], bool]]] = {
    "curve": {"": _curve, "-hops": _anatomy},
    "bars": {"": _bars},
    "": {},
}


def sides_of(row: Result) -> dict[str, list[Any]]:
    """List the parts of the ways of our messages, by producer and consumer; empty for others' rows.

    Parameters
    ----------
    row : Result
        Any; the median of its rounds counts.

    Returns
    -------
    dict of str to list of (str, LatencySummary)
    """
    middle = {name: statistics.median(values) for name, values in row.values.items()}
    sides = {}
    for side, parts in (("producer", producer_parts), ("consumer", consumer_parts)):
        if (hops := from_values(side, middle)) is not None:
            sides[side] = parts(hops)
    return sides
