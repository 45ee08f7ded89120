"""A count computed beside others: in a child where that is safe, here where it is not."""

from __future__ import annotations

import os
import sys
import threading

import pytest

from tcm_lab.complexity._aside import Aside


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux forks safely")
@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="a second core is what it is for")
def test_a_function_is_computed_in_a_child_unless_another_thread_runs(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(threading, "active_count", lambda: 1)
    assert Aside(os.getpid).result() != os.getpid()
    monkeypatch.setattr(threading, "active_count", lambda: 2)
    assert Aside(os.getpid).result() == os.getpid()


def test_an_error_of_the_function_is_raised_here() -> None:
    def fails() -> None:
        raise KeyError("lost")

    with pytest.raises(KeyError, match="lost"):
        Aside(fails).result()
