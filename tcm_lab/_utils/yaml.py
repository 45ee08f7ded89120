"""The one reader and writer of YAML files.

Files are plain mappings; every mistake is reported with its file, line and key. ``1e-3`` is a
number, as in YAML 1.2; PyYAML alone follows YAML 1.1 and reads it as text.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Any

import yaml

from tcm_lab.errors import ConfigError, first_line

_DEEPEST = 64
_LARGEST = 100_000


def read_yaml(path: Path | Traversable, origin: str | None = None) -> dict[str, Any]:
    """Return the mapping in a YAML file; messages call the file ``origin``, by default its path.

    Raises:
        ConfigError: as `read_text` and `parse_yaml`.
    """
    origin = origin or str(path)
    return parse_yaml(read_text(path, origin), origin)


def read_text(path: Path | Traversable, origin: str) -> str:
    """Return the text of a file.

    Raises:
        ConfigError: it cannot be read as UTF-8.
    """
    try:
        return path.read_bytes().decode("utf-8-sig")
    except OSError as error:
        raise ConfigError(f"{origin}: cannot be read ({error.strerror or error})") from None
    except UnicodeDecodeError as error:
        line = error.object[: error.start].count(b"\n") + 1
        raise ConfigError(f"{origin}, line {line}: not UTF-8; save the file as UTF-8") from None


def parse_yaml(text: str, origin: str) -> dict[str, Any]:
    """Return the mapping that ``text`` spells.

    Raises:
        ConfigError: it is not YAML, not a mapping, nested deeper than 64 levels, or larger than
            100,000 values once its aliases are expanded; a key is given twice or is not a string;
            a value contains itself, or is a number that versions of YAML read differently.
    """
    tree = parse_value(text, origin)
    if not isinstance(tree, dict):
        what = "is empty" if tree is None else f"holds {type(tree).__name__}"
        raise ConfigError(f"{origin}: {what}, not a mapping of fields")
    return tree


def parse_value(text: str, origin: str) -> Any:
    """Return the value that ``text`` spells, such as a command-line argument.

    Raises:
        ConfigError: as `parse_yaml`, except that the value need not be a mapping.
    """
    try:
        return yaml.load(text, Loader=_StrictLoader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        where = origin if mark is None else f"{origin}, line {mark.line + 1}"
        problem = error.problem or "the text cannot be parsed"
        what = problem if isinstance(error, _Mistake) else f"not YAML ({problem})"
        raise ConfigError(f"{where}: {what}") from None
    except (yaml.YAMLError, ValueError) as error:  # bad characters, or a date such as 2000-13-01
        raise ConfigError(f"{origin}: not YAML ({first_line(error)})") from None


def to_yaml(tree: Mapping[str, Any]) -> str:
    """Return the text that `parse_yaml` reads as ``tree``, innermost collections on one line."""
    text: str = yaml.dump(tree, Dumper=_Dumper, sort_keys=False, width=100, default_flow_style=None)
    return text


class _Mistake(yaml.MarkedYAMLError):
    """Valid YAML that is nevertheless a mistake here."""

    def __init__(self, problem: str, mark: Any) -> None:
        super().__init__(problem=problem, problem_mark=mark)


class _StrictLoader(yaml.SafeLoader):
    def __init__(self, stream: str) -> None:
        super().__init__(stream)
        self._above: list[yaml.Mark] = []  # starts of the nodes around the current one
        self._sizes: dict[int, int] = {}  # of each node, with its aliases expanded

    def compose_node(self, parent: Any, index: Any) -> Any:
        event: Any = self.peek_event()  # type: ignore[no-untyped-call]  # untyped in PyYAML
        if len(self._above) == _DEEPEST:
            raise _Mistake(f"nested deeper than {_DEEPEST} levels", event.start_mark)
        self._above.append(event.start_mark)
        node: Any = super().compose_node(parent, index)
        self._above.pop()
        if isinstance(event, yaml.AliasEvent) and node is not None:
            start = node.start_mark.index
            if any(start == mark.index for mark in self._above):
                raise _Mistake(f"*{event.anchor} contains itself", event.start_mark)
        elif isinstance(node, yaml.CollectionNode):
            self._check_size(node)
        return node

    def _check_size(self, node: yaml.CollectionNode) -> None:
        """Refuse aliases of aliases that expand to more values than any reader could hold."""
        parts = node.value
        if isinstance(node, yaml.MappingNode):
            _refuse_odd_keys(node)
            parts = [part for pair in parts for part in pair]
        size = 1 + sum(self._sizes.get(id(part), 1) for part in parts)
        if size > _LARGEST:
            raise _Mistake(f"holds more than {_LARGEST} values", node.start_mark)
        self._sizes[id(node)] = size

    def construct_number(self, node: yaml.ScalarNode) -> Any:
        """Read a number; refuse one that YAML 1.1 and 1.2 read differently."""
        text = str(node.value).lstrip("+-").replace("_", "")
        if ":" in text:
            mistake = "in base 60 in YAML 1.1; write it without colons, or put it in quotes"
        elif text[:1] == "0" and text[1:].isdigit():
            mistake = "in base 8 in YAML 1.1; write it without leading zeros"
        else:
            is_int = node.tag.endswith(":int")
            return self.construct_yaml_int(node) if is_int else self.construct_yaml_float(node)
        raise _Mistake(f"{node.value} is a number {mistake}", node.start_mark)


for _tag in ("int", "float"):
    _StrictLoader.add_constructor(f"tag:yaml.org,2002:{_tag}", _StrictLoader.construct_number)


class _Dumper(yaml.SafeDumper):
    """Quotes text that would be read as a number."""


for _class in (_StrictLoader, _Dumper):
    _class.add_implicit_resolver(
        "tag:yaml.org,2002:float",
        re.compile(r"[-+]?(\.\d+|\d+(\.\d*)?)[eE][-+]?\d+$"),
        list("-+.0123456789"),
    )


def _refuse_odd_keys(node: yaml.MappingNode) -> None:
    """Refuse keys that are not text or are given twice."""
    given: set[str] = set()
    for key_node, _ in node.value:
        key, is_merge = key_node.value, key_node.tag == "tag:yaml.org,2002:merge"
        if not (is_merge or key_node.tag == "tag:yaml.org,2002:str"):
            shown = key if isinstance(key, str) else "of several values"
            raise _Mistake(f"the key {shown} is not text; put it in quotes", key_node.start_mark)
        if key in given:
            keep = "write one list of both" if is_merge else "keep one"
            raise _Mistake(f"'{key}' is given twice; {keep}", key_node.start_mark)
        given.add(key)
