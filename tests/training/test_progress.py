"""What a training tells while it runs."""

from __future__ import annotations

import time

import pytest

from tcm_lab.training.progress import Progress, progress_line


def test_where_nobody_watches_a_line_now_and_then_tells_how_long_it_takes(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = 100.0
    monkeypatch.setattr(time, "monotonic", lambda: clock)
    with progress_line("tcm-nano") as show:
        for step in range(10, 101, 10):
            show(Progress(step, 100, 2.0, 0.5, 25.0, 3.0, 8.0 * (100 - step)))
            clock += 8
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(",")[0] for line in lines] == [
        f"tcm-nano: step {step} of 100" for step in (10, 40, 70, 100)
    ]
    assert lines[0].endswith("loss  2.000  0.500 bpp  25.00 dB    3.0 images/s, 12:00 left")
    assert lines[-1].endswith("0:00 left")
