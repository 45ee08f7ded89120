"""The device of these tests: a GPU, or the device named by TCM_LAB_TEST_DEVICE.

``nox -s gpu`` runs them. Without a GPU they are skipped; ``TCM_LAB_TEST_DEVICE=cpu`` runs them
with the CPU as both devices, to check the tests themselves.
"""

from __future__ import annotations

import os

import pytest
import torch

# cuBLAS needs this to be deterministic; the process reads it once, when it first uses cuBLAS.
os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")


@pytest.fixture(scope="session")
def device() -> torch.device:
    named = os.environ.get("TCM_LAB_TEST_DEVICE")
    if named is None and not torch.cuda.is_available():
        pytest.skip("no GPU; TCM_LAB_TEST_DEVICE=cpu runs these tests on the CPU")
    device = torch.device(named or "cuda")
    if device.type == "cuda" and device.index is None:  # some torch functions require an index
        return torch.device("cuda", torch.cuda.current_device())
    return device


@pytest.fixture(scope="session")
def gpu(device: torch.device) -> torch.device:
    """The device, for tests of features that only GPUs have."""
    if device.type != "cuda":
        pytest.skip("needs a GPU")
    return device
