"""Settings of all tests of studies: intervals from few resamples, and untimed dry runs."""

from __future__ import annotations

import importlib
from collections.abc import Iterator

import pytest


@pytest.fixture(scope="module", autouse=True)
def _few_resamples() -> Iterator[None]:
    """Draw a tenth of the resamples; intervals have tests of their own."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("tcm_lab.study.summary._SAMPLES", 40)
        yield


@pytest.fixture(scope="module", autouse=True)
def _a_long_look() -> Iterator[None]:
    """Let a dry run see every variant, even if a busy machine builds them slowly."""
    module = importlib.import_module("tcm_lab.study.dry_run")  # a function has the same name
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(module, "_LOOK_S", 600.0)
        yield
