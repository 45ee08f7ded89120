"""Help and tables on a terminal: nothing of the machinery shows, and every list is whole."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable
from typing import get_args

import pytest

import tcm_lab
from tcm_lab.cli.app import COMMANDS, main

NESTED = [
    (group, name) for group, level in COMMANDS.items() if isinstance(level, dict) for name in level
]
SPELLED = [*((name,) for name in COMMANDS), *NESTED]

#: Options of several values, by command: some that every help must show as such.
SEVERAL = {
    ("complexity",): {"size", "set", "checkpoint"},
    ("time",): {"set", "checkpoint"},
    ("train",): {"lambdas", "set", "track"},
    ("evaluate",): {"set", "checkpoint", "rates", "anchors", "metrics"},
    ("analyze", "erf"): {"set", "checkpoint"},
    ("plot",): {"anchors"},
    ("study", "run"): {"slurm"},
}
#: Commands on at least one model, file or folder.
ON_SEVERAL = {
    *(("analyze", name) for name in ("erf", "attention", "latents", "shortcut")),
    *((name,) for name in ("complexity", "time", "evaluate", "table", "plot", "noise")),
}


def helps(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    """Return a command's help as one line, without the frames around it."""
    with pytest.raises(SystemExit) as ended:
        main([*words, "--help"])
    assert not ended.value.code
    out = capsys.readouterr().out
    return " ".join(line.strip("│╭╰╮╯─ ") for line in out.splitlines())


def descriptions(out: str) -> list[list[str]]:
    """Return the lines of each option's description, padded to their full width.

    tyro draws frames where the encoding has them; there, the last two columns are the frame's.
    """
    found: list[list[str]] = []
    for line in out.splitlines():
        padded = line[:-2].replace("│", " ") if line.endswith("│") else line
        text = padded[2:]
        if re.match(r"\S.*? {2,}\S| +• ", text):  # an option, a command of a group
            found.append([padded])
        elif re.match(r"\S", text) or not text.strip():  # a name alone, a heading, nothing
            found.append([])
        elif re.match(r" {8,}\S", text) and found:
            found[-1].append(padded)
    return [lines for lines in found if lines]


@pytest.mark.parametrize("words", SPELLED, ids=" ".join)
def test_descriptions_flow_from_line_to_line(
    capsys: pytest.CaptureFixture[str], words: tuple[str, ...]
) -> None:
    with pytest.raises(SystemExit):
        main([*words, "--help"])
    told = descriptions(capsys.readouterr().out)
    assert any("show this help" in lines[0] for lines in told)
    assert max(map(len, told)) > 1
    for lines in told:
        for before, line in itertools.pairwise(lines):
            room = len(before) - len(before.rstrip())
            assert 1 + len(line.split()[0]) > room, (before, line)


@pytest.mark.parametrize("words", SPELLED, ids=" ".join)
def test_no_help_shows_how_it_is_made(
    capsys: pytest.CaptureFixture[str], words: tuple[str, ...]
) -> None:
    text = helps(capsys, *words)
    made = ("None", "\\", "{None", "()", "typing", "``", ": )")
    assert [each for each in made if each in text] == []


@pytest.mark.parametrize("words", SPELLED, ids=" ".join)
def test_an_option_of_several_values_is_refused_twice(
    capsys: pytest.CaptureFixture[str], words: tuple[str, ...]
) -> None:
    several = re.findall(r"--([a-z][a-z-]*) (?:\[[A-Z]+ \[|[A-Z=]+ \.\.\.)", helps(capsys, *words))
    assert SEVERAL.get(words, set()) <= set(several)
    for name in several:
        assert main([*words, f"--{name}", "1", f"--{name}", "2"]) == 2
        assert f"--{name}: is given 2 times" in capsys.readouterr().err


@pytest.mark.parametrize("words", SPELLED, ids=" ".join)
def test_a_command_on_several_things_refuses_none_of_them(
    capsys: pytest.CaptureFixture[str], words: tuple[str, ...]
) -> None:
    assert ("(at least one)" in helps(capsys, *words)) == (words in ON_SEVERAL)
    if words in ON_SEVERAL:
        further = {("plot",): ["rd", "--out", "curves"]}.get(words, [])
        assert main([*words, *further]) == 2
        assert "Name at least one MODEL, FILE or FOLDER" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("command", "names"),
    [
        ("complexity", tcm_lab.complexity.COUNTERS),
        ("complexity", tcm_lab.complexity.CONVENTIONS),
        ("complexity", tcm_lab.reporting.RENDERERS),
        ("evaluate", tcm_lab.reporting.RENDERERS),
        ("evaluate", get_args(tcm_lab.evaluation.Anchor)),
        ("plot", get_args(tcm_lab.reporting.PlotKind)),
        ("plot", get_args(tcm_lab.evaluation.Quality)),
        ("export", ["lab", *tcm_lab.codec.LAYOUTS]),
        ("train", tcm_lab.training.RECIPES),
        ("study", ["run", "report", "compare", "schema", "init"]),
    ],
)
def test_a_list_of_what_may_be_chosen_is_whole(
    capsys: pytest.CaptureFixture[str], command: str, names: Iterable[str]
) -> None:
    text = helps(capsys, command)
    assert [name for name in names if name not in text] == []


@pytest.mark.parametrize(
    "words",
    [
        ("complexity", "tcm-nano", "--set", "g_*.split=0.25", "--size", "64x64"),
        ("complexity", "tcm-nano", "--set", "g_*.split=0.25", "--detail", "kinds"),
        ("models",),
        ("blocks",),
        ("complexity", "tcm-large", "--size", "512x768", "--explain"),
    ],
    ids=lambda words: " ".join(words[:1] + words[-1:]),
)
def test_a_table_on_a_terminal_escapes_nothing(
    capsys: pytest.CaptureFixture[str], words: tuple[str, ...]
) -> None:
    assert main(list(words)) == 0
    assert "\\" not in capsys.readouterr().out
