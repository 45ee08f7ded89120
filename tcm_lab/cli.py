"""The one command, ``tcm-lab``: reads what was typed, and hands it to the room that does it.

Nothing heavy is imported before a command runs. A mistake that the user can mend ends with one
line and exit code 2, Ctrl-C with one line and 130.
"""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Callable, Sequence
from typing import TextIO

import tyro

from tcm_lab import __version__
from tcm_lab._commands.analyzing import attention, erf, latents
from tcm_lab._commands.coding import decode, encode, export
from tcm_lab._commands.measure import complexity, time
from tcm_lab._commands.showing import blocks, models, plot, table
from tcm_lab._commands.training import evaluate, train
from tcm_lab._compat.malloc import keep_freed_memory
from tcm_lab.errors import LabError


def study() -> int:
    """Search a space of variants: assemble, count, train, evaluate, tabulate. See study --help."""
    raise AssertionError("main() hands this command on")


def analyze() -> int:
    """Look inside trained codecs: analyze erf, analyze attention, analyze latents."""
    raise AssertionError("main() hands this command on")


ANALYSES: dict[str, Callable[..., int]] = {
    "erf": erf,
    "attention": attention,
    "latents": latents,
}

COMMANDS: dict[str, Callable[..., int]] = {
    "study": study,
    "complexity": complexity,
    "time": time,
    "train": train,
    "evaluate": evaluate,
    "analyze": analyze,
    "encode": encode,
    "decode": decode,
    "export": export,
    "table": table,
    "plot": plot,
    "models": models,
    "blocks": blocks,
}


def main(args: Sequence[str] | None = None) -> int:
    """Run the command that ``args`` spell and return its exit code."""
    args = sys.argv[1:] if args is None else list(args)
    warnings.showwarning = _show_warning
    keep_freed_memory()
    try:
        if args == ["--version"]:
            print(f"tcm-lab {__version__}")
            return 0
        if args[:1] == ["study"]:
            from tcm_lab.study.command import main as run_study

            return run_study(args[1:])
        if args[:1] == ["analyze"]:
            return _run(
                ANALYSES, "tcm-lab analyze", "What does a trained codec do inside?", args[1:]
            )
        about = "What does each architectural choice of a learned image codec buy, and cost?"
        return _run(COMMANDS, "tcm-lab", about, args)
    except LabError as error:
        print(f"tcm-lab: error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("tcm-lab: interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:
        # The reader, such as head, has seen enough; nothing more may be flushed to it.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0


def _run(
    commands: dict[str, Callable[..., int]], prog: str, about: str, args: Sequence[str]
) -> int:
    code: int = tyro.extras.subcommand_cli_from_dict(
        commands, prog=prog, description=about, args=args
    )
    return code


def _show_warning(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    file: TextIO | None = None,
    line: str | None = None,
) -> None:
    """Print our own warnings as one line each; other packages' are for their developers."""
    if category.__module__.startswith("tcm_lab"):
        print(f"tcm-lab: warning: {message}", file=sys.stderr)
