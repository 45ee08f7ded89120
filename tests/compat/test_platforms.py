"""What only Linux or POSIX has is not needed: macOS and Windows lack it."""

from __future__ import annotations

import ast
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import tcm_lab
from tcm_lab._utils import environment
from tcm_lab.study.capacity import cores
from tcm_lab.study.storage import is_dead, this_process

#: Of the standard library, and not on Windows.
POSIX = {"fork", "forkpty", "getpgid", "getuid", "killpg", "mkfifo", "nice", "setpgrp", "setsid"}
POSIX_MODULES = {"fcntl", "grp", "pwd", "resource", "termios"}


def _unguarded(node: ast.AST, *, guarded: bool = False) -> Iterator[str]:
    """Yield what only POSIX has, outside a block that asks for the platform."""
    if isinstance(node, ast.If) and "sys.platform" in ast.unparse(node.test):
        guarded = True
    if not guarded and isinstance(node, ast.Attribute) and node.attr in POSIX:
        yield ast.unparse(node)
    if not guarded and isinstance(node, ast.Import | ast.ImportFrom):
        names = [a.name for a in node.names] if isinstance(node, ast.Import) else [node.module]
        yield from (str(name) for name in names if name in POSIX_MODULES)
    if not guarded and isinstance(node, ast.ImportFrom) and node.module == "os":
        yield from (alias.name for alias in node.names if alias.name in POSIX)
    for child in ast.iter_child_nodes(node):
        yield from _unguarded(child, guarded=guarded)


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("import fcntl", ["fcntl"]),
        ("from resource import getrusage", ["resource"]),
        ("from os import killpg, path", ["killpg"]),
        ("def f(): os.fork()", ["os.fork"]),
        ("if sys.platform != 'win32':\n    import fcntl\n    os.setsid()", []),
    ],
)
def test_what_windows_lacks_is_found_unless_the_platform_was_asked_for(
    text: str, found: list[str]
) -> None:
    assert [*_unguarded(ast.parse(text))] == found


def test_what_windows_lacks_is_used_only_elsewhere() -> None:
    found = [
        f"{path.name}: {name}"
        for path in Path(tcm_lab.__file__).parent.rglob("*.py")
        for name in _unguarded(ast.parse(path.read_text(encoding="utf-8")))
    ]
    assert found == []


def test_without_proc_and_affinity_machine_and_processes_are_still_named(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    read = Path.read_text

    def no_proc(path: Path, *args: Any, **options: Any) -> str:
        if str(path).startswith("/proc"):
            raise FileNotFoundError(path)
        return read(path, *args, **options)

    def no_link(path: str) -> str:
        raise OSError(path)

    monkeypatch.setattr(Path, "read_text", no_proc)
    monkeypatch.setattr(os, "readlink", no_link)
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)
    assert environment.environment().device
    assert cores() >= 1
    assert not is_dead(this_process())
