"""JPEG on a study's images: what every learned codec has to beat before it is worth comparing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from statistics import fmean

from pydantic import ValidationError

from tcm_lab._utils.files import write_atomically
from tcm_lab.data import ImageSet
from tcm_lab.errors import LabError
from tcm_lab.evaluation import RdCurve, RdRecord, bd_rate, evaluate_anchor, rate_percents
from tcm_lab.reporting import Column, Row, Table, Value
from tcm_lab.study.result import StudyResult
from tcm_lab.study.summary import VariantSummary

ANCHOR = "jpeg.json"
_LOWEST = 2  # rates that a finding is about: above, short trainings are far from their end


def measure_anchor(result: StudyResult, images: ImageSet) -> StudyResult:
    """Return a study's result with JPEG's rates on its images, measured once and kept.

    Raises:
        LabError: an image can't be coded, or the folder can't be written.
    """
    path = result.out / ANCHOR
    if not path.exists():
        record = evaluate_anchor("jpeg", images)
        write_atomically(path, record.model_dump_json() + "\n")
    return with_anchor(result)


def with_anchor(result: StudyResult) -> StudyResult:
    """Return a study's result with the JPEG that its folder holds, if it holds one.

    Raises:
        LabError: the file is not what ``measure_anchor`` wrote.
    """
    path = result.out / ANCHOR
    if not path.exists():
        return result
    try:
        record = RdRecord.model_validate_json(path.read_bytes())
    except ValidationError:
        raise LabError(f"{path}: is not a record of JPEG. Delete it to measure again.") from None
    measured = {trial.rd.data_fingerprint for trial in result.records}
    if measured and measured != {record.data_fingerprint}:
        raise LabError(f"{path}: was measured on other images. Delete it to measure again.")
    return replace(result, anchor=record)


def mean_curve(summary: VariantSummary) -> RdCurve:
    """Return a variant's curve, the mean over its seeds."""
    curves = [record.rd.curve() for record in summary.records]
    rates = zip(*(curve.bpp for curve in curves), strict=True)
    qualities = zip(*(curve.psnr_db for curve in curves), strict=True)
    return RdCurve(
        bpp=tuple(fmean(values) for values in rates),
        psnr_db=tuple(fmean(values) for values in qualities),
        name=summary.label,
    )


def anchor_table(summaries: Sequence[VariantSummary], anchor: RdRecord) -> Table:
    """Return what each variant spends against JPEG at its own qualities, rate by rate."""
    complete = [summary for summary in summaries if summary.is_complete]
    levels = max(len(summary.records[0].rd.points) for summary in complete)
    columns = [Column(key="variant", header="variant")]
    columns += [
        Column(key=f"level{i}", header=f"rate {i + 1}", group="bits vs JPEG", unit="%",
               format="+.1f", best="low")
        for i in range(levels)
    ]  # fmt: skip
    columns.append(Column(key="bd", header="BD-rate vs JPEG", unit="%", format="+.1f", best="low"))
    rows = []
    for summary in complete:
        curve = mean_curve(summary)
        values: dict[str, Value] = {"variant": summary.label}
        values |= {
            f"level{i}": change for i, change in enumerate(rate_percents(anchor.curve(), curve))
        }
        try:
            values["bd"] = float(bd_rate(anchor.curve(), curve))
        except LabError:  # the curves hardly overlap
            values["bd"] = None
        rows.append(Row(values=values))
    return Table(
        title="Against JPEG at equal PSNR",
        columns=tuple(columns),
        rows=tuple(rows),
        footer=(
            "JPEG by Pillow, 4:2:0 and optimised Huffman tables; whole files, on the same images. "
            "A dash: JPEG does not reach the quality, or the curves hardly overlap.",
        ),
    )


def anchor_findings(summaries: Sequence[VariantSummary], anchor: RdRecord) -> list[str]:
    """Say how the variants' lowest rates compare with JPEG."""
    changes = [
        change
        for summary in summaries
        if summary.is_complete
        for change in rate_percents(anchor.curve(), mean_curve(summary))[:_LOWEST]
    ]
    known = [change for change in changes if change is not None]
    if not known:
        return []
    return [
        f"At their {_LOWEST} lowest rates the variants spend {min(known):+.1f} to "
        f"{max(known):+.1f} % bits against JPEG at equal PSNR."
    ]
