"""The one reader of YAML files: plain mappings, with every mistake named by file, line and key."""

from __future__ import annotations

from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Any

import yaml

from tcm_lab.errors import ConfigError

_DEEPEST = 64


def read_yaml(path: Path | Traversable, origin: str | None = None) -> dict[str, Any]:
    """Return the mapping that a YAML file holds; messages call it ``origin``, or by its path.

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
        ConfigError: it is not YAML, not a mapping, or nested deeper than 64 levels; a key is given
            twice or is not a string; a value contains itself.
    """
    try:
        tree = yaml.load(text, Loader=_StrictLoader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        where = origin if mark is None else f"{origin}, line {mark.line + 1}"
        problem = error.problem or "the text cannot be parsed"
        what = problem if isinstance(error, _Mistake) else f"not YAML ({problem})"
        raise ConfigError(f"{where}: {what}") from None
    except (yaml.YAMLError, ValueError) as error:  # characters, or a date such as 2000-13-01
        raise ConfigError(f"{origin}: not YAML ({str(error).splitlines()[0]})") from None
    if not isinstance(tree, dict):
        what = "is empty" if tree is None else f"holds {type(tree).__name__}"
        raise ConfigError(f"{origin}: {what}, not a mapping of fields")
    return tree


class _Mistake(yaml.MarkedYAMLError):
    """YAML that is valid and still a mistake here."""

    def __init__(self, problem: str, mark: Any) -> None:
        super().__init__(problem=problem, problem_mark=mark)


class _StrictLoader(yaml.SafeLoader):
    def __init__(self, stream: str) -> None:
        super().__init__(stream)
        self._above: list[yaml.Mark] = []  # where the nodes begin that the current one lies in

    def compose_node(self, parent: Any, index: Any) -> Any:
        event: Any = self.peek_event()  # type: ignore[no-untyped-call]  # untyped in PyYAML
        if len(self._above) == _DEEPEST:
            raise _Mistake(f"nested deeper than {_DEEPEST} levels", event.start_mark)
        self._above.append(event.start_mark)
        node = super().compose_node(parent, index)
        self._above.pop()
        if isinstance(event, yaml.AliasEvent) and node is not None:
            start = node.start_mark.index
            if any(start == mark.index for mark in self._above):
                raise _Mistake(f"*{event.anchor} contains itself", event.start_mark)
        return node

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> Any:
        given: set[str] = set()
        for key_node, _ in node.value:
            key = key_node.value
            if key_node.tag == "tag:yaml.org,2002:merge":
                continue
            if key_node.tag != "tag:yaml.org,2002:str":
                shown = key if isinstance(key, str) else "of several values"
                raise _Mistake(
                    f"the key {shown} is not text; put it in quotes", key_node.start_mark
                )
            if key in given:
                raise _Mistake(f"'{key}' is given twice; keep one", key_node.start_mark)
            given.add(key)
        return super().construct_mapping(node, deep)
