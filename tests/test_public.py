"""The public names, and the stub of the native module."""

from __future__ import annotations

import ast
import inspect
from pathlib import Path

import pytest

import kafka_async
from kafka_async import errors
from kafka_async._native import ffi, lib

STUB = Path(kafka_async.__file__).with_name("_native.pyi")


def stub_class(name: str) -> ast.ClassDef:
    tree = ast.parse(STUB.read_text())
    return next(node for node in tree.body if isinstance(node, ast.ClassDef) and node.name == name)


def test_public_names_are_sorted_and_there() -> None:
    assert kafka_async.__all__ == sorted(kafka_async.__all__)
    for name in kafka_async.__all__:
        assert hasattr(kafka_async, name)


def test_every_error_is_public() -> None:
    kinds = {name for name, kind in vars(errors).items() if inspect.isclass(kind) and issubclass(kind, Exception)}
    assert kinds <= set(kafka_async.__all__)


def test_stub_names_what_the_native_module_has() -> None:
    body = stub_class("lib").body
    stub = {node.name for node in body if isinstance(node, ast.FunctionDef)}
    stub |= {node.target.id for node in body if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name)}
    assert stub == set(dir(lib))


@pytest.mark.parametrize(
    "node", [n for n in stub_class("lib").body if isinstance(n, ast.FunctionDef)], ids=lambda n: n.name
)
def test_stub_agrees_on_arguments_and_result(node: ast.FunctionDef) -> None:
    native = ffi.typeof(getattr(lib, node.name))  # type: ignore[attr-defined]

    def word(kind: object, *, argument: bool) -> str:
        if kind.kind == "void":  # type: ignore[attr-defined]
            return "None"
        if kind.kind != "pointer":  # type: ignore[attr-defined]
            return "int"
        text = kind.item.cname.replace("const ", "")  # type: ignore[attr-defined]
        return "ffi.CData | bytes" if argument and text == "char" else "ffi.CData"

    arguments = [ast.unparse(arg.annotation) for arg in node.args.posonlyargs if arg.annotation]
    expected = [word(kind, argument=True) for kind in native.args]
    # A buffer that is written to is a char * that no bytes may be given for.
    assert [a.replace(" | bytes", "") for a in arguments] == [e.replace(" | bytes", "") for e in expected]
    assert node.returns is not None
    assert ast.unparse(node.returns) == word(native.result, argument=False)


def test_version_of_librdkafka_is_told() -> None:
    major, minor, *_ = kafka_async.librdkafka_version.split(".")
    assert (int(major), int(minor)) >= (2, 0)


def test_every_public_thing_is_documented() -> None:
    for name in kafka_async.__all__:
        thing = getattr(kafka_async, name)
        if not inspect.isclass(thing):
            continue
        assert inspect.getdoc(thing), name
        for attribute, value in vars(thing).items():
            if not attribute.startswith("_") and inspect.isfunction(value):
                assert value.__doc__, f"{name}.{attribute}"
