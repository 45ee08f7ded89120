"""Rate-distortion curves as values: measured ones, and published ones."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from contextlib import suppress
from functools import cache
from importlib.resources import files
from typing import Any, Literal, TypeAlias

from pydantic import model_validator

from tcm_lab._utils import Frozen
from tcm_lab.errors import LabError, lookup

Counted: TypeAlias = Literal["file", "payload"]
"""What a rate counts: whole files, or only their payload, which codes the image."""
_MIN_POINTS: dict[str, int] = {"pchip": 2, "cubic": 4, "akima": 4}


class RdCurve(Frozen):
    """Points of a codec on one set of images, by ascending rate.

    Attributes:
        bpp: bits per pixel, distinct and positive; accepted in any order, stored ascending.
        psnr_db: PSNR in RGB at each of these rates.
        name: name of the curve in legends.
        source: where the points are from.
        counted: what the rates count; curves that count differently are not compared.

    Raises:
        ValueError: the lists differ in length, are empty, or contain impossible values.
    """

    bpp: tuple[float, ...]
    psnr_db: tuple[float, ...]
    name: str = ""
    source: str = ""
    counted: Counted = "file"

    @model_validator(mode="before")
    @classmethod
    def _ascending(cls, values: Any) -> Any:
        if isinstance(values, dict) and "bpp" in values and "psnr_db" in values:
            with suppress(TypeError, ValueError):  # values that the fields or `_check` refuse
                pairs = zip(values["bpp"], values["psnr_db"], strict=True)
                points = sorted(pairs, key=lambda point: float(point[0]))
                values = values | {
                    "bpp": tuple(bpp for bpp, _ in points),
                    "psnr_db": tuple(psnr_db for _, psnr_db in points),
                }
        return values

    @model_validator(mode="after")
    def _check(self) -> RdCurve:
        if len(self.bpp) != len(self.psnr_db) or not self.bpp:
            raise ValueError(
                f"bpp has {len(self.bpp)} values and psnr_db {len(self.psnr_db)}: "
                "give one psnr_db per bpp, and at least one point."
            )
        if not all(math.isfinite(value) and value > 0 for value in self.bpp):
            raise ValueError(f"bpp {self.bpp}: rates must be positive and finite.")
        if not all(math.isfinite(value) for value in self.psnr_db):
            raise ValueError(f"psnr_db {self.psnr_db}: must be finite.")
        if len(set(self.bpp)) != len(self.bpp):
            raise ValueError(f"bpp {self.bpp}: two points have the same rate; leave one out.")
        return self

    @classmethod
    def of_points(
        cls,
        bpp: Sequence[float],
        psnr_db: Sequence[float],
        name: str = "",
        counted: Counted = "file",
    ) -> RdCurve:
        """Return the curve of measured points, with the best of several at the same rate."""
        best: dict[float, float] = {}
        for rate, value in zip(bpp, psnr_db, strict=True):
            best[rate] = max(value, best.get(rate, value))
        return cls(bpp=tuple(best), psnr_db=tuple(best.values()), name=name, counted=counted)

    @property
    def mse(self) -> tuple[float, ...]:
        """Mean squared error of images in [0, 1], from the PSNR of each point."""
        return tuple(10 ** (-value / 10) for value in self.psnr_db)

    def __len__(self) -> int:
        return len(self.bpp)


def check_same_count(anchor: RdCurve, curve: RdCurve) -> None:
    """Refuse to compare a curve that counts whole files with one that counts payloads.

    Raises:
        LabError: the curves count differently; the message names both.
    """
    if anchor.counted != curve.counted:
        sides = ((anchor.name or "anchor", anchor), (curve.name or "curve", curve))
        counts = " and ".join(f"those of {name} count the {side.counted}" for name, side in sides)
        raise LabError(f"rates: {counts}. Give both as curve(counted=…) with the same value.")


def shared_range(
    anchor: RdCurve,
    curve: RdCurve,
    method: str,
    min_overlap: float,
    axis: Literal["psnr_db", "bpp"],
) -> tuple[float, float]:
    """Return the width of the range that both curves cover, and its share of the narrower range.

    Widths of rates are those of their log10.

    Raises:
        LabError: ``method`` cannot compare the curves: too few points, PSNR that does not rise with
            the rate, or a common range below ``min_overlap``.
    """
    check_same_count(anchor, curve)
    least = lookup(_MIN_POINTS, method, "interpolation")
    for side, points in (("anchor", anchor), ("curve", curve)):
        title = f"{side} {points.name}".strip()
        if len(points) < least:
            raise LabError(
                f"{title}: {len(points)} points are too few for a Bjontegaard delta by {method}, "
                f"which needs {least}. Measure more rates."
            )
        if list(points.psnr_db) != sorted(set(points.psnr_db)):
            raise LabError(
                f"{title}: PSNR does not rise with the rate ({points.psnr_db}). Leave out points "
                "that are worse than others, or compare by lagrangian_percent."
            )
    if axis == "psnr_db":
        a, b = anchor.psnr_db, curve.psnr_db
    else:
        a, b = (tuple(math.log10(rate) for rate in side.bpp) for side in (anchor, curve))
    width = min(a[-1], b[-1]) - max(a[0], b[0])
    share = width / min(a[-1] - a[0], b[-1] - b[0])
    if share <= 0 or share < min_overlap:
        if share <= 0:
            problem = "do not overlap"
        elif axis == "psnr_db":
            problem = f"share only {width:.2f} dB of PSNR"
        else:
            problem = f"share only a factor of {10**width:.2f} of rate"
        raise LabError(
            f"curves {anchor.name or 'anchor'} and {curve.name or 'curve'} {problem}: a "
            "Bjontegaard delta would be extrapolated. Measure closer rates, or compare by "
            "lagrangian_percent."
        )
    return width, share


@cache
def _published() -> dict[str, dict[str, RdCurve]]:
    text = (files("tcm_lab.evaluation") / "published_curves.json").read_text("utf-8")
    curves: dict[str, dict[str, RdCurve]] = {}
    for entry in json.loads(text)["curves"]:
        dataset = entry.pop("dataset")
        curves.setdefault(dataset, {})[entry["name"]] = RdCurve.model_validate(entry)
    return curves


def published_curves(dataset: str = "kodak") -> dict[str, RdCurve]:
    """Return the published curves on ``kodak``, ``clic-pro-val`` or ``tecnick`` by name.

    Raises:
        LabError: there are no published curves on the data set.
    """
    return dict(lookup(_published(), dataset, "data set with published curves"))


def published_curve(name: str, dataset: str = "kodak") -> RdCurve:
    """Return a published curve, such as ``vtm`` or ``tcm-large``.

    Raises:
        LabError: there is no such curve.
    """
    return lookup(published_curves(dataset), name, f"published curve on {dataset}")
