"""Which records are one curve: points of different lambda, and seeds of the same.

Most codecs of the field have one set of weights per rate. Their records are points of a curve.
Only records whose architecture, recipe and lambda agree are repetitions of one training, and only
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
"""Fields of a recipe in which the trainings of one curve may differ."""


class _Key(NamedTuple):
    """A rate: its lambda, or else a rate level and the lambdas of which it is a level."""

    lmbda: float | None = None
    rate: float | None = None
    between: tuple[float, ...] = ()


class MeasuredCurve(Frozen):
    """One codec's curve.

    Attributes:
        label: the codec's name, and what tells this curve from others of that name.
        records: one per training seed, each with the points of all its lambdas.
    """

    label: str
    records: tuple[RdRecord, ...]

    def curve(self, *, counted: Counted = "file") -> RdCurve:
        """Return the means over the seeds; ``counted`` as for `RdRecord.curve`."""
        return mean_curve(self.records, self.label, counted=counted)


def measured_curves(records: Sequence[RdRecord]) -> list[MeasuredCurve]:
    """Sort records into curves, in the order of their first records.

    Records of one name, architecture, recipe and set of images form a curve: those of different
    lambda are its points, those of different seeds its repetitions. What is not known to be
    trained alike is never averaged: single rates of unknown lambda are points of one curve, and
    other records are curves of their own. A measurement that is given twice counts once.
    """
    families: dict[str, list[RdRecord]] = {}
    for record in _distinct(records):
        families.setdefault(_family(record), []).append(record)
    sorted_out = [curve for family in families.values() for curve in _curves(family)]
    labels = _labels([curve[0] for curve in sorted_out])
    return [
        MeasuredCurve(label=label, records=tuple(curve))
        for label, curve in zip(labels, sorted_out, strict=True)
    ]


def join_records(records: Sequence[RdRecord], name: str = "") -> RdRecord:
    """Return the points of several trainings, one or more lambdas each, as one record.

    Args:
        records: of the same images, no two of them at the same lambda.
        name: of the record. With a name, architectures may differ, as they do between the
            qualities of CompressAI's models; without, they must be the same.

    Raises:
        LabError: the records are of different images, recipes or architectures, or share a lambda.
    """
    if not records:
        raise LabError("no records to join. Give at least one.")
    check_alike(records, architecture=not name)
    repeated = [key for key, number in Counter(_keys(records)).items() if key and number > 1]
    if repeated:
        raise LabError(
            f"records of {records[0].name}: two are at {_shown(repeated[0])}. The points of a "
            "curve differ in it; trainings that differ by their seed alone stand side by side."
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
            "skipped": tuple(dict.fromkeys(each for r in records for each in r.skipped)),
        }
    )


def by_seed(records: Sequence[RdRecord]) -> list[RdRecord]:
    """Return one codec's records joined over the lambdas of each seed, if these are known.

    Raises:
        LabError: the records are not of one codec, recipe and set of images.
    """
    check_alike(records)
    keys = _keys(records)
    known = [(record.recipe.seed, record) for record in records if record.recipe is not None]
    if len(known) < max(len(records), 2) or None in keys:
        return list(records)
    if len(set(keys)) == len(keys):  # each lambda once, by whatever seed
        return [join_records(records)]
    seeds: dict[int, list[RdRecord]] = {}
    for seed, record in known:
        seeds.setdefault(seed, []).append(record)
    return [join_records(of_seed) for of_seed in seeds.values()]


def points_by_rate(records: Iterable[RdRecord]) -> list[list[RdPoint]]:
    """Return the points of one codec's seeds: a list for each lambda or rate level.

    Points of which neither is known stand alone.
    """
    found: dict[object, list[RdPoint]] = {}
    for number, record in enumerate(records):
        for place, point in enumerate(record.points):
            found.setdefault(_key(record, point) or (number, place), []).append(point)
    return list(found.values())


def mean_curve(
    records: Sequence[RdRecord], name: str = "", *, counted: Counted = "file"
) -> RdCurve:
    """Return the curve of one codec: at each lambda or rate level, the mean over its seeds.

    Args:
        records: one or more, of one codec.
        name: of the curve; by default that of the first record.
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
        LabError: the message names the sets.
    """
    prints = list(dict.fromkeys(record.data_fingerprint for record in records))
    if len(prints) > 1:
        raise LabError(
            f"records are of {len(prints)} different sets of images ({', '.join(prints)}). "
            "Evaluate all on the same folder, or take the records of one set at a time."
        )


def check_alike(records: Sequence[RdRecord], *, architecture: bool = True) -> None:
    """Refuse records that are not of one codec, one recipe and one set of images.

    Raises:
        LabError: the message says in what they differ.
    """
    check_images(records)
    name = records[0].name
    if architecture and len({_architecture(record) for record in records}) > 1:
        raise LabError(
            f"records of {name} are of different architectures, so they are no seeds of one "
            "training. Compare them as curves of their own."
        )
    if len(precisions := {record.precision for record in records}) > 1:
        raise LabError(
            f"records of {name} were measured in {' and '.join(sorted(precisions))}. Compare them "
            "as curves of their own."
        )
    recipes = [_training(record) for record in records if record.recipe is not None]
    for other in recipes[1:]:
        field = next((field for field in other if other[field] != recipes[0][field]), None)
        if field is not None:
            raise LabError(
                f"records of {name} were trained differently: {field} is {recipes[0][field]} and "
                f"{other[field]}. Compare them as curves of their own."
            )


def _curves(family: Sequence[RdRecord]) -> list[list[RdRecord]]:
    """Sort the records of one family into curves of one record per seed."""
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
    """Return the records without repeated ones, times apart."""
    times = {"encode_ms", "decode_ms"}
    found: dict[str, RdRecord] = {}
    for record in records:
        results = record.model_dump_json(
            include=dict.fromkeys(("name", "shapes", "recipe", "points", "data_fingerprint"), True),
            exclude={"points": {"__all__": {"images": {"__all__": times}}}},
        )
        found.setdefault(results, record)
    return list(found.values())


def _labels(records: Sequence[RdRecord]) -> list[str]:
    """Return the records' names, each with what tells it from others of its name."""
    labels = []
    for record in records:
        recipes = [_training(each) for each in records if each.name == record.name and each.recipe]
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
    """Return how it was trained, as far as one curve's trainings agree; nothing if unknown."""
    return record.recipe.model_dump(mode="json", exclude=_FREE) if record.recipe else {}


def _keys(records: Iterable[RdRecord]) -> list[_Key | None]:
    return [_key(record, point) for record in records for point in record.points]


def _key(record: RdRecord, point: RdPoint) -> _Key | None:
    """Return what tells a point from those at other rates; ``None`` if nothing does."""
    if point.lmbda is not None:
        return _Key(lmbda=point.lmbda)
    if point.rate is None:
        return None
    return _Key(rate=point.rate, between=() if record.recipe is None else record.recipe.lambdas)


def _shown(key: _Key) -> str:
    return f"rate {key.rate:g}" if key.lmbda is None else f"lambda {key.lmbda:g}"
