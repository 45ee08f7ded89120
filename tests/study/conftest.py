"""What every test of studies runs under: intervals of few resamples, which are slow to draw."""

from __future__ import annotations

from collections.abc import Iterator

import pytest


@pytest.fixture(scope="module", autouse=True)
def _few_resamples() -> Iterator[None]:
    """Draw a tenth; how intervals come about is tested where they are made."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("tcm_lab.study.summary._SAMPLES", 40)
        yield
