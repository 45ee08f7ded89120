"""What stands beside the code says what the code says: versions, sessions, paths, line lengths."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest
import yaml

import tcm_lab

ROOT = Path(__file__).parents[2]
PAPERS = (
    "README.md",
    "CONTRIBUTING.md",
    "CHANGELOG.md",
    "studies/README.md",
    *(
        page.relative_to(ROOT).as_posix()
        for folder in ("studies", "tests")
        for page in sorted((ROOT / folder).glob("*/README.md"))
    ),
)


def _text(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


def test_one_version_everywhere() -> None:
    project = tomllib.loads(_text("pyproject.toml"))["project"]
    citation = yaml.safe_load(_text("CITATION.cff"))
    released = re.findall(r"^## \[(\d[^\]]*)\] - (\S+)$", _text("CHANGELOG.md"), re.MULTILINE)
    assert project["version"] == tcm_lab.__version__ == citation["version"] == released[0][0]
    assert str(citation["date-released"]) == released[0][1]
    assert project["license"] == citation["license"]


def test_the_citation_has_what_the_format_requires() -> None:
    citation = yaml.safe_load(_text("CITATION.cff"))
    assert citation["cff-version"] == "1.2.0"
    assert {"message", "title", "authors"} <= set(citation)
    for reference in citation["references"]:
        assert {"type", "title", "authors"} <= set(reference)
        for author in reference["authors"]:
            assert {"family-names", "given-names"} == set(author)
        (arxiv,) = (entry["value"] for entry in reference["identifiers"])
        assert re.fullmatch(r"arXiv:\d{4}\.\d{5}", arxiv)


def test_the_citation_has_every_paper_that_a_preset_is_of() -> None:
    """A preset's comment names its paper; those that were never on arXiv have no number."""
    presets = (ROOT / "tcm_lab" / "configs" / "presets").glob("*.yaml")
    comments = [
        line
        for preset in presets
        for line in preset.read_text(encoding="utf-8").splitlines()
        if line.startswith("#")
    ]
    papers = set(re.findall(r"\b\d{4}\.\d{5}\b", "\n".join(comments)))
    assert len(papers) >= 5
    assert papers <= set(re.findall(r"arXiv:(\d{4}\.\d{5})", _text("CITATION.cff")))


def test_contributing_names_every_session_and_only_those() -> None:
    sessions = set(re.findall(r"^@nox\.session\ndef (\w+)", _text("noxfile.py"), re.MULTILINE))
    table = _text("CONTRIBUTING.md").split("| session |")[1].split("\n\n")[0]
    named = {name for row in table.splitlines() for name in re.findall(r"`(\w+)`", row)}
    assert named == sessions


def test_contributing_lists_the_packages_in_their_order() -> None:
    (contract,) = tomllib.loads(_text("pyproject.toml"))["tool"]["importlinter"]["contracts"]
    packages = [package.removeprefix("tcm_lab.") for package in contract["layers"]]
    listed = _text("CONTRIBUTING.md").split("Imports go downwards only: ")[1].split(". ")[0]
    assert re.findall(r"`(\w+)`", listed) == packages


@pytest.mark.parametrize("name", PAPERS)
def test_every_path_in_a_paper_is_there(name: str) -> None:
    for path in re.findall(r"`((?:tcm_lab|tests|studies|notebooks)/[\w./-]*)`", _text(name)):
        assert (ROOT / path).exists(), path


@pytest.mark.parametrize("name", PAPERS)
def test_lines_are_short_enough_to_read_in_a_terminal(name: str) -> None:
    text = re.sub(r"<!-- the table -->.*?<!-- its end -->", "", _text(name), flags=re.DOTALL)
    footers = re.findall(r"(?:^.*  \n)+.*", text, re.MULTILINE)  # of tables: one statement a line
    for footer in footers:
        text = text.replace(footer, "")
    prose = [line for line in text.splitlines() if not line.startswith(("|", "[", "!"))]
    assert [line for line in prose if len(line) > 120] == []
