"""The README and the studies' page do what they say: all blocks and commands are run, in order.

What is heavy is run smaller, by options behind the line as it stands (`SMALLER`); what needs a
cluster, several GPUs or a database server is read by the command's own parser; and what installs
is held against ``pyproject.toml`` and ``noxfile.py``, since a test that installs the project is
what the README's test command is.
"""

from __future__ import annotations

import ast
import inspect
import re
import shlex
import subprocess
import sys
import tomllib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import yaml
from PIL import Image

from tcm_lab.blocks import BLOCKS
from tcm_lab.cli import main
from tcm_lab.cli.app import COMMANDS
from tcm_lab.codec import load_config
from tcm_lab.metrics import METRICS
from tcm_lab.study import load_space

ROOT = Path(__file__).parents[1]
PAGES = {
    name: (ROOT / name).read_text(encoding="utf-8") for name in ("README.md", "studies/README.md")
}
README = PAGES["README.md"]
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))

FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"!?\[[^\]]*\]\(([^)#]+)(?:#[^)]*)?\)")
SOURCE = re.compile(r'<img src="([^"]+)"')
INLINE = re.compile(r"(?<!`)`([^`\n]+)`(?!`)")

FOREIGN = ("--devices", "--workers", "--launcher", "--storage", "cuda")
"""A line with one of these needs what a test has not: it is parsed."""
LONG = ("agreement",)
"""A command that has no options to make it shorter: it is parsed, too."""
IMAGES = ("--data", "images")
SMALLER: dict[str, tuple[str, ...]] = {
    "train": (*IMAGES, "--eval-data", "images", "--steps", "2", "--batch", "2", "--crop", "64"),
    "evaluate": IMAGES,
    "analyze": (*IMAGES, "--side", "128", "--probes", "2", "--max-images", "1"),
    "study": (*IMAGES, "--eval-data", "images", "--dry-run"),
    "time": ("--repeats", "2", "--seconds", "0", "--warm-up", "1", "--size", "64x64"),
}
"""What is put behind a line so that it takes seconds; the last of two equal options holds."""


class Block(NamedTuple):
    """A fenced block: its page, its language, its text, and the line that it starts at."""

    page: str
    language: str
    text: str
    line: int

    @property
    def commands(self) -> list[list[str]]:
        """The words of each command of a shell block, comments and ``&&`` taken away."""
        lines = self.text.replace("\\\n", " ").splitlines()
        parts = [part for line in lines for part in line.split(" && ")]
        return [words for part in parts if (words := shlex.split(part, comments=True))]


FENCED = [
    Block(page, match[1], match[2], text[: match.start()].count("\n") + 1)
    for page, text in PAGES.items()
    for match in FENCE.finditer(text)
]


@pytest.mark.parametrize("page", PAGES)
def test_every_block_says_its_language(page: str) -> None:
    blocks = [block for block in FENCED if block.page == page]
    assert {block.language for block in blocks} <= {"bash", "python", "yaml"}
    assert PAGES[page].count("\n```") + PAGES[page].startswith("```") == 2 * len(blocks)


