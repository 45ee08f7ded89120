"""Keeps freed memory in the process where the C library is glibc.

A forward pass frees a feature map of some megabytes after every layer. By default glibc returns
such memory to the system, which clears each page anew for the next layer: about 40,000 page faults
for ``tcm-nano`` on one image, a seventh of its time, varying with the system's load. This is
glibc's documented behaviour and not a defect, so the setting has no expiry.
"""

from __future__ import annotations

import ctypes
from functools import cache

# glibc's names, from malloc.h.
_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_THRESHOLD = -1, -2, -3
_NEVER = 2**31 - 1
_LARGEST_ON_HEAP = 32 * 2**20  # the maximum that glibc accepts
_GROWTH = 64 * 2**20


@cache
def keep_freed_memory() -> None:
    """Keep freed memory in this process until it ends; peak memory is unchanged.

    Only our own programs call this; importing the package never does.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):
        return  # not glibc
    mallopt(_M_MMAP_THRESHOLD, _LARGEST_ON_HEAP)
    mallopt(_M_TRIM_THRESHOLD, _NEVER)
    mallopt(_M_TOP_PAD, _GROWTH)
