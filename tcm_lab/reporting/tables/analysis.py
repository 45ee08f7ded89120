"""Tables of analyses: receptive fields, attention, latents, shortcuts."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping

from tcm_lab.analysis import AttentionRecord, ErfMeasures, LatentRecord, ShortcutRecord
from tcm_lab.errors import LabError, one_of
from tcm_lab.reporting._notes import need
from tcm_lab.reporting.table import Column, Row, Table
from tcm_lab.stats import Interval, mean_interval


def erf_table(measures: Mapping[str, ErfMeasures], *, title: str = "") -> Table:
    """Return one row per field: sides of the squares, radius, reach beyond convolutions.

    Raises:
        LabError: no measures are given.
    """
    need("measures", measures)
    of = " and ".join(dict.fromkeys(field.of for field in measures.values()))
    shares = sorted({share for field in measures.values() for share in field.side_px})
    square = {"group": "side of the square that holds", "unit": "px", "format": ".0f"}
    return Table(
        title=title or f"Effective receptive field of {of}",
        columns=(
            Column(key="model", header="field"),
            *(Column(key=_side(p), header=f"{100 * p:g} %", **square) for p in shares),
            Column(key="radius_px", header="second-moment radius", unit="px", format=".1f"),
            Column(key="beyond_percent", header="beyond its convolutions", unit="%", format=".2f"),
            Column(key="anisotropy", header="anisotropy", format=".2f"),
            Column(key="grid_visibility", header="grid visibility", format=".2f"),
        ),
        rows=[
            Row(
                values={
                    "model": label,
                    **{_side(share): side for share, side in field.side_px.items()},
                    "radius_px": field.radius_px,
                    "beyond_percent": _beyond_percent(field.within_convolutions),
                    "anisotropy": field.anisotropy,
                    "grid_visibility": max(field.grid_visibility.values(), default=None),
                }
            )
            for label, field in measures.items()
        ],
        footer=(
            _over(field.images for field in measures.values()),
            "Squares and radius are around the field's centre. Beyond its convolutions: reached by "
            "attention only. Anisotropy: the field's longer axis over its shorter axis.",
            "Grid visibility: how many times larger changes are where windows meet than elsewhere; "
            "1 is invisible. None with a linear shortcut, whose blocks have the same edges.",
            *_shortcut_note(measures),
        ),
    )


def _shortcut_note(measures: Mapping[str, ErfMeasures]) -> tuple[str, ...]:
    """Return a note on the fields that include a linear shortcut, if any do."""
    including = {label: each for label, each in measures.items() if each.shortcut != "none"}
    if not including:
        return ()
    is_all = len(including) == len(measures)
    which = "All fields include it" if is_all else f"Included in: {', '.join(including)}"
    can_leave_out = all(  # wavelet steps are part of every stage
        each.of == "y" and each.shortcut != "wavelet" for each in including.values()
    )
    advice = " To leave it out, name g_a's last stage as the layer." if can_leave_out else ""
    return (f"A linear shortcut may hold most of the energy. {which}.{advice}",)


def _side(share: float) -> str:
    return f"side_{100 * share:g}_px"


def _beyond_percent(within: Interval) -> Interval:
    ends = {"value": within.value, "low": within.high, "high": within.low}
    return within.model_copy(update={k: 100 * max(0.0, 1 - share) for k, share in ends.items()})


def _over(counts: Iterable[int], also: str = "") -> str:
    """Return a note on the number of images that the rows average."""
    images = one_of(sorted(set(counts)))
    if images == "1":
        return f"Means over {also}one image, so without intervals."
    return f"Means over {also}{images} images; brackets: 95 % bootstrap intervals over the images."


def attention_table(records: Mapping[str, AttentionRecord], *, transform: str = "g_a") -> Table:
    """Return one row per model and layer of a transform.

    Raises:
        LabError: no record has a layer there.
    """
    distance = {"group": "distance", "unit": "px", "format": ".1f"}
    entropy = {"group": "entropy", "unit": "bit", "format": ".2f"}
    rows = [
        Row(
            values={
                "model": label,
                "layer": record.label_of(layer),
                "heads": layer.heads,
                **{name: layer.interval(name) for name in type(layer.learned).model_fields},
                "bare_px": layer.interval("distance_px", with_bias=False),
                "uniform_px": layer.uniform.distance_px[0][0],
                "uniform_bits": layer.uniform.entropy_bits[0][0],
            }
        )
        for label, record in records.items()
        for layer in record.layers_of(transform)
    ]
    if not rows:
        raise LabError(f"no layer of {transform} has window attention in these records")
    images = (len(record.images) for record in records.values())
    return Table(
        title=f"Attention of {transform}",
        columns=(
            Column(key="model", header="model"),
            Column(key="layer", header="layer"),
            Column(key="heads", header="heads", format="d"),
            Column(key="distance_px", header="learned", **distance),
            Column(key="bare_px", header="no bias", **distance),
            Column(key="uniform_px", header="equal weights", **distance),
            Column(key="entropy_bits", header="learned", **entropy),
            Column(key="uniform_bits", header="equal weights", **entropy),
            Column(key="near_share", header="weight on 3x3", format=".2f"),
        ),
        rows=rows,
        footer=(_over(images, "heads and "),),
    )


def latent_table(records: Mapping[str, LatentRecord], *, title: str = "") -> Table:
    """Return one row per codec: rate, deviation before and after LRP, prediction, compaction.

    Raises:
        LabError: no records are given.
    """
    need("records", records)
    steps = {"group": "deviation", "unit": "steps", "format": ".4f"}
    metrics = (
        Column(key="bpp", header="estimated rate", unit="bpp", format=".3f"),
        Column(key="scaled_deviation", header="scaled", group="deviation", format=".3f"),
        Column(key="deviation", header="after LRP", **steps),
        Column(key="coded_deviation", header="coded", **steps),
        Column(key="squared_error", header="squared error after LRP", format=".4f"),
    )
    return Table(
        title=title or "Latents",
        columns=(
            Column(key="model", header="codec"),
            *metrics,
            Column(key="error_deviation", header="std of the normalised error", format=".2f"),
            Column(key="neighbour", header="its correlation with neighbours", format=".3f"),
            Column(key="gain_db", header="coding gain", unit="dB", format=".1f"),
            Column(key="channels_90", header="channels with 90 % of the energy", format="d"),
        ),
        rows=[
            Row(
                values={
                    "model": label,
                    **{metric.key: _if_known(record, metric.key) for metric in metrics},
                    "error_deviation": record.errors.deviation,
                    "neighbour": record.errors.neighbour_correlation,
                    "gain_db": record.coding_gain_db,
                    "channels_90": record.channels_holding(0.9),
                }
            )
            for label, record in records.items()
        ],
        footer=(
            _over(len(record.images) for record in records.values()),
            "Scaled deviation: the mean deviation over the mean magnitude of y.",
        ),
    )


def _if_known(record: LatentRecord, metric: str) -> Interval | None:
    """Return a metric's interval over the images; None if an image has no value."""
    values = (getattr(image, metric) for image in record.images)
    return None if any(map(math.isnan, values)) else record.interval(metric)


def shortcut_table(records: Mapping[str, ShortcutRecord]) -> Table:
    """Return one row per codec: the linear shortcut's share of y and of x̂.

    Raises:
        LabError: no records are given.
    """
    need("records", records)
    share = {"group": "share by the linear shortcut", "format": ".3f"}
    return Table(
        title="Linear shortcuts",
        columns=(
            Column(key="model", header="codec"),
            Column(key="latent", header="latent", **share),
            Column(key="image", header="decoded image", **share),
        ),
        rows=[
            Row(
                values={
                    "model": label,
                    "latent": mean_interval(record.latent),
                    "image": mean_interval(record.image),
                }
            )
            for label, record in records.items()
        ],
        footer=(
            _over(len(record.images) for record in records.values()),
            "Share: covariance of the shortcut's and the transform's outputs, over the variance of "
            "the latter; the rest is the stages'.",
        ),
    )
