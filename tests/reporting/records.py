"""Small synthetic records whose values follow from the arguments."""

from __future__ import annotations

from tcm_lab._utils.environment import Environment
from tcm_lab.blocks import Cost, Kind
from tcm_lab.complexity import CodingTime, ComplexityRecord, Spread, TimingOptions, TimingRecord
from tcm_lab.evaluation import ImageResult, RdPoint, RdRecord

PLACE = Environment(device="a processor", threads=2, python="3.11", versions={"tcm-lab": "0"})


def complexity(
    model: str = "m", *, size: tuple[int, int] = (100, 200), scale: int = 1
) -> ComplexityRecord:
    """Return a record in which each part costs a power of ten times ``scale`` per pixel."""
    pixels = scale * size[0] * size[1] * 1000
    return ComplexityRecord(
        model=model,
        fingerprint="f" * 12,
        size=size,
        padded_size=(128, 256),
        parts={
            "g_a": Cost(
                {
                    Kind.CONVOLUTION: 1 * pixels,
                    Kind.ATTENTION: 2 * pixels,
                    Kind.NORMALISATION: pixels,
                },
                {Kind.CONVOLUTION: 1_000_000 * scale, Kind.NORMALISATION: 500},
                activations=5,
            ),
            "h_s": Cost({Kind.LINEAR: 10 * pixels}),
            "g_s": Cost({Kind.CONVOLUTION: 100 * pixels, Kind.GDN: 200 * pixels}),
        },
        counter="formula",
        versions={"tcm-lab": "0", "torch": "9"},
    )


def timing(model: str = "m", *, ms: float = 10.0) -> TimingRecord:
    """Return a record with ``ms`` for encoding and twice that for decoding; a tenth is other."""

    def direction(whole: float, part: str) -> CodingTime:
        def spread(value: float) -> Spread:
            return Spread(
                lower_quartile_ms=0.9 * value,
                median_ms=value,
                upper_quartile_ms=1.2 * value,
                n=5,
            )

        return CodingTime(
            wall=spread(whole),
            stages={part: spread(0.9 * whole), "other": spread(0.1 * whole)},
            megapixels_per_s=1 / whole,
            parts_over_whole=1.0,
            samples_ms=(whole,) * 5,
        )

    return TimingRecord(
        model=model,
        fingerprint="f" * 12,
        size=(100, 200),
        padded_size=(128, 256),
        device_type="cpu",
        options=TimingOptions(),
        encode=direction(ms, "g_a"),
        decode=direction(2 * ms, "g_s"),
        peak_device_memory_bytes=None,
        environment=PLACE,
        measured_at="2020-01-01T00:00:00+00:00",
    )


def rd(name: str = "m", *, db: float = 0.0, images: str = "p", side: int = 200) -> RdRecord:
    """Return a record with rates of 0.1, 0.2 and 0.4 bpp at 30, 32 and 34 dB, plus ``db``."""

    def point(rate: float, bpp: float, psnr_db: float) -> RdPoint:
        image = ImageResult(
            name="a.png",
            height=side,
            width=side,
            bits=round(bpp * side * side),
            estimated_bits=bpp * side * side / 1.01,
            psnr_db=psnr_db,
            ms_ssim=0.99 if side > 160 else None,
            encode_ms=1.0,
            decode_ms=2.0,
        )
        return RdPoint(rate=rate, images=(image,))

    return RdRecord(
        name=name,
        model=name,
        points=(point(0, 0.1, 30 + db), point(1, 0.2, 32 + db), point(2, 0.4, 34 + db)),
        data_fingerprint=images,
        environment=PLACE,
    )
