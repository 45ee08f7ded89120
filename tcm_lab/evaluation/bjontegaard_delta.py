"""Bjontegaard deltas that say how they were made, and refuse what they can't answer for.

The arithmetic is the `bjontegaard` package's (Herglotz et al., "Beyond Bjontegaard", 2022).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from tcm_lab.errors import LabError, one_of
from tcm_lab.evaluation.curve import RdCurve

Method = Literal["pchip", "cubic", "akima"]
_MIN_POINTS: dict[str, int] = {"pchip": 2, "cubic": 4, "akima": 4}
MIN_OVERLAP = 0.25


class BdRate(float):
    """Mean change of rate at equal quality, in percent; negative is better than the anchor.

    Attributes:
        percent: the figure itself.
        overlap_db: width of the quality range that both curves cover.
        overlap: that width over the range of the curve with the smaller one.
        method: interpolation between the points.
        anchor: name of the anchor.
    """

    overlap_db: float
    overlap: float
    method: str
    anchor: str

    def __new__(
        cls, percent: float, *, overlap_db: float, overlap: float, method: str, anchor: str
    ) -> BdRate:
        """Make the number and note how it came about."""
        self = super().__new__(cls, percent)
        self.overlap_db, self.overlap = overlap_db, overlap
        self.method, self.anchor = method, anchor
        return self

    @property
    def percent(self) -> float:
        """The figure as a plain number."""
        return float(self)

    def __getnewargs_ex__(self) -> tuple[tuple[float], dict[str, object]]:
        return (float(self),), dict(vars(self))

    def __repr__(self) -> str:
        return (
            f"BdRate({float(self):+.2f} % against {self.anchor or 'anchor'}, {self.method}, "
            f"overlap {self.overlap_db:.2f} dB)"
        )


def bd_rate(
    anchor: RdCurve, curve: RdCurve, method: Method = "pchip", *, min_overlap: float = MIN_OVERLAP
) -> BdRate:
    """Compare the rates of two curves over the qualities that both reach.

    Args:
        anchor: the curve to compare with.
        curve: the curve to judge.
        method: ``pchip``, ``cubic`` (the classic fit of a cubic polynomial) or ``akima``; they
            differ by some tenths of a percent.
        min_overlap: least share of the narrower curve's quality range that both must cover.

    Raises:
        LabError: too few points for the method, a curve whose quality does not rise with its
            rate, or too little overlap.
    """
    _check(anchor, curve, method)
    overlap_db, share = _overlap(anchor.psnr_db, curve.psnr_db)
    _refuse_little(share, min_overlap, f"{overlap_db:.2f} dB of PSNR", anchor, curve)
    from bjontegaard import bd_rate as package_bd_rate

    # The package orders nothing itself and warns of overlap by a measure of its own.
    percent = package_bd_rate(
        anchor.bpp, anchor.psnr_db, curve.bpp, curve.psnr_db, method,
        require_matching_points=False, min_overlap=0,
    )  # fmt: skip
    return BdRate(
        float(percent),
        overlap_db=overlap_db,
        overlap=share,
        method=method,
        anchor=anchor.name,
    )


def bd_psnr(
    anchor: RdCurve, curve: RdCurve, method: Method = "pchip", *, min_overlap: float = MIN_OVERLAP
) -> float:
    """Return the mean gain of PSNR in dB at equal rate, on a logarithmic axis of rate.

    Raises:
        LabError: as ``bd_rate``, the overlap being that of the rates.
    """
    import math

    _check(anchor, curve, method)
    rates = [[math.log10(value) for value in which.bpp] for which in (anchor, curve)]
    width, share = _overlap(*rates)
    _refuse_little(share, min_overlap, f"a factor of {10**width:.2f} of rate", anchor, curve)
    from bjontegaard import bd_psnr as package_bd_psnr

    return float(
        package_bd_psnr(
            anchor.bpp, anchor.psnr_db, curve.bpp, curve.psnr_db, method,
            require_matching_points=False, min_overlap=0,
        )
    )  # fmt: skip


def _check(anchor: RdCurve, curve: RdCurve, method: str) -> None:
    if method not in _MIN_POINTS:
        raise LabError(f"method {method!r}: unknown. There are {one_of(_MIN_POINTS)}.")
    for which, role in ((anchor, "anchor"), (curve, "curve")):
        title = f"{role} {which.name}".strip()
        if len(which) < _MIN_POINTS[method]:
            raise LabError(
                f"{title}: {len(which)} points are too few for a Bjontegaard delta by {method}, "
                f"which needs {_MIN_POINTS[method]}. Measure more rates."
            )
        pairs = zip(which.psnr_db, which.psnr_db[1:], strict=False)
        if any(after <= before for before, after in pairs):
            raise LabError(
                f"{title}: PSNR does not rise with the rate ({which.psnr_db}). Leave out the "
                "points that others beat, or compare by lagrangian_percent."
            )


def _overlap(a: Sequence[float], b: Sequence[float]) -> tuple[float, float]:
    """Return the width of the common range of two ascending sequences, and its relative share."""
    width = min(a[-1], b[-1]) - max(a[0], b[0])
    return width, width / min(a[-1] - a[0], b[-1] - b[0])


def _refuse_little(share: float, least: float, width: str, anchor: RdCurve, curve: RdCurve) -> None:
    if share <= 0 or share < least:
        what = "do not overlap" if share <= 0 else f"share only {width}"
        raise LabError(
            f"curves {anchor.name or 'anchor'} and {curve.name or 'curve'} {what}: a Bjontegaard "
            f"delta would be extrapolated. Measure nearer rates, or compare by lagrangian_percent."
        )
