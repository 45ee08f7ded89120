"""Spaces and variants in YAML, corrupted by structure and by character.

``python tests/fuzz/fuzz_yaml.py 5000`` tries 5,000 files; the test suite tries the first few.
"""

from __future__ import annotations

import copy
import math
import re
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from importlib import resources
from pathlib import Path
from random import Random
from typing import Any

import yaml
from limits import at_most

from tcm_lab.codec import load_config
from tcm_lab.errors import LabError
from tcm_lab.study import load_space

_SCALARS: tuple[Any, ...] = (
    0, -1, 1, 2, 3, 7, 8, 16, 2**31, 2**63, 10**30, 0.5, -0.5, 1e-9, 1e308, math.inf, -math.inf,
    math.nan, True, False, None, "", " ", "8", "0,25", "tcm", "none", "g_a.split", "g_*.split",
    "?_?.depth", "../x", "/dev/null", "{a}", "é", "\u2028", "x" * 300, "1e3", "0x10", "~", "[",
    "tcm-nano",
)  # fmt: skip
_CONTAINERS: tuple[Any, ...] = ([], {}, [[]], [{}], {"a": 1}, [1, 2], ["tcm", "tcm"], {"": 0})


def sources() -> list[tuple[str, str]]:
    """Return kind (space or variant) and text of the files to mutate."""
    folder = resources.files("tcm_lab") / "configs"
    spaces = [file.read_text() for file in folder.iterdir() if file.name.endswith(".yaml")]
    presets = [folder / "presets" / f"{name}.yaml" for name in ("tcm-nano", "stf", "tcm-conv-only")]
    derived = "base: tcm-nano\nname: mine\noverride: {g_a.depth: 1, entropy_model.slices: 2}\n"
    return [
        *(("space", text) for text in spaces),
        *(("variant", file.read_text()) for file in presets),
        ("variant", derived),
    ]