class Walk:
    """One way through the pages: a folder, a namespace, and the blocks done so far."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.names: dict[str, Any] = {"__name__": "__main__"}
        self.done = 0
        self.ran: set[tuple[str, ...]] = set()

    def to(self, index: int) -> None:
        """Do every block up to ``index`` that has not been done."""
        while self.done <= index:
            block = FENCED[self.done]
            self.done += 1
            {"bash": self._shell, "python": self._python, "yaml": self._yaml}[block.language](block)

    def _python(self, block: Block) -> None:
        """Run the block, or keep it under the name in its first line for a command to import."""
        named = re.match(r"# ([\w-]+\.py)\b", block.text)
        if named:
            (self.folder / named[1]).write_text(block.text, encoding="utf-8")
            return
        exec(compile(block.text, f"{block.page}, line {block.line}", "exec"), self.names)

    def _yaml(self, block: Block) -> None:
        """Keep the block under the name in its first line, and read it as what it is."""
        named = re.match(r"# ([\w-]+\.yaml)\b", block.text)
        assert named, f"{block.page}, line {block.line}: the first line names no file"
        path = self.folder / named[1]
        path.write_text(block.text, encoding="utf-8")
        if "axes" in yaml.safe_load(block.text):
            assert load_space(path).axes
        else:
            assert load_config(path).name

    def _shell(self, block: Block) -> None:
        for words in block.commands:
            if words[0] == "tcm-lab" or words[1:3] == ["-m", "tcm_lab.study"]:
                self._lab(words[1:] if words[0] == "tcm-lab" else ["study", *words[3:]])
            else:
                CHECKS[words[0]](words)

    def _lab(self, arguments: list[str]) -> None:
        """Run ``tcm-lab …`` here, made smaller, or parse what needs machines that are not here."""
        if arguments[0] in LONG or any(n in word for word in arguments for n in FOREIGN):
            assert _parse(arguments), arguments
            return
        small = SMALLER.get(arguments[0], ())
        if arguments[0] == "train" and "--recipe" not in arguments:
            small = (*small, "--linear-steps", "2")  # the recipe by default has such a phase
        line = (*(word for word in arguments if word != "--dry-run"), *small)
        if line in self.ran:
            return  # a study with and without --dry-run is one line here
        self.ran.add(line)
        assert main(line) == 0, line


@pytest.fixture(scope="module")
def walk(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Walk]:
    """Walk in a folder with an image of the reader's; what it registers is taken out after."""
    folder = tmp_path_factory.mktemp("readme")
    rows, columns = np.mgrid[0:257, 0:260]
    image = np.stack([rows, columns, (rows * columns) // 300], axis=-1).astype(np.uint8)
    Image.fromarray(image).save(folder / "photo.png")
    (folder / "images").mkdir()
    Image.fromarray(image).save(folder / "images" / "waves.png")
    (folder / "studies").symlink_to(ROOT / "studies")
    registries: tuple[Any, ...] = (BLOCKS, METRICS)
    before = [(registry, set(registry)) for registry in registries]
    yield Walk(folder)
    for registry, names in before:
        for name in set(registry) - names:
            registry.unregister(name)


@pytest.mark.parametrize(
    "index",
    range(len(FENCED)),
    ids=[f"{block.page}-{block.language}-at-line-{block.line}" for block in FENCED],
)
@pytest.mark.filterwarnings("ignore:.*has no closed formula:tcm_lab.complexity.UncountedWarning")
def test_a_block_does_what_it_shows(
    walk: Walk, index: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(walk.folder)
    walk.to(index)
    assert "Traceback" not in capsys.readouterr().err


def _parse(arguments: Sequence[str]) -> bool:
    """Say whether the command's own parser accepts ``arguments``; nothing is run."""
    reached: list[str] = []

    def stand_in(command: Callable[..., int]) -> Callable[..., int]:
        def only_parsed(*_: object, **__: object) -> int:
            reached.append(command.__name__)
            return 0

        only_parsed.__doc__ = command.__doc__
        only_parsed.__annotations__ = inspect.get_annotations(command, eval_str=True)
        only_parsed.__signature__ = inspect.signature(command, eval_str=True)  # type: ignore[attr-defined]  # read by tyro
        return only_parsed

    def replace(patch: pytest.MonkeyPatch, commands: dict[str, Any]) -> None:
        for name, command in commands.items():
            if isinstance(command, dict):
                replace(patch, command)
            else:
                patch.setitem(commands, name, stand_in(command))

    with pytest.MonkeyPatch.context() as patch:
        replace(patch, COMMANDS)
        return main(list(arguments)) == 0 and len(reached) == 1


def _venv(words: list[str]) -> None:
    assert words[1:] == ["-m", "venv", ".venv"]


def _activate(words: list[str]) -> None:
    assert words[1:] == [".venv/bin/activate"]


def _pip(words: list[str]) -> None:
    """Hold what is installed against what the project offers and depends on."""
    options = {"-e", "-q", "--torch-backend", "cpu"}
    assert words[1] == "install"
    if "--index-url" in words:
        needed = {re.split("[><=]", each)[0] for each in PYPROJECT["project"]["dependencies"]}
        assert set(words[2 : words.index("--index-url")]) <= needed
        return
    for wanted in (word for word in words[2:] if word not in options):
        named = re.fullmatch(r"(?:\.|tcm-lab)(?:\[([\w,]+)\])?", wanted)
        assert named, wanted
        offered = PYPROJECT["project"]["optional-dependencies"]
        assert set((named[1] or "").split(",")) - {""} <= set(offered)


def _uv(words: list[str]) -> None:
    if words[1] == "pip":
        _pip(words[1:])
    else:
        version = words[words.index("--python") + 1]
        assert f"Programming Language :: Python :: {version}" in PYPROJECT["project"]["classifiers"]


def _nox(words: list[str]) -> None:
    """Hold the sessions against those of the noxfile."""
    tree = ast.parse((ROOT / "noxfile.py").read_text(encoding="utf-8"))
    sessions = {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}
    assert "-s" in words
    assert set(words[words.index("-s") + 1 :]) <= sessions - {"_install"}


def _jupyter(words: list[str]) -> None:
    assert words[1] == "lab"
    assert "jupyterlab" in " ".join(PYPROJECT["project"]["optional-dependencies"]["notebooks"])
    assert all((ROOT / word).exists() for word in words[2:])


def _script(words: list[str]) -> None:
    """Run a script of the project, on the images here where the reader has a folder of theirs."""
    given = ["images" if word.isupper() else word for word in words[2:]]
    subprocess.run([sys.executable, ROOT / words[1], *given], check=True)


CHECKS: dict[str, Callable[[list[str]], None]] = {
    "python3": _venv,
    "python": _script,
    ".": _activate,
    "pip": _pip,
    "uv": _uv,
    "nox": _nox,
    "jupyter": _jupyter,
}


def test_the_test_command_is_what_the_ci_runs() -> None:
    """Of ``.ci/run`` only the line that reads the README is run: the rest of it installs."""
    script = (ROOT / ".ci" / "run").read_text(encoding="utf-8").splitlines()
    (reads,) = (line for line in script if line.startswith("command=$("))
    assert 'eval "$command"' in script
    done = subprocess.run(
        ["bash", "-c", reads + '; printf %s "$command"'],
        cwd=ROOT, capture_output=True, text=True, check=True,
    )  # fmt: skip
    block = README.split("<!-- the test command -->\n")[1].split("```")[1]
    assert done.stdout == block.removeprefix("bash\n").strip()
    assert "\n" not in done.stdout


INLINE_COMMANDS = sorted(
    {
        text
        for page in PAGES.values()
        for text in INLINE.findall(FENCE.sub("", page))
        if text.split(" ")[0] in ("tcm-lab", *CHECKS) and " " in text
    }
)


@pytest.mark.parametrize("command", INLINE_COMMANDS)
def test_a_command_named_in_the_text_is_one(command: str) -> None:
    words = shlex.split(command)
    if words[0] == "tcm-lab":
        assert _parse(words[1:])
    else:
        CHECKS[words[0]](words)


TARGETS = sorted(
    {(page, to) for page, text in PAGES.items() for to in LINK.findall(text) + SOURCE.findall(text)}
)


@pytest.mark.parametrize(("page", "target"), TARGETS)
def test_a_link_leads_to_a_file_of_the_project_or_to_a_page(page: str, target: str) -> None:
    assert target.startswith("https://") or ((ROOT / page).parent / target).exists()


def test_every_path_in_the_table_of_axes_is_a_field() -> None:
    """A path may begin with a dot: then it goes on from the entropy model."""
    config = load_config("tcm-small")
    table = README.split("| axis |")[1].split("\n\n")[0]
    paths = [
        path if not path.startswith(".") else f"entropy_model{path}"
        for row in table.splitlines()[2:]
        for path in INLINE.findall(row.split("|")[2])
    ]
    assert len(paths) > 10
    tree = config.model_dump(mode="json")
    from tcm_lab.codec import find_fields

    for path in paths:
        assert find_fields(tree, path), path
