"""Where these tests run: a GPU, or the device that TCM_LAB_TEST_DEVICE names.

``nox -s gpu`` runs them. Without a GPU they are skipped; ``TCM_LAB_TEST_DEVICE=cpu`` tries the
tests themselves, with the CPU in both places.
"""

from __future__ import annotations

import os

import pytest
import torch


@pytest.fixture(scope="session")
def device() -> torch.device:
    named = os.environ.get("TCM_LAB_TEST_DEVICE")
    if named is None and not torch.cuda.is_available():
        pytest.skip("no GPU here; TCM_LAB_TEST_DEVICE=cpu tries the tests on the CPU")
    return torch.device(named or "cuda")


@pytest.fixture(scope="session")
def gpu(device: torch.device) -> torch.device:
    """The device, where a test is of what only GPUs have."""
    if device.type != "cuda":
        pytest.skip("what only a GPU has")
    return device
