"""Results of an evaluation per image and rate, and their means for tables and plots."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import fmean
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from pydantic import Field, PositiveInt, SerializerFunctionWrapHandler, model_serializer

from tcm_lab._utils import Frozen
from tcm_lab._utils.devices import Precision
from tcm_lab._utils.environment import Environment
from tcm_lab.errors import LabError
from tcm_lab.evaluation.curves import Counted, RdCurve
from tcm_lab.training import Recipe

if TYPE_CHECKING:
    from pandas import DataFrame

Quality: TypeAlias = Literal["psnr_db", "psnr_yuv_db", "ssim", "ms_ssim_db", "lpips", "dists"]
"""An image metric of a point, by its name in the metric registry."""

_COMPRESSAI_NAMES = {
    "ms_ssim": "ms-ssim-rgb",
    "psnr_yuv_db": "psnr-yuv",
    "ssim": "ssim-rgb",
    "lpips": "lpips",
    "dists": "dists",
}

_NO_PAYLOAD = (
    "its record is from an earlier version, which did not count payloads, and files of different "
    "formats are compared without their headers. Measure it again."
)


class ImageResult(Frozen):
    """One image at one rate.

    Attributes:
        name: name of the image.
        height: pixels, before any padding.
        width: pixels, before any padding.
        bits: bits of the whole file: the streams and the rest of a ``.tcm`` file, or an image file
            as it is.
        payload_bits: bits of the streams alone, or of the data that code the image in an image file
            (see `tcm_lab.evaluation.payload`); ``None`` in older records.
        estimated_bits: bits by the likelihoods; ``None`` for codecs that have none.
        psnr_db: PSNR in RGB after rounding to 8 bits.
        psnr_yuv_db: (6 Y + U + V) / 8 of the PSNRs in BT.709; ``None`` in older records.
        ssim: SSIM in RGB; ``None`` for images below 11 pixels, and in older records.
        ms_ssim: MS-SSIM in RGB; ``None`` for images below 161 pixels.
        lpips: LPIPS with AlexNet; ``None`` if not requested.
        dists: DISTS; ``None`` if not requested.
        encode_ms: wall time of coding.
        decode_ms: wall time of decoding.
    """

    name: str
    height: PositiveInt
    width: PositiveInt
    bits: int
    payload_bits: int | None = None
    estimated_bits: float | None
    psnr_db: float
    psnr_yuv_db: float | None = None
    ssim: float | None = None
    ms_ssim: float | None
    lpips: float | None = None
    dists: float | None = None
    encode_ms: float
    decode_ms: float

    @property
    def bpp(self) -> float:
        """Bits of the file per pixel of the unpadded image."""
        return self.bits / (self.height * self.width)

    @property
    def payload_bpp(self) -> float | None:
        """Bits of the streams per pixel of the unpadded image."""
        return None if self.payload_bits is None else self.payload_bits / (self.height * self.width)

    @property
    def coded_bits(self) -> int | None:
        """Bits that code the image, without headers; ``None`` in older records of image files.

        In older records of codecs with likelihoods, ``bits`` are those of the streams alone.
        """
        written = None if self.estimated_bits is None else self.bits
        return written if self.payload_bits is None else self.payload_bits

    def counted_bpp(self, counted: Counted) -> float:
        """Return the bits per pixel of the file or of its payload.

        Raises:
            LabError: the record has no payload.
        """
        total = self.bits if counted == "file" else self.coded_bits
        if total is None:
            raise LabError(f"{self.name}: {_NO_PAYLOAD}")
        return total / (self.height * self.width)

    @property
    def mse(self) -> float:
        """Mean squared error, images in [0, 1]."""
        return 10 ** (-self.psnr_db / 10)


class RdPoint(Frozen):
    """All images at one rate; each metric is the mean over the images.

    Attributes:
        rate: rate level, JPEG quality or the like; ``None`` for a codec with one rate.
        lmbda: the rate-distortion weight λ for which the codec was trained at this rate, under
            CompressAI's name; ``None`` if unknown.
        images: results of the images.
    """

    rate: float | None
    lmbda: float | None = None
    images: tuple[ImageResult, ...] = Field(min_length=1)

    @property
    def bpp(self) -> float:
        """Bits of the files per pixel."""
        return fmean(image.bpp for image in self.images)

    @property
    def payload_bpp(self) -> float | None:
        """Bits of the streams per pixel; ``None`` in older records."""
        return self._mean("payload_bpp")

    def counted_bpp(self, counted: Counted) -> float:
        """Return the bits per pixel of the files or of their payloads.

        Raises:
            LabError: the record has no payloads.
        """
        return fmean(image.counted_bpp(counted) for image in self.images)

    @property
    def psnr_db(self) -> float:
        """PSNR in RGB."""
        return fmean(image.psnr_db for image in self.images)

    @property
    def psnr_yuv_db(self) -> float | None:
        """PSNR-YUV; ``None`` in older records."""
        return self._mean("psnr_yuv_db")

    @property
    def ssim(self) -> float | None:
        """SSIM; ``None`` if an image is too small, and in older records."""
        return self._mean("ssim")

    @property
    def lpips(self) -> float | None:
        """LPIPS, if requested."""
        return self._mean("lpips")

    @property
    def dists(self) -> float | None:
        """DISTS, if requested."""
        return self._mean("dists")

    @property
    def mse(self) -> float:
        """Mean squared error, images in [0, 1]; the mean over images, not that of the mean PSNR."""
        return fmean(image.mse for image in self.images)

    @property
    def ms_ssim(self) -> float | None:
        """Mean MS-SSIM of the images that are large enough."""
        values = [image.ms_ssim for image in self.images if image.ms_ssim is not None]
        return fmean(values) if values else None

    @property
    def ms_ssim_db(self) -> float | None:
        """The mean MS-SSIM as -10 log10(1 - MS-SSIM); 100 dB if it is 1."""
        if self.ms_ssim is None:
            return None
        return 100.0 if self.ms_ssim >= 1 else -10 * math.log10(1 - self.ms_ssim)

    def _mean(self, name: str) -> float | None:
        """Return the mean of a metric over the images; ``None`` if one of them lacks it."""
        values = [getattr(image, name) for image in self.images]
        return None if None in values else fmean(values)

    @property
    def gap_percent(self) -> float | None:
        """Excess of the streams' bits over the estimated bits, in percent of the latter."""
        estimates = [i.estimated_bits for i in self.images if i.estimated_bits is not None]
        if len(estimates) < len(self.images) or not sum(estimates):
            return None
        written = sum(i.coded_bits or 0 for i in self.images)  # never None if there are estimates
        return 100 * (written / sum(estimates) - 1)

    @property
    def encode_ms(self) -> float:
        """Wall time of coding an image."""
        return fmean(image.encode_ms for image in self.images)

    @property
    def decode_ms(self) -> float:
        """Wall time of decoding an image."""
        return fmean(image.decode_ms for image in self.images)


