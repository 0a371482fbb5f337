"""One sample, in a process of its own: ``python -m kafka_async.bench.sample`` reads what to do from stdin, as JSON.

So no client finds the threads, the memory or the imports of another one.
"""

from __future__ import annotations

import json
import os
import sys

from kafka_async.bench.catalog import GROUPS, InC, Load
from kafka_async.bench.clients import Broker


def main() -> None:
    """Take the sample, and write its values to stdout as JSON."""
    order = json.load(sys.stdin)
    row = next(row for row in GROUPS[order["group"]].rows if row.name == order["row"])
    if isinstance(row.sample, InC):
        raise RuntimeError("the program of bench/limit.c takes this sample")
    values = row.sample(Broker(**order["broker"]), Load(**order["load"]))
    json.dump(values, sys.stdout)
    sys.stdout.flush()
    os._exit(0)  # what is still queued for nobody need not be waited for


if __name__ == "__main__":
    main()
