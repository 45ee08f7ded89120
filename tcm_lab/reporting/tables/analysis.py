"""Tables of what was analysed: receptive fields, attention, latents."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from tcm_lab.errors import LabError
from tcm_lab.reporting.table import Column, Row, Table
from tcm_lab.stats import Interval

if TYPE_CHECKING:
    from tcm_lab.analysis import AttentionRecord, ErfMeasures, LatentRecord


def erf_table(measures: Mapping[str, ErfMeasures], *, title: str = "") -> Table:
    """Return one row per field: sides of the squares, radius, reach beyond convolutions.

    Raises:
        LabError: no measures are given.
    """
    if not measures:
        raise LabError("no measures given")
    first = next(iter(measures.values()))
    columns = (
        Column(key="model", header="field"),
        *(
            Column(
                key=f"side_{round(100 * share)}_px",
                header=f"{100 * share:g} %",
                group="side of the square that holds",
                unit="px",
                format=".0f",
            )
            for share in first.side_px
        ),
        Column(key="radius_px", header="second-moment radius", unit="px", format=".1f"),
        Column(key="beyond_percent", header="beyond its convolutions", unit="%", format=".2f"),
        Column(key="anisotropy", header="anisotropy", format=".2f"),
        Column(key="grid_visibility", header="grid visibility", format=".2f"),
    )
    rows = [
        Row(
            values={
                "model": label,
                **{f"side_{round(100 * p)}_px": side for p, side in found.side_px.items()},
                "radius_px": found.radius_px,
                "beyond_percent": _beyond_percent(found.within_convolutions),
                "anisotropy": found.anisotropy,
                "grid_visibility": max(found.grid_visibility.values(), default=None),
            }
        )
        for label, found in measures.items()
    ]
    return Table(
        title=title or f"Effective receptive field of {first.of}",
        columns=columns,
        rows=tuple(rows),
        footer=(
            f"Over {first.images} images; in brackets the 95 % bootstrap interval over them.",
            "Grid visibility: how many times larger changes are where windows meet than elsewhere; "
            "1 is invisible.",
        ),
    )


def _beyond_percent(within: Interval) -> Interval:
    ends = {"value": within.value, "low": within.high, "high": within.low}
    return within.model_copy(
        update={name: 100 * max(0.0, 1 - share) for name, share in ends.items()}
    )


def attention_table(records: Mapping[str, AttentionRecord], *, transform: str = "g_a") -> Table:
    """Return one row per model and layer of a transform.

    Raises:
        LabError: no record has a layer there.
    """
    rows = [
        Row(
            values={
                "model": label,
                "layer": layer.label,
                "heads": layer.heads,
                "distance_px": layer.interval("distance_px"),
                "bare_px": layer.interval("distance_px", with_bias=False),
                "uniform_px": layer.uniform.distance_px[0][0],
                "entropy_bits": layer.interval("entropy_bits"),
                "uniform_bits": layer.uniform.entropy_bits[0][0],
                "near_share": layer.interval("near_share"),
            }
        )
        for label, record in records.items()
        for layer in record.layers_of(transform)
    ]
    if not rows:
        raise LabError(f"no layer of {transform} has window attention in these records")
    return Table(
        title=f"Attention of {transform}",
        columns=(
            Column(key="model", header="model"),
            Column(key="layer", header="layer"),
            Column(key="heads", header="heads", format="d"),
            Column(key="distance_px", header="learned", group="distance", unit="px", format=".1f"),
            Column(key="bare_px", header="no bias", group="distance", unit="px", format=".1f"),
            Column(
                key="uniform_px", header="equal weights", group="distance", unit="px", format=".1f"
            ),
            Column(key="entropy_bits", header="learned", group="entropy", unit="bit", format=".2f"),
            Column(
                key="uniform_bits",
                header="equal weights",
                group="entropy",
                unit="bit",
                format=".2f",
            ),
            Column(key="near_share", header="weight on 3x3", format=".2f"),
        ),
        rows=tuple(rows),
        footer=(
            f"Means over heads and {len(next(iter(records.values())).images)} images; in "
            "brackets the 95 % bootstrap interval over the images.",
        ),
    )


def latent_table(records: Mapping[str, LatentRecord], *, title: str = "") -> Table:
    """Return one row per codec: rate, deviation before and after LRP, prediction, compaction.

    Raises:
        LabError: no records are given.
    """
    if not records:
        raise LabError("no records given")
    metrics = ("bpp", "scaled_deviation", "deviation", "coded_deviation", "squared_error")
    return Table(
        title=title or "Latents",
        columns=(
            Column(key="model", header="codec"),
            Column(key="bpp", header="estimated rate", unit="bpp", format=".3f"),
            Column(key="scaled_deviation", header="scaled", group="deviation", format=".3f"),
            Column(
                key="deviation", header="after LRP", group="deviation", unit="steps", format=".4f"
            ),
            Column(
                key="coded_deviation", header="coded", group="deviation", unit="steps", format=".4f"
            ),
            Column(key="squared_error", header="squared error after LRP", format=".4f"),
            Column(key="error_deviation", header="std of the normalised error", format=".2f"),
            Column(key="neighbour", header="its correlation with neighbours", format=".3f"),
            Column(key="gain_db", header="coding gain", unit="dB", format=".1f"),
            Column(key="channels_90", header="channels with 90 % of the energy", format="d"),
        ),
        rows=tuple(
            Row(
                values={
                    "model": label,
                    **{metric: record.interval(metric) for metric in metrics},
                    "error_deviation": record.errors.deviation,
                    "neighbour": record.errors.neighbour_correlation,
                    "gain_db": record.coding_gain_db,
                    "channels_90": record.channels_holding(0.9),
                }
            )
            for label, record in records.items()
        ),
        footer=(
            f"Over {len(next(iter(records.values())).images)} images; in brackets the 95 % "
            "bootstrap interval over them.",
            "Scaled deviation: the mean deviation over the mean magnitude of y.",
        ),
    )
