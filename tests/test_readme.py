"""What the README shows works as pasted."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from support import run_python

README = (Path(__file__).parents[1] / "README.md").read_text()
BLOCKS = re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)


def test_there_is_code_and_it_is_short() -> None:
    assert BLOCKS
    assert all(len(block.splitlines()) <= 25 for block in BLOCKS)


@pytest.mark.parametrize("block", BLOCKS, ids=lambda block: f"{len(block)} characters")
def test_code_works_as_pasted(block: str) -> None:
    done = run_python(block)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    assert "LatencySummary(count=1000" in done.stdout
    assert "b'EURUSD' b'250' [('source', b'demo')]" in done.stdout


def test_every_link_leads_somewhere() -> None:
    root = Path(__file__).parents[1]
    for target in re.findall(r"\]\(([^)#:]+)\)", README):
        assert (root / target).exists(), target
