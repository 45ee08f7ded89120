"""What was counted: one frozen record per model and image size, and the views that make a total.

A record holds every part and every kind of operator; a *convention* only says which kinds are
summed. So one record answers to every published figure, whichever operators that figure left out.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Literal

from pydantic import NonNegativeInt, PositiveInt

from tcm_lab._utils import Frozen
from tcm_lab.blocks.cost import Kind
from tcm_lab.errors import LabError, near, one_of

Convention = Literal["all", "no-attention-products", "conv-linear-only"]
Direction = Literal["encode", "decode", "whole"]
CounterName = Literal["formula", "torch", "fvcore", "ptflops"]
Size = tuple[PositiveInt, PositiveInt]

CONVENTIONS: Mapping[Convention, frozenset[str]] = {
    "all": frozenset({Kind.CONVOLUTION, Kind.LINEAR, Kind.ATTENTION, Kind.GDN}),
    "no-attention-products": frozenset({Kind.CONVOLUTION, Kind.LINEAR, Kind.GDN}),
    "conv-linear-only": frozenset({Kind.CONVOLUTION, Kind.LINEAR}),
}
"""Which kinds each convention sums. Normalisation is in none: published totals leave it out."""

DIRECTIONS: tuple[Direction, ...] = ("encode", "decode", "whole")
_ABSENT: Mapping[str, frozenset[str]] = {
    "encode": frozenset({"g_s"}),
    "decode": frozenset({"g_a", "h_a"}),
    "whole": frozenset(),
}

Table = dict[str, dict[str, NonNegativeInt]]
"""Figures by part, then by kind."""


class View(Frozen):
    """A record's MACs under one convention.

    Attributes:
        convention: which kinds are summed.
        macs: MACs of one image by direction: ``encode``, ``decode``, ``whole``.
        pixels: pixels of the image before padding.
    """

    convention: Convention
    macs: dict[Direction, NonNegativeInt]
    pixels: PositiveInt

    def kmacs_per_px(self, direction: Direction = "whole") -> float:
        """Return thousands of MACs for each pixel of the unpadded image."""
        return self.macs[direction] / self.pixels / 1e3

    def gmacs(self, direction: Direction = "whole") -> float:
        """Return billions of MACs for one image."""
        return self.macs[direction] / 1e9


class ComplexityRecord(Frozen):
    """What one model costs on one image of one size.

    Encoding runs every part but ``g_s``; decoding every part but ``g_a`` and ``h_a``; the whole is
    one forward pass, in which the entropy networks run once.

    Attributes:
        model: name of the model.
        fingerprint: of its configuration (for a wrapped model: of its parameters' shapes).
        size: (height, width) of the image.
        padded_size: (height, width) that the networks see.
        parameters: learnable scalars by part, then by kind.
        macs: multiply-accumulates of one image by part, then by kind, as the counter counts them:
            fvcore counts a normalisation at five per element, ptflops a layer with its bias.
        activations: output elements of convolutions, linear layers and attention products, by
            part; empty for a counter that does not count them.
        weight_bytes: what the parameters take in float32.
        peak_memory_bytes: of one forward pass in float32, weights included; None if not asked for.
        counter: what counted.
        unknown_operators: operators that the counter met and cannot count: they cost zero here.
        versions: of what counted, by package.
    """

    model: str
    fingerprint: str
    size: Size
    padded_size: Size
    parameters: Table
    macs: Table
    activations: dict[str, NonNegativeInt]
    weight_bytes: NonNegativeInt
    peak_memory_bytes: NonNegativeInt | None = None
    counter: CounterName
    unknown_operators: tuple[str, ...] = ()
    versions: dict[str, str]

    @property
    def total_parameters(self) -> int:
        """All learnable scalars."""
        return sum(self.parameters_by_kind.values())

    @property
    def conv_linear_parameters(self) -> int:
        """Learnable scalars of convolutions and linear layers alone."""
        kinds = self.parameters_by_kind
        return kinds.get(Kind.CONVOLUTION, 0) + kinds.get(Kind.LINEAR, 0)

    @property
    def parameters_by_kind(self) -> dict[str, int]:
        """Learnable scalars by kind of operator."""
        return _sum(self.parameters.values())

    @property
    def macs_by_kind(self) -> dict[str, int]:
        """MACs of one forward pass by kind of operator, normalisation included."""
        return _sum(self.macs.values())

    def macs_by_part(self, convention: Convention = "all") -> dict[str, int]:
        """Return the MACs of each part under ``convention``."""
        kinds = _kinds(convention)
        return {
            part: sum(macs for kind, macs in by_kind.items() if kind in kinds)
            for part, by_kind in self.macs.items()
        }

    def view(self, convention: Convention = "all") -> View:
        """Return the totals under ``convention``.

        Raises:
            LabError: no convention has that name.
        """
        parts = self.macs_by_part(convention)
        return View(
            convention=convention,
            macs={
                direction: sum(macs for part, macs in parts.items() if part not in absent)
                for direction, absent in zip(DIRECTIONS, _ABSENT.values(), strict=True)
            },
            pixels=self.pixels,
        )

    @property
    def pixels(self) -> int:
        """Pixels of the image before padding."""
        return self.size[0] * self.size[1]

    @property
    def kmacs_per_px(self) -> float:
        """Whole forward pass, convention ``all``, in thousands of MACs per unpadded pixel."""
        return self.view().kmacs_per_px()

    @property
    def encode_kmacs_per_px(self) -> float:
        """What the encoder runs, convention ``all``, in thousands of MACs per unpadded pixel."""
        return self.view().kmacs_per_px("encode")

    @property
    def decode_kmacs_per_px(self) -> float:
        """What the decoder runs, convention ``all``, in thousands of MACs per unpadded pixel."""
        return self.view().kmacs_per_px("decode")

    @property
    def gmacs(self) -> float:
        """Whole forward pass, convention ``all``, in billions of MACs."""
        return self.view().gmacs()


def _kinds(convention: Convention) -> frozenset[str]:
    try:
        return CONVENTIONS[convention]
    except KeyError:
        raise LabError(
            f"no counting convention is called '{convention}'.{near(convention, CONVENTIONS)} "
            f"Write {one_of(CONVENTIONS)}."
        ) from None


def _sum(tables: Iterable[Mapping[str, int]]) -> dict[str, int]:
    total: dict[str, int] = {}
    for by_kind in tables:
        for kind, count in by_kind.items():
            total[kind] = total.get(kind, 0) + count
    return total
