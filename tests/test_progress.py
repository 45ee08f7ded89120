"""How far long work is, as those see it who watch and those who read a log."""

from __future__ import annotations

import io
import time
from dataclasses import replace

import pytest
from rich.console import Console

from tcm_lab._utils.progress import duration, progress
from tcm_lab.cli.display import _EVALUATION, Display
from tcm_lab.study.context import Event
from tcm_lab.training import TrainingProgress, progress_line


@pytest.fixture(autouse=True)
def _a_log(monkeypatch: pytest.MonkeyPatch) -> None:
    """Write to no terminal, whatever the environment of the tests says of one."""
    for name in ("FORCE_COLOR", "NO_COLOR", "TTY_COMPATIBLE", "TTY_INTERACTIVE", "COLUMNS"):
        monkeypatch.delenv(name, raising=False)


class Clock:
    """Time that passes when it is told to."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now_s = 100.0
        monkeypatch.setattr(time, "monotonic", lambda: self.now_s)


def test_a_log_gets_a_line_every_twenty_seconds_and_the_last_one(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = Clock(monkeypatch)
    with progress("coding") as show:
        for done in range(1, 12):
            clock.now_s += 8
            show(done, 11)
    out, err = capsys.readouterr()
    assert out == ""  # a result that is piped on holds nothing else
    # 8 seconds each: the third is the first after 20 seconds, and so on.
    assert err.splitlines() == [
        "coding: 3 of 11, 1:04 left",
        "coding: 6 of 11, 0:40 left",
        "coding: 9 of 11, 0:16 left",
        "coding: 11 of 11, 0:00 left",
    ]


def test_what_is_done_soon_leaves_a_log_as_it_was(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = Clock(monkeypatch)
    with progress("coding") as show:
        for done in (1, 2, 3):
            clock.now_s += 6
            show(done, 3)
    assert capsys.readouterr() == ("", "")


def test_a_terminal_has_a_bar_that_is_gone_in_the_end(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    with progress("coding [1, 2]") as show:
        show(1, 2, "0.5 bpp [x]", 61.0)
    out, err = capsys.readouterr()
    assert out == ""
    for told in ("1/2", "0.5 bpp [x]", "1:01 left"):
        assert told in err
    assert err.endswith("\x1b[2K")  # the line is erased


def test_a_training_tells_its_figures_and_its_own_estimate(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = Clock(monkeypatch)
    with progress_line("tcm-nano") as show:
        for step in range(10, 101, 10):
            clock.now_s += 8
            show(TrainingProgress(step, 100, 2.0, 0.5, 25.0, 3.0, 9.0 * (100 - step)))
    lines = capsys.readouterr().err.splitlines()
    figures = "loss  2.000  0.500 bpp  25.00 dB    3.0 images/s"
    assert lines == [
        f"tcm-nano, step: 30 of 100, {figures}, 10:30 left",
        f"tcm-nano, step: 60 of 100, {figures}, 6:00 left",
        f"tcm-nano, step: 90 of 100, {figures}, 1:30 left",
        f"tcm-nano, step: 100 of 100, {figures}, 0:00 left",
    ]


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.4, "0:00"), (59.6, "1:00"), (3599, "59:59"), (3661, "1:01:01")]
)
def test_durations(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_a_study_s_estimate_leaves_out_the_linear_phase_before_its_first_step(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    display = Display(6, 2, Console(file=io.StringIO()))
    event = Event("started", 0, "a", steps=100)
    display(event)
    now[0] = 60.0
    display(replace(event, kind="progress", step=0, text="linear phase"))
    assert display.left_s is None
    display(replace(event, kind="progress", step=10))
    now[0] = 70.0
    display(replace(event, kind="progress", step=20))
    share = 20 / 100 * (1 - _EVALUATION)  # half of it in the last ten seconds
    assert display.left_s == pytest.approx((4 - share) * 10 / (share / 2))


def test_a_study_s_estimate_does_not_take_finalists_for_as_cheap_as_estimates(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now, text = [0.0], io.StringIO()
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    display = Display(10 + 6, 0, Console(file=text))
    event = Event("started", 0, "a", steps=100, finalists=6)
    for done in range(10):
        display(event)
        now[0] += 3.0
        display(replace(event, kind="complete", label=str(done)))
        assert display.left_s == pytest.approx((9 - done) * 3.0)
    assert "8 of 16 trainings done, about 0:06 left before 6 trainings of f" in text.getvalue()
    final = replace(event, label="a, trained", finalist=True)
    display(final)
    assert display.left_s is None
    now[0] += 200.0
    display(replace(final, kind="complete"))
    assert display.left_s == pytest.approx(5 * 200.0)
    assert text.getvalue().splitlines()[-1].endswith("done, about 16:40 left)")
    text.truncate(0)
    resumed = Display(10 + 6, 12, Console(file=text))  # after two finalists
    resumed(final)
    now[0] += 150.0
    resumed(replace(final, kind="complete"))
    assert resumed.left_s == pytest.approx(3 * 150.0)


def test_a_study_s_estimate_leaves_out_a_first_training_that_all_others_build_on(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    display = Display(11, 0, Console(file=io.StringIO()), first_is_shared=True)
    event = Event("started", 0, "a", steps=100)
    display(event)
    now[0] = 900.0
    display(replace(event, kind="progress", step=90))
    assert display.left_s is None
    now[0] = 1000.0
    display(replace(event, kind="complete", step=100))
    for number in range(2):
        now[0] += 8.0
        display(replace(event, kind="complete", label=str(number)))
    assert display.left_s == pytest.approx(8 * 8.0)


def test_a_study_s_estimate_leaves_out_what_was_known_and_further_seeds(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    display = Display(100, 0, Console(file=io.StringIO()))
    event = Event("started", 0, "a", steps=100)
    for _ in range(90):  # from a cache
        display(event)
        now[0] += 0.1
        display(replace(event, kind="known", step=100))
    assert display.left_s is None
    for done in range(1, 11):
        display(event)
        now[0] += 60.0
        display(replace(event, kind="complete", step=100))
        assert display.left_s == pytest.approx((10 - done) * now[0] / done)
    display(replace(event, label="a, seed 1"))
    assert display.left_s is None
