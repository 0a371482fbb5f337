"""What the README shows works as pasted."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from support import run_python

README = (Path(__file__).parents[1] / "README.md").read_text()
BLOCKS = re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)
PRINTED = [
    ["LatencySummary(count=1000", "b'EURUSD' b'250' [('source', b'demo')]"],
    ["100 more than 0", "callback: offset 1", "RecordMetadata(topic='orders', partition=0, offset=102"],
    [
        "partition=0, offset=None): 0, TopicPartition(topic='trades', partition=1, offset=None): 0}",
        "committed: [TopicPartition(topic='trades', partition=0",
        "given up: [Topic",
    ],
    ["the last one is at offset 999", "read up to 1000"],
]


def test_there_is_code_and_it_is_short() -> None:
    assert BLOCKS
    assert all(len(block.splitlines()) <= 25 for block in BLOCKS)


@pytest.mark.parametrize(
    ("block", "printed"), list(zip(BLOCKS, PRINTED, strict=True)), ids=["first", "outcomes", "group", "asyncio"]
)
def test_code_works_as_pasted(block: str, printed: list[str]) -> None:
    done = run_python(block)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    for text in printed:
        assert text in done.stdout


def test_every_link_leads_somewhere() -> None:
    root = Path(__file__).parents[1]
    for target in re.findall(r"\]\(([^)#:]+)\)", README):
        assert (root / target).exists(), target
