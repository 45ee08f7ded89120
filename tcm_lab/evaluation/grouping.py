"""Groups records into curves: their points differ in lambda, their repetitions in the seed.

Most codecs in the field have one set of weights per rate, and their records are points of a curve.
Only records with the same architecture, recipe and lambda are repetitions of one training, and only
these are ever averaged.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Sequence
from statistics import fmean
from typing import Any, NamedTuple

from tcm_lab._utils import Frozen
from tcm_lab._utils.numbered import numbered
from tcm_lab.errors import LabError
from tcm_lab.evaluation.curves import Counted, RdCurve
from tcm_lab.evaluation.record import RdPoint, RdRecord, check_payloads

_FREE = {"name", "lambdas", "seed", "checkpoint_every"}
"""Fields of a recipe that may differ between the trainings of one curve."""


class _Key(NamedTuple):
    """A rate: its lambda, or a rate level and the lambdas that the levels belong to."""

    lmbda: float | None = None
    rate: float | None = None
    between: tuple[float, ...] = ()


class MeasuredCurve(Frozen):
    """One codec's curve.

    Attributes:
        label: the codec's name, and what distinguishes this curve from others of that name.
        records: one per training seed, each with the points of all its lambdas.
    """

    label: str
    records: tuple[RdRecord, ...]

    def curve(self, *, counted: Counted = "file") -> RdCurve:
        """Return the means over the seeds; ``counted`` as in `RdRecord.curve`."""
        return mean_curve(self.records, self.label, counted=counted)


def measured_curves(records: Sequence[RdRecord]) -> list[MeasuredCurve]:
    """Group records into curves, in the order of their first records.

    Records with the same name, architecture, recipe and set of images form a curve: those of
    different lambda are its points, those of different seeds its repetitions. Records that are not
    known to be trained alike are never averaged: single rates of unknown lambda are points of one
    curve, and other records are curves of their own. Duplicate measurements count once.
    """
    families: dict[str, list[RdRecord]] = {}
    for record in _distinct(records):
        families.setdefault(_family(record), []).append(record)
    curves = [curve for family in families.values() for curve in _curves(family)]
    labels = _labels([curve[0] for curve in curves])
    return [
        MeasuredCurve(label=label, records=tuple(curve))
        for label, curve in zip(labels, curves, strict=True)
    ]


def join_records(records: Sequence[RdRecord], name: str = "") -> RdRecord:
    """Return the points of several trainings, one or more lambdas each, as one record.

    Args:
        records: records on the same images, no two of them at the same lambda.
        name: name of the record. With a name, architectures may differ, as they do between the
            qualities of CompressAI's models; without one, they must be the same.

    Raises:
        LabError: the records are of different images, recipes or architectures, or share a lambda.
    """
    if not records:
        raise LabError("no records to join. Give at least one.")
    check_alike(records, architecture=not name)
    repeated = [key for key, number in Counter(_keys(records)).items() if key and number > 1]
    if repeated:
        raise LabError(
            f"records of {records[0].name}: two are at {_text(repeated[0])}, in which the points "
            "of a curve must differ. Do not join trainings that differ only in their seed."
        )
    points = [point for record in records for point in record.points]
    known = sorted(point.lmbda for point in points if point.lmbda is not None)
    points.sort(key=lambda point: point.bpp)
    if len(known) == len(points):
        points.sort(key=lambda point: point.lmbda or 0)
    recipe = records[0].recipe
    return records[0].model_copy(
        update={
            "name": name or records[0].name,
            "points": tuple(points),
            "recipe": recipe and recipe.with_lambdas(*known),
            "skipped": tuple(dict.fromkeys(image for r in records for image in r.skipped)),
        }
    )


def by_seed(records: Sequence[RdRecord]) -> list[RdRecord]:
    """Return one codec's records, joined over the lambdas of each seed if these are known.

    Raises:
        LabError: the records are not of one codec, recipe and set of images.
    """
    check_alike(records)
    keys = _keys(records)
    known = [(record.recipe.seed, record) for record in records if record.recipe is not None]
    if len(known) < max(len(records), 2) or None in keys:
        return list(records)
    if len(set(keys)) == len(keys):  # each lambda once, with any seed
        return [join_records(records)]
    seeds: dict[int, list[RdRecord]] = {}
    for seed, record in known:
        seeds.setdefault(seed, []).append(record)
    return [join_records(of_seed) for of_seed in seeds.values()]


def points_by_rate(records: Iterable[RdRecord]) -> list[list[RdPoint]]:
    """Return the points of one codec's seeds as one list per lambda or rate level.

    A point with neither known is a list of its own.
    """
    by_rate: dict[object, list[RdPoint]] = {}
    for number, record in enumerate(records):
        for position, point in enumerate(record.points):
            by_rate.setdefault(_key(record, point) or (number, position), []).append(point)
    return list(by_rate.values())


def mean_curve(
    records: Sequence[RdRecord], name: str = "", *, counted: Counted = "file"
) -> RdCurve:
    """Return the curve of one codec: at each lambda or rate level, the mean over its seeds.

    Args:
        records: one or more records of one codec.
        name: name of the curve; by default that of the first record.
        counted: what the rates count.

    Raises:
        LabError: payloads are to be counted, and an older record lacks them.
    """
    check_payloads(records, counted)
    points = points_by_rate(records)
    return RdCurve.of_points(
        [fmean(point.counted_bpp(counted) for point in seeds) for seeds in points],
        [fmean(point.psnr_db for point in seeds) for seeds in points],
        name or records[0].name,
        counted,
    )


def check_images(records: Sequence[RdRecord]) -> None:
    """Refuse records of different sets of images.

    Raises:
        LabError: there are several sets; the message names them.
    """
    prints = list(dict.fromkeys(record.data_fingerprint for record in records))
    if len(prints) > 1:
        raise LabError(
            f"records are of {len(prints)} different sets of images ({', '.join(prints)}). "
            "Evaluate all on the same folder, or use the records of one set at a time."
        )


def check_alike(records: Sequence[RdRecord], *, architecture: bool = True) -> None:
    """Refuse records that are not of one codec, one recipe and one set of images.

    Raises:
        LabError: the records differ; the message says in what.
    """
    check_images(records)
    name = records[0].name
    if architecture and len({_architecture(record) for record in records}) > 1:
        raise LabError(
            f"records of {name} are of different architectures, so they are not seeds of one "
            "training. Compare them as separate curves."
        )
    if len(precisions := {record.precision for record in records}) > 1:
        raise LabError(
            f"records of {name} were measured in {' and '.join(sorted(precisions))}. Compare them "
            "as separate curves."
        )
    recipes = [_training(record) for record in records if record.recipe is not None]
    for other in recipes[1:]:
        field = next((field for field in other if other[field] != recipes[0][field]), None)
        if field is not None:
            raise LabError(
                f"records of {name} were trained differently: {field} is {recipes[0][field]} and "
                f"{other[field]}. Compare them as separate curves."
            )


def _curves(family: Sequence[RdRecord]) -> list[list[RdRecord]]:
    """Group the records of one family into curves with one record per seed."""
    if family[0].recipe is not None:
        try:
            return [by_seed(family)]
        except LabError:  # one training, measured twice with different results
            return [[record] for record in family]
    single = [record for record in family if len(record.points) == 1]
    unknown = [record for record in single if None in _keys([record])]
    joined = [[join_records(unknown)]] if unknown else []
    return joined + [[record] for record in family if record not in unknown]


def _distinct(records: Sequence[RdRecord]) -> list[RdRecord]:
    """Return the records without duplicates, which may differ in their times."""
    times = {"encode_ms", "decode_ms"}
    distinct: dict[str, RdRecord] = {}
    for record in records:
        results = record.model_dump_json(
            include=dict.fromkeys(("name", "shapes", "recipe", "points", "data_fingerprint"), True),
            exclude={"points": {"__all__": {"images": {"__all__": times}}}},
        )
        distinct.setdefault(results, record)
    return list(distinct.values())


def _labels(records: Sequence[RdRecord]) -> list[str]:
    """Return the records' names, each with what distinguishes it from others of its name."""
    labels = []
    for record in records:
        recipes = [_training(r) for r in records if r.name == record.name and r.recipe]
        differs = [
            f"{field} {value}"
            for field, value in _training(record).items()
            if any(recipe[field] != value for recipe in recipes)
        ]
        labels.append(", ".join([record.name, *differs]))
    return numbered(labels, " #")


def _family(record: RdRecord) -> str:
    own = record.name, _architecture(record), _training(record), record.data_fingerprint
    return json.dumps(own)


def _architecture(record: RdRecord) -> str:
    if isinstance(record.model, str):
        return f"{record.model} {record.shapes}"
    return json.dumps({k: v for k, v in record.model.items() if k != "name"}, sort_keys=True)


def _training(record: RdRecord) -> dict[str, Any]:
    """Return the recipe's fields that are common to the trainings of a curve; {} if unknown."""
    return record.recipe.model_dump(mode="json", exclude=_FREE) if record.recipe else {}


def _keys(records: Iterable[RdRecord]) -> list[_Key | None]:
    return [_key(record, point) for record in records for point in record.points]


def _key(record: RdRecord, point: RdPoint) -> _Key | None:
    """Return what distinguishes a point from those at other rates; ``None`` if nothing does."""
    if point.lmbda is not None:
        return _Key(lmbda=point.lmbda)
    if point.rate is None:
        return None
    return _Key(rate=point.rate, between=() if record.recipe is None else record.recipe.lambdas)


def _text(key: _Key) -> str:
    return f"rate {key.rate:g}" if key.lmbda is None else f"lambda {key.lmbda:g}"
