"""What a device can do at most, measured on it: the roof under which a codec's parts work."""

from __future__ import annotations

import time
from collections.abc import Callable

import torch
from pydantic import PositiveFloat

from tcm_lab._utils import Frozen

_SIDE = {"cpu": 1024, "cuda": 8192}
_COPIED_BYTES = 2**27  # far beyond any cache
_BUDGET_S = 0.15
_LEAST_RUNS = 3


class DevicePeak(Frozen):
    """What a device can do at most, as measured on it.

    Attributes:
        gmacs_per_s: multiply-accumulates of one large square matrix product, in billions a second.
        gbytes_per_s: bytes that one large copy reads and writes, in billions a second.
    """

    gmacs_per_s: PositiveFloat
    gbytes_per_s: PositiveFloat


def measure_device_peak(
    device: torch.device | str = "cpu", precision: str = "float32"
) -> DevicePeak:
    """Measure a device's peak: the fastest of several runs of each, in under a second on a CPU.

    Args:
        device: ``cpu``, with as many threads as torch has now, or ``cuda``.
        precision: arithmetic of the matrix product.
    """
    device = torch.device(device)
    side = _SIDE[device.type]
    a, b = (torch.rand(side, side, device=device, dtype=getattr(torch, precision)) for _ in "ab")
    product = torch.empty_like(a)
    source = torch.empty(_COPIED_BYTES, dtype=torch.uint8, device=device).zero_()
    target = torch.empty_like(source).zero_()  # written once, so that its pages are there

    def wait() -> None:
        if device.type == "cuda":
            torch.cuda.synchronize(device)

    with torch.no_grad():
        product_s = _fastest(lambda: torch.mm(a, b, out=product), wait)
        copy_s = _fastest(lambda: target.copy_(source), wait)
    return DevicePeak(
        gmacs_per_s=side**3 / product_s / 1e9, gbytes_per_s=2 * _COPIED_BYTES / copy_s / 1e9
    )


def _fastest(work: Callable[[], object], wait: Callable[[], None]) -> float:
    work()
    wait()
    times: list[float] = []
    while len(times) < _LEAST_RUNS or sum(times) < _BUDGET_S:
        start = time.perf_counter()
        work()
        wait()
        times.append(time.perf_counter() - start)
    return min(times)