class RdRecord(Frozen):
    """A complete evaluation of one codec.

    Attributes:
        name: name of the codec.
        model: the codec's configuration, or its class name if it has none.
        shapes: twelve hex digits over its parameters' shapes if it has no configuration, else
            ``None``; ``None`` in older records, too.
        points: one point per rate, by ascending rate, that is by ascending lambda.
        recipe: recipe of the weights, including seed and lambdas; ``None`` if unknown.
        data_fingerprint: digits that identify the images.
        skipped: images that were skipped, each with the reason.
        precision: arithmetic of the networks.
        environment: device, threads, versions.
    """

    name: str
    model: dict[str, Any] | str
    shapes: str | None = None
    points: tuple[RdPoint, ...] = Field(min_length=1)
    recipe: Recipe | None = None
    data_fingerprint: str
    skipped: tuple[str, ...] = ()
    precision: Precision = "float32"
    environment: Environment

    @model_serializer(mode="wrap")
    def _as_known(self, as_tree: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Omit ``shapes`` if there are none, as in records from before the field existed."""
        tree: dict[str, Any] = as_tree(self)
        return {name: value for name, value in tree.items() if (name, value) != ("shapes", None)}

    @property
    def bpp(self) -> tuple[float, ...]:
        """Mean written bits per pixel of each point."""
        return tuple(point.bpp for point in self.points)

    @property
    def psnr_db(self) -> tuple[float, ...]:
        """Mean PSNR of each point."""
        return tuple(point.psnr_db for point in self.points)

    @property
    def mse(self) -> tuple[float, ...]:
        """Mean squared error of each point, images in [0, 1]."""
        return tuple(point.mse for point in self.points)

    def to_frame(self) -> DataFrame:
        """Return a pandas data frame with one row per rate and image."""
        from pandas import DataFrame

        return DataFrame(
            {
                "model": self.name,
                "rate": point.rate,
                "lmbda": point.lmbda,
                **image.model_dump(exclude={"name"}),
                "image": image.name,
                "bpp": image.bpp,
            }
            for point in self.points
            for image in point.images
        )

    @property
    def has_payloads(self) -> bool:
        """Whether every image has a payload, for comparison with files of other formats."""
        return all(i.coded_bits is not None for point in self.points for i in point.images)

    def curve(self, name: str = "", *, counted: Counted = "file") -> RdCurve:
        """Return the means as a curve, with the best of several points at the same rate.

        Args:
            name: name of the curve; by default the record's.
            counted: what the rates count. Use ``payload`` to compare with JPEG and WebP, whose
                headers matter more the smaller the image is.

        Raises:
            LabError: the record is an older one of JPEG or WebP, without payloads.
        """
        check_payloads([self], counted)
        bpp = [point.counted_bpp(counted) for point in self.points]
        return RdCurve.of_points(bpp, self.psnr_db, name or self.name, counted)

    def to_compressai_json(self) -> dict[str, Any]:
        """Return the record in the format of CompressAI's result files, for its plots.

        There, times are in seconds and names of RGB metrics end in ``-rgb``.
        """
        results: dict[str, list[float]] = {"bpp": [*self.bpp], "psnr-rgb": [*self.psnr_db]}
        for name, theirs in _COMPRESSAI_NAMES.items():
            values = [getattr(point, name) for point in self.points]
            if None not in values:
                results[theirs] = values
        results["encoding_time"] = [point.encode_ms / 1000 for point in self.points]
        results["decoding_time"] = [point.decode_ms / 1000 for point in self.points]
        description = "written bits of whole images"
        return {"name": self.name, "description": description, "results": results}


def check_payloads(records: Sequence[RdRecord], counted: Counted = "payload") -> None:
    """Refuse records without payloads, if payloads are to be counted.

    Raises:
        LabError: a record has no payloads; the message names the first one.
    """
    for record in records:
        if counted == "payload" and not record.has_payloads:
            raise LabError(f"{record.name}: {_NO_PAYLOAD}")
