"""``tcm-lab``: the tree of commands, and how errors, warnings and Ctrl-C are reported.

Nothing heavy is imported before a command runs. An error that the user can fix prints one line and
exits with code 2; Ctrl-C prints one line and exits with code 130.
"""

from __future__ import annotations

import atexit
import errno
import io
import logging
import os
import signal
import sys
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import tyro
from tyro.extras import SubcommandApp

from tcm_lab import __version__
from tcm_lab._compat.malloc import keep_freed_memory
from tcm_lab.cli import analyze, code, complexity, search, show, train
from tcm_lab.cli.options import with_imports
from tcm_lab.errors import LabError, near, one_of

Command = Callable[..., int | None]


def _named(*commands: Command) -> dict[str, Command]:
    return {command.__name__: command for command in commands}


COMMANDS: dict[str, Command | dict[str, Command]] = {
    "study": _named(search.run, search.report, search.compare, search.schema, search.init),
    **_named(search.dashboard, search.noise, search.agreement),
    **_named(complexity.complexity, complexity.time, train.train, train.evaluate),
    "analyze": _named(analyze.erf, analyze.attention, analyze.latents, analyze.shortcut),
    **_named(code.encode, code.decode, code.export),
    **_named(show.table, show.plot, show.models, show.card, show.blocks),
}
"""Commands by name; a mapping is a group of them. A command returns its exit code, or nothing."""

_GROUPS = {
    "study": "Search a space of variants. For the options of a search: tcm-lab study run --help.",
    "analyze": "Inspect what a trained codec does: receptive fields, attention, latents, shortcut.",
}
_DEFAULTS = {"study": "run"}
_RESUMING = {
    **dict.fromkeys(("study", "agreement"), "; rerun the command to resume"),
    "train": "; rerun with --resume",
}
_LISTS = ("set", "checkpoint", "rates", "anchors", "metrics", "lambdas", "track", "slurm")
_WITHOUT_COMMAS = ("--rates", "--anchors", "--metrics", "--lambdas", "--track")
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO)
_TIMED = ("tcm_lab.data.", "tcm_lab.training.")  # loggers whose warnings the timing causes, too
_logged: set[str] = set()
_ABOUT = "What does each architectural choice of a learned image codec buy, and what does it cost?"


def main(args: Sequence[str] | None = None) -> int:
    """Run the command given by ``args`` and return its exit code."""
    args = sys.argv[1:] if args is None else list(args)
    warnings.showwarning = _show_warning
    _logged.clear()
    if logging.lastResort is not None:
        logging.lastResort.addFilter(_is_new)
    if isinstance(sys.stdout, io.TextIOWrapper):
        # Show each line at once, also in a log file; replace symbols that the encoding lacks.
        sys.stdout.reconfigure(line_buffering=True, errors="replace")
    keep_freed_memory()
    try:
        return _run(args)
    except LabError as error:
        print(f"tcm-lab: error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        atexit.register(signal.signal, signal.SIGINT, signal.SIG_IGN)  # before libraries' own hooks
        advice = _RESUMING.get(next(iter(args), ""), "")
        print(f"tcm-lab: interrupted{advice}", file=sys.stderr)
        return 130
    except BrokenPipeError:
        _forget_output()  # the reader, such as head, has closed the pipe
        return 0
    except OSError as error:
        if error.errno not in _FULL or error.filename is not None:
            raise
        _forget_output()  # errors of files are raised as FileError, with their names
        print(f"tcm-lab: error: output cannot be written ({error.strerror}).", file=sys.stderr)
        return 2


def _run(args: Sequence[str]) -> int:
    """Run a command, and flush its output."""
    if sys.stdout is None:  # output would be lost silently
        raise LabError(
            "output cannot be written (it is closed). Redirect it, for example with > /dev/null."
        )
    if args == ["--version"]:
        print(f"tcm-lab {__version__}")
        return 0
    _check_names(args)
    _check_lists(args)
    app, options = _app(COMMANDS), (tyro.conf.DisallowNone, tyro.conf.OmitArgPrefixes)
    code = app.cli(prog="tcm-lab", description=_ABOUT, args=args, config=options) or 0
    sys.stdout.flush()
    return code


def _forget_output() -> None:
    """Discard what is left in standard output's buffer, which is flushed at exit."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _check_names(args: Sequence[str]) -> None:
    """Refuse a word that names no command at its level, and suggest the nearest commands."""
    level: Any = COMMANDS
    for place, word in enumerate(args):
        if word.startswith("-") or not isinstance(level, Mapping):
            return
        if word not in level:
            typed = " ".join(["tcm-lab", *args[: place + 1]])
            raise LabError(f"{typed}: no such command.{near(word, level)} Known: {one_of(level)}.")
        level = level[word]


def _check_lists(args: Sequence[str]) -> None:
    """Refuse options of several values that are given twice or with commas between the values.

    Raises:
        LabError: the first values would be lost, or all would be taken for one.
    """
    words = [arg.partition("=")[0] for arg in args]
    sizes = ["size"] if args[:1] == ["complexity"] else []  # a single value elsewhere
    for option in (f"--{name}" for name in (*_LISTS, *sizes)):
        if words.count(option) > 1:
            raise LabError(
                f"{option}: is given {words.count(option)} times, and only the last would count. "
                f"Give all its values after one {option}, separated by spaces."
            )
    option = ""
    for word, arg in zip(words, args, strict=True):
        is_option = arg.startswith("--")
        option, value = (word, arg.partition("=")[2]) if is_option else (option, arg)
        if option in _WITHOUT_COMMAS and "," in value:
            apart = " ".join(value.replace(",", " ").split())
            raise LabError(f"{option} {value}: separate values by spaces, as in {option} {apart}.")


def _app(commands: Mapping[str, Any], default: str | None = None) -> SubcommandApp:
    app = SubcommandApp()
    for name, command in commands.items():
        if isinstance(command, Mapping):
            group = _app(command, _DEFAULTS.get(name))
            app.command(group, name=name, help=_GROUPS[name])
        else:
            app.command(name=name, is_default=name == default)(with_imports(command))
    return app


def _is_new(record: logging.LogRecord) -> bool:
    """Return whether a message is new: a training that was timed first logs some of them again."""
    text = record.getMessage()
    is_repeated = record.name.startswith(_TIMED) and text in _logged
    _logged.add(text)
    return not is_repeated


def _show_warning(message: Warning | str, category: type[Warning], *_: Any, **__: Any) -> None:
    """Print our own warnings in one line each; hide other packages', which are for developers."""
    if category.__module__.startswith("tcm_lab"):
        print(f"tcm-lab: warning: {message}", file=sys.stderr)
