"""The study: a search space, its trials in a database, workers that can't lose work, a report."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tcm_lab.study.record import TrialRecord
    from tcm_lab.study.report import write_report
    from tcm_lab.study.result import StudyResult
    from tcm_lab.study.run import run_study
    from tcm_lab.study.space import Space, load_space

_HOMES = {
    "Space": "space",
    "StudyResult": "result",
    "TrialRecord": "record",
    "load_space": "space",
    "run_study": "run",
    "write_report": "report",
}

__all__ = ["Space", "StudyResult", "TrialRecord", "load_space", "run_study", "write_report"]


def __getattr__(name: str) -> Any:
    """Import what is asked for when it is asked for."""
    from importlib import import_module

    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"tcm_lab.study.{_HOMES[name]}"), name)
