"""Without memory every constructor and call of the facade raises MemoryError, and works again later."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent
COMPILER = shutil.which("cc")


@pytest.fixture(scope="session")
def preloaded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What makes the native module's calls fail."""
    if not COMPILER or sys.platform != "linux":
        pytest.skip("needs a C compiler on Linux")
    if "librdkafka.so" not in Path("/proc/self/maps").read_text():
        pytest.skip("a librdkafka within the module aborts without memory")
    library = tmp_path_factory.mktemp("preloaded") / "alloc.so"
    source = HERE / "native" / "alloc_preload.c"
    subprocess.run([COMPILER, "-shared", "-fPIC", "-O1", "-o", library, source, "-ldl"], check=True, timeout=60)
    return library


@pytest.mark.parametrize("part", ["producer", "consumer", "asyncio"])
def test_each_call_without_memory_raises_memory_error_or_comes_right(part: str, preloaded: Path) -> None:
    ended = subprocess.run(
        [sys.executable, str(HERE / "memory_calls.py"), part],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        env={**os.environ, "LD_PRELOAD": str(preloaded)},
        cwd=preloaded.parent,
    )
    assert ended.returncode == 0, ended.stdout[-2000:] + ended.stderr[-2000:]
    assert " lost" not in ended.stderr
    for outcome in ("one refused", "all refused", "done"):
        assert outcome in ended.stdout, "no call of the native module has failed"
