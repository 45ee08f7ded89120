"""Freed memory stays with the process: the system counts the pages that it had to give anew."""

from __future__ import annotations

import platform
import resource

import pytest
import torch

from tcm_lab._compat.malloc import keep_freed_memory

_MAP_BYTES, _MAPS = 16 * 2**20, 20


# Elsewhere there is nothing to see: the setting is glibc's, and the function leaves others alone.
@pytest.mark.skipif(
    platform.libc_ver()[0] != "glibc", reason="only glibc has the setting; this C library has none"
)
def test_maps_that_follow_each_other_share_their_pages() -> None:
    keep_freed_memory()
    for _ in range(_MAPS):  # until the process has grown enough
        torch.ones(_MAP_BYTES // 4)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(_MAPS):
        torch.ones(_MAP_BYTES // 4)
    faults = resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
    # Given back after each, all pages of all of them but perhaps one would be faults.
    assert faults < _MAP_BYTES / resource.getpagesize()
