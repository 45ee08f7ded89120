"""Where these tests run: a GPU, or the device that TCM_LAB_TEST_DEVICE names.

``nox -s gpu`` runs them. Without a GPU they are skipped; ``TCM_LAB_TEST_DEVICE=cpu`` tries the
tests themselves, with the CPU in both places.
"""

from __future__ import annotations

import os

import pytest
import torch

# What cuBLAS needs to be deterministic; it is read once, when the process first uses cuBLAS.
os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")


@pytest.fixture(scope="session")
def device() -> torch.device:
    named = os.environ.get("TCM_LAB_TEST_DEVICE")
    if named is None and not torch.cuda.is_available():
        pytest.skip("no GPU here; TCM_LAB_TEST_DEVICE=cpu tries the tests on the CPU")
    found = torch.device(named or "cuda")
    if found.type == "cuda" and found.index is None:  # some of torch's functions ask for one
        return torch.device("cuda", torch.cuda.current_device())
    return found


@pytest.fixture(scope="session")
def gpu(device: torch.device) -> torch.device:
    """The device, where a test is of what only GPUs have."""
    if device.type != "cuda":
        pytest.skip("what only a GPU has")
    return device
