"""The result of a count: one frozen record per model and image size, and its totals.

A record holds every part and every kind of operator; a *convention* only chooses the kinds that are
summed. So one record serves for every published figure, whichever operators the figure leaves out.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Literal

from pydantic import Field, NonNegativeInt, PositiveInt

from tcm_lab._utils import Frozen
from tcm_lab.blocks.cost import Cost, Kind
from tcm_lab.errors import lookup

if TYPE_CHECKING:
    from pandas import DataFrame

Convention = Literal["all", "no-attention-products", "conv-linear-only"]
Scope = Literal["encode", "decode", "whole"]
CounterName = Literal["formula", "torch", "fvcore", "ptflops", "ptflops-aten"]
Size = tuple[PositiveInt, PositiveInt]

CONVENTIONS: Mapping[Convention, frozenset[Kind]] = {
    "all": frozenset({Kind.CONVOLUTION, Kind.LINEAR, Kind.ATTENTION, Kind.GDN}),
    "no-attention-products": frozenset({Kind.CONVOLUTION, Kind.LINEAR, Kind.GDN}),
    "conv-linear-only": frozenset({Kind.CONVOLUTION, Kind.LINEAR}),
}
"""Which kinds each convention sums. Normalisation is in none: published totals leave it out."""

SCOPES: tuple[Scope, ...] = ("encode", "decode", "whole")
ABSENT: Mapping[Scope, frozenset[str]] = {
    "encode": frozenset({"g_s"}),
    "decode": frozenset({"g_a", "h_a"}),
    "whole": frozenset(),
}
"""The parts that each scope does not run, by CompressAI's names."""


class ComplexityRecord(Frozen):
    """The cost of one model on one image of one size.

    Encoding runs every part but ``g_s``, and decoding every part but ``g_a`` and ``h_a``, unless
    ``absent`` names others. The whole is one forward pass, in which the entropy networks run once.

    Attributes:
        model: name of the model.
        fingerprint: hash of its configuration, or of a wrapped model's parameter shapes.
        size: (height, width) of the image.
        padded_size: (height, width) that the networks see.
        parts: cost of each part: MACs of one image as the counter counts them (fvcore counts a
            normalisation at five per element, ptflops a layer with its bias), parameters, and
            activations if the counter counts them.
        absent: the parts that each scope does not run.
        peak_memory_bytes: peak of one forward pass in float32, weights included; None if not
            measured.
        decode_peak_memory_bytes: the same for the decoder.
        counter: the counter.
        unknown_operators: operators that the counter met and cannot count: they cost zero here.
        versions: versions of the packages that counted.
    """

    model: str
    fingerprint: str
    size: Size
    padded_size: Size
    parts: dict[str, Cost]
    absent: dict[Scope, tuple[str, ...]] = Field(
        default_factory=lambda: {scope: tuple(sorted(parts)) for scope, parts in ABSENT.items()},
        min_length=len(SCOPES),
    )
    peak_memory_bytes: NonNegativeInt | None = None
    decode_peak_memory_bytes: NonNegativeInt | None = None
    counter: CounterName
    unknown_operators: tuple[str, ...] = ()
    versions: dict[str, str]

    def to_frame(self) -> DataFrame:
        """Return the record as a pandas data frame: one row per part and kind of operator."""
        from pandas import DataFrame

        kinds = [(part, cost, kind) for part, cost in self.parts.items() for kind in Kind]
        return DataFrame(
            {
                "model": self.model,
                "part": part,
                "kind": str(kind),
                "macs": cost.macs.get(kind, 0),
                "kmacs_per_px": cost.macs.get(kind, 0) / self.pixels / 1e3,
                "parameters": cost.parameters.get(kind, 0),
            }
            for part, cost, kind in kinds
            if kind in cost.macs or kind in cost.parameters
        )

    @property
    def whole(self) -> Cost:
        """Cost of all parts together."""
        return sum(self.parts.values(), Cost())

    @property
    def macs_by_kind(self) -> dict[Kind, int]:
        """MACs of the whole forward pass by kind."""
        return dict(self.whole.macs)

    def macs_by_part(self, convention: Convention = "all") -> dict[str, int]:
        """Return the MACs of each part under ``convention``.

        Raises:
            LabError: no convention has that name.
        """
        kinds = lookup(CONVENTIONS, convention, "counting convention")
        return {
            part: sum(macs for kind, macs in cost.macs.items() if kind in kinds)
            for part, cost in self.parts.items()
        }

    def total_macs(self, scope: Scope = "whole", convention: Convention = "all") -> int:
        """Return the MACs of ``scope`` for one image, summed under ``convention``.

        Raises:
            LabError: no convention or scope has that name.
        """
        absent, parts = lookup(self.absent, scope, "scope"), self.macs_by_part(convention)
        return sum(macs for part, macs in parts.items() if part not in absent)

    def total_kmacs_per_px(self, scope: Scope = "whole", convention: Convention = "all") -> float:
        """Return `total_macs` in thousands for each pixel of the unpadded image."""
        return self.total_macs(scope, convention) / self.pixels / 1e3

    def total_gmacs(self, scope: Scope = "whole", convention: Convention = "all") -> float:
        """Return `total_macs` in billions."""
        return self.total_macs(scope, convention) / 1e9

    @property
    def total_parameters(self) -> int:
        """All learnable scalars."""
        return self.whole.total_parameters

    @property
    def conv_linear_parameters(self) -> int:
        """Learnable scalars of convolutions and linear layers alone."""
        kinds = self.whole.parameters
        return kinds.get(Kind.CONVOLUTION, 0) + kinds.get(Kind.LINEAR, 0)

    @property
    def weight_bytes(self) -> int:
        """Size of the parameters in float32, four bytes each."""
        return 4 * self.total_parameters

    @property
    def pixels(self) -> int:
        """Pixels of the image before padding."""
        return self.size[0] * self.size[1]

    @property
    def kmacs_per_px(self) -> float:
        """Whole forward pass, convention ``all``, in thousands of MACs per unpadded pixel."""
        return self.total_kmacs_per_px()

    @property
    def encode_kmacs_per_px(self) -> float:
        """Encoder, convention ``all``, in thousands of MACs per unpadded pixel."""
        return self.total_kmacs_per_px("encode")

    @property
    def decode_kmacs_per_px(self) -> float:
        """Decoder, convention ``all``, in thousands of MACs per unpadded pixel."""
        return self.total_kmacs_per_px("decode")

    @property
    def portable_kmacs_per_px(self) -> float:
        """Part that a portable stream computes in float64, both in encoding and in decoding."""
        apart = {*self.absent["encode"], *self.absent["decode"]}
        macs = self.macs_by_part()
        return sum(macs[part] for part in macs if part not in apart) / self.pixels / 1e3