def places(tree: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Yield the path of every node below the root."""
    items = (
        tree.items()
        if isinstance(tree, dict)
        else enumerate(tree)
        if isinstance(tree, list)
        else ()
    )
    for key, value in items:
        yield (*path, key)
        yield from places(value, (*path, key))


def _at(tree: Any, path: tuple[Any, ...]) -> Any:
    for key in path:
        tree = tree[key]
    return tree


def mutated_tree(tree: Any, rng: Random) -> Any:
    """Return a copy with a few nodes changed, moved, added or removed."""
    tree = copy.deepcopy(tree)
    for _ in range(rng.choice((1, 1, 1, 2, 4))):
        known = list(places(tree))
        if not known:
            break
        *above, key = rng.choice(known)
        parent, kind = _at(tree, tuple(above)), rng.randrange(8)
        if kind <= 3:
            parent[key] = copy.deepcopy(rng.choice(_SCALARS + (_CONTAINERS if kind == 3 else ())))
        elif kind == 4:
            del parent[key]
        elif kind == 5:
            parent[key] = copy.deepcopy(_at(tree, rng.choice(known)[:1]))
        elif kind == 6 and isinstance(parent, dict):
            new = rng.choice(
                (
                    f"{key}s",
                    str(key)[:-1],
                    "base",
                    "name",
                    "override",
                    3,
                    None,
                    True,
                    "import",
                    "when",
                )
            )
            parent[new] = parent.pop(key)
        elif kind == 7:
            value = parent[key]
            parent[key] = [value] if rng.random() < 0.5 else {"value": value}
    return tree


def spoilt_text(text: str, rng: Random, name: str) -> bytes:
    """Return the text with duplicate keys, another encoding, cycles, deep nesting or truncation."""
    kind, lines = rng.randrange(9), text.splitlines()
    keyed = [line for line in lines if re.match(r"\s*[\w.]+:", line)]
    if kind == 0:
        line = rng.choice(keyed)
        lines.insert(rng.randrange(len(lines) + 1), line)
    elif kind == 1:
        return text.encode(
            rng.choice(("utf-16", "utf-32", "utf-8-sig", "cp037"))
        ) + b"\xff" * rng.randrange(2)
    elif kind == 2:
        lines.append(
            rng.choice(
                ("x: &a [*a]", "x: &a {y: *a}", "<<: *nowhere", "<<: {name: z}", "? [a]\n: 1")
            )
        )
    elif kind == 3:
        depth = rng.choice((10, 70, 2000))
        lines.append("deep: " + "[" * depth + "]" * depth)
    elif kind == 4:
        lines = [
            re.sub(r"base: \S+", f"base: {rng.choice((name, '.', '..', 'nothing.yaml'))}", line)
            for line in lines
        ]
        lines.append(f"base: {name}")
    elif kind == 5:
        lines = text[: rng.randrange(len(text))].splitlines()
    elif kind == 6:
        at = rng.randrange(len(text))
        lines = (text[:at] + rng.choice("\t\0:{}[]&*!|>'\"%@`,#\x85") + text[at:]).splitlines()
    elif kind == 7:
        lines.append(
            rng.choice(
                (
                    "!!python/object/apply:os.system ['true']",
                    "d: !!set {a}",
                    "---\na: 1",
                    "d: 2000-13-01",
                    "d: !x 1",
                )
            )
        )
    else:
        data = bytearray(text.encode())
        data[rng.randrange(len(data))] = rng.randrange(256)
        return bytes(data)
    return "\n".join(lines).encode("utf-8", "surrogateescape")


def unreflected(given: Any, read: Any, path: str = "") -> Iterator[str]:
    """Yield every difference between a file and the configuration read from it."""
    if isinstance(given, dict) and isinstance(read, dict):
        for key, value in given.items():
            if key == "block" and read.get("depth") == 0:
                continue  # a stage without blocks has no kind of block
            if key not in read:
                yield f"{path}.{key} is dropped"
            else:
                yield from unreflected(value, read[key], f"{path}.{key}")
    elif isinstance(given, list) and isinstance(read, list) and len(given) == len(read):
        for place, (one, other) in enumerate(zip(given, read, strict=True)):
            yield from unreflected(one, other, f"{path}.{place}")
    elif isinstance(given, str) and isinstance(read, dict) and read.get("type") == given:
        return  # a plain name is short for a mapping with this type
    elif isinstance(given, str) and given == str(read):
        return  # a quoted number is read as a number
    elif given != read or isinstance(given, bool) != isinstance(read, bool):
        yield f"{path}: {given!r} became {read!r}"


def fuzz(count: int, seed: int = 0) -> tuple[int, Counter[str]]:
    """Return the number of files that are read, and of refusals by message, out of ``count``.

    Any other exception is a defect, and so is a variant that is read differently from its file.
    """
    rng, read, refused = Random(seed), 0, Counter[str]()
    files = sources()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "file.yaml")
        for number in range(count):
            kind, text = rng.choice(files)
            tree = mutated_tree(yaml.safe_load(text), rng)
            structural = rng.random() < 0.7
            path.write_bytes(
                yaml.safe_dump(tree, allow_unicode=True, sort_keys=False).encode()
                if structural
                else spoilt_text(text, rng, path.name)
            )
            try:
                with at_most(20, f"{kind} {number}"):
                    loaded: Any = load_space(path) if kind == "space" else load_config(path)
            except LabError as error:
                message = str(error)
                assert str(path) in message, f"{kind} {number}: names no file: {message}"
                assert len(message) < 2_000, f"{kind} {number}: {len(message)} characters"
                refused[re.sub(r"[^ ]*\d[^ ]*|'[^']*'", "#", message.partition(": ")[2])[:50]] += 1
            except Exception as error:  # a defect: show the file
                error.add_note(f"{kind} {number}:\n{path.read_bytes()!r}")
                raise
            else:
                read += 1
                if structural and kind == "variant" and "base" not in tree:
                    lost = list(unreflected(tree, loaded.model_dump(mode="json")))
                    assert not lost, f"{kind} {number}: {lost}"
    return read, refused


if __name__ == "__main__":
    read, refused = fuzz(int(sys.argv[1]))
    print(f"{read} read, {sum(refused.values())} refused by {len(refused)} messages:")
    for message, times in refused.most_common(40):
        print(f"{times:6d}  {message}")
