"""A text that nobody here wrote goes through the command line and a real Kafka, and comes back the same."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from support import create_topic

pytestmark = pytest.mark.broker

LIMIT_S = 45
LEAST = 5_000_000  # bytes
COMMAND = [sys.executable, "-m", "kafka_async"]


def is_licence(name: str) -> bool:
    return name.rpartition("/")[2].upper().startswith(("LICENSE", "NOTICE"))


def licence_of_jars(folder: str) -> bytes:
    """The longest licence or notice within Kafka's jars."""
    texts = []
    for jar in Path(folder).glob("*.jar"):
        with zipfile.ZipFile(jar) as archive:
            texts += [archive.read(name) for name in archive.namelist() if is_licence(name)]
    return max(texts, key=len)


def licence_of_python() -> bytes:
    places = [Path(os.__file__).with_name("LICENSE.txt"), *Path("/usr/share/common-licenses").glob("GPL-3")]
    return next(place for place in places if place.is_file()).read_bytes()


@pytest.fixture(scope="module")
def licence() -> bytes:
    folder = os.environ.get("KAFKA_ASYNC_KAFKA_LIBS")
    text = licence_of_jars(folder) if folder else licence_of_python()
    assert len(text) > 5_000
    return text if text.endswith(b"\n") else text + b"\n"


@pytest.fixture
def text(licence: bytes, tmp_path: Path) -> Path:
    """A file of several megabytes."""
    file = tmp_path / "text"
    file.write_bytes(licence * (LEAST // len(licence) + 1))
    return file


@pytest.fixture
def kcat() -> str:
    program = shutil.which("kcat") or shutil.which("kafkacat")
    if program is None:
        if os.environ.get("KAFKA_ASYNC_REQUIRE_KCAT") == "1":
            pytest.fail("kcat is required: install the package kcat")
        pytest.skip("needs kcat: install the package kcat")
    return program


@pytest.fixture
def narrow(broker: str, topic: str) -> str:
    """A topic of one partition, which keeps the order."""
    create_topic(broker, topic, 1)
    return topic


def pipe(source: Path, command: list[str], name: str) -> Path:
    """Run ``command < source > name``, next to the source. There, no package of the checkout is in the way."""
    target = source.with_name(name)
    with source.open("rb") as stdin, target.open("wb") as stdout:
        done = subprocess.run(
            command, stdin=stdin, stdout=stdout, stderr=subprocess.PIPE, timeout=LIMIT_S, check=False, cwd=source.parent
        )
    assert done.returncode == 0, done.stderr.decode()
    return target


def same(one: Path, other: Path) -> bool:
    return one.read_bytes() == other.read_bytes()  # not in an assert: its explanation would be megabytes


def test_text_comes_back_byte_for_byte(broker: str, narrow: str, text: Path) -> None:
    where = ["-t", narrow, "--bootstrap-servers", broker]
    pipe(text, [*COMMAND, "produce", *where], "nothing")
    count = text.read_bytes().count(b"\n")
    back = pipe(text, [*COMMAND, "consume", *where, "--from-beginning", "--count", str(count)], "back")
    assert same(back, text)


def test_kcat_reads_what_produce_sent(broker: str, narrow: str, text: Path, kcat: str) -> None:
    pipe(text, [*COMMAND, "produce", "-t", narrow, "--bootstrap-servers", broker], "nothing")
    back = pipe(text, [kcat, "-C", "-q", "-e", "-o", "beginning", "-t", narrow, "-b", broker], "back")
    assert same(back, text)


def test_consume_reads_what_kcat_sent(broker: str, narrow: str, text: Path, kcat: str) -> None:
    # kcat sends no empty line.
    lines = [line for line in text.read_bytes().splitlines(keepends=True) if line != b"\n"]
    text.write_bytes(b"".join(lines))
    pipe(text, [kcat, "-P", "-t", narrow, "-b", broker], "nothing")
    where = ["-t", narrow, "--bootstrap-servers", broker]
    count = text.read_bytes().count(b"\n")
    back = pipe(text, [*COMMAND, "consume", *where, "--from-beginning", "--count", str(count)], "back")
    assert same(back, text)
    end = pipe(text, [*COMMAND, "consume", *where, "--from-beginning", "--exit"], "end")
    assert same(end, text)
