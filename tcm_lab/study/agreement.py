"""Agreement of an estimator with training: rankings, regret, bias and CPU time."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from statistics import fmean

import numpy as np

from tcm_lab._utils import Frozen
from tcm_lab.reporting import Column, Row, Table, Value
from tcm_lab.stats import Draw, Interval, bootstrap, within
from tcm_lab.study.compare import RankAgreement, rank_agreement
from tcm_lab.study.estimators import PairedLoss
from tcm_lab.study.record import TrialRecord, baseline_of

Percents = dict[str, list[float]]
"""Percent of cost above the baseline for each seed, by the variant's fingerprint."""


class Agreement(Frozen):
    """How an estimator's costs compare with trained costs, over the variants that have both.

    Attributes:
        rank: agreement of the two rankings.
        regret: trained cost of the variant that the estimator ranks first, in percent above the
            best variant; the mean over ties for first place, with its interval over variants.
        bias: mean of estimated minus trained cost relative to the baseline, in percent, with its
            interval over variants; below 0 the estimator favours variants, above 0 the baseline.
        error_percent: root mean square of estimated minus trained cost.
        cpu_s: CPU seconds per variant for the estimator.
        trained_cpu_s: CPU seconds per variant for training.
    """

    rank: RankAgreement
    regret: Interval
    bias: Interval
    error_percent: float
    cpu_s: float
    trained_cpu_s: float


def percents(records: Sequence[TrialRecord]) -> Percents:
    """Return each complete variant's cost in percent above the baseline with the same seed.

    Raises:
        LabError: the baseline is missing, or records are not comparable.
    """
    complete = [record for record in records if record.state == "complete"]
    baseline_of(complete)  # refuses records without one
    baseline = {record.seed: record for record in complete if record.is_baseline}
    costs: Percents = {}
    for record in sorted(complete, key=lambda record: record.seed):
        if record.seed in baseline:
            percent = record.lagrangian_percent(baseline[record.seed])
            costs.setdefault(record.fingerprint, []).append(percent)
    return costs


def agreement(
    estimated: Sequence[TrialRecord], trained: Sequence[TrialRecord], *, samples: int = 1000
) -> Agreement:
    """Compare an estimator with training.

    Args:
        estimated: records of the estimator.
        trained: records of trainings of the same variants.
        samples: number of resamples.

    Raises:
        LabError: the two share fewer than three variants.
    """
    rank = rank_agreement(estimated, trained, samples=samples)
    ours, theirs = ({n: fmean(v) for n, v in percents(r).items()} for r in (estimated, trained))
    base = baseline_of(trained).fingerprint
    shared = [name for name in theirs if name in ours]
    guess, truth = (np.array([side[name] for name in shared]) for side in (ours, theirs))
    others = np.array([name != base for name in shared])
    gaps = (guess - truth)[others]

    def regret(draw: Draw) -> float:
        drawn = draw["variants"]
        first = np.unique(drawn[guess[drawn] == guess[drawn].min()])
        return float(truth[first].mean() - truth[drawn].min())

    def bias(draw: Draw) -> float:
        return float(gaps[draw["variants"]].mean())

    ahead = bootstrap(regret, {"variants": len(shared)}, samples=samples)
    return Agreement(
        rank=rank,
        regret=within(ahead, 0, math.inf),
        bias=bootstrap(bias, {"variants": len(gaps)}, samples=samples),
        error_percent=float(np.sqrt((gaps**2).mean())),
        cpu_s=_cpu_s(estimated),
        trained_cpu_s=_cpu_s(trained),
    )


def _cpu_s(records: Sequence[TrialRecord]) -> float:
    """Return CPU seconds per variant, including work that variants share."""
    return sum(record.cpu_s for record in records) / len({r.fingerprint for r in records})


def beginnings(records: Sequence[TrialRecord], steps: int) -> list[TrialRecord]:
    """Return the records that ``paired-loss`` would have after the first steps of trainings.

    At a constant learning rate, a shorter training has the same first steps, except that it cools
    down over its own last ones.

    Args:
        records: trainings with their loss curves.
        steps: number of steps after which to cut off the curves.
    """
    shortened = []
    for record in records:
        if record.training is None:
            continue
        curve = record.training.curve
        count = sum(at <= steps for at in curve.steps)
        early = curve.model_copy(
            update={"steps": curve.steps[:count], "log_loss": curve.log_loss[:count]}
        )
        training = record.training.model_copy(update={"curve": early, "steps": steps})
        update = {"estimator": PairedLoss(), "steps": steps, "training": training}
        shortened.append(record.model_copy(update=update))
    return shortened


def agreement_table(
    trained: Sequence[TrialRecord], estimated: Mapping[str, Sequence[TrialRecord]]
) -> Table:
    """Return a table with one row per estimator.

    Args:
        trained: records of a study that trained the variants.
        estimated: records of the same variants for each estimator, by its name in the table.

    Raises:
        LabError: an estimator shares too few variants with the trained ones.
    """
    seeds = {"group": "τ between seeds", "format": "+.2f"}
    columns = (
        Column(key="estimator", header="estimator"),
        Column(key="steps", header="steps", format=",d"),
        Column(key="seeds", header="seeds", format="d"),
        Column(key="variants", header="variants", format="d"),
        Column(key="tau", header="τ with training", format="+.2f", best="high"),
        Column(key="own", header="estimator", **seeds),
        Column(key="truth", header="training", **seeds),
        Column(key="regret", header="regret", unit="%", format=".2f", best="low"),
        Column(key="bias", header="bias", unit="%", format="+.2f"),
        Column(key="error", header="error", unit="%", format=".2f"),
        Column(key="cpu_s", header="CPU per variant", unit="s", format=",.0f"),
        Column(key="share", header="of training", unit="%", format=".3g"),
    )
    rows = [_row(name, records, trained) for name, records in estimated.items()]
    recipe = trained[0].recipe
    return Table(
        title=f"Estimators against {recipe.steps:,} steps of training",
        columns=columns,
        rows=tuple(rows),
        footer=(
            f"Truth: {recipe.steps:,} steps of {recipe.name}; seeds: "
            f"{max(record.seed for record in trained) + 1}. τ is Kendall's τ between the "
            "costs relative to the baseline, with its 95 % interval over variants and seeds; τ "
            "between seeds is the agreement of two seeds on one side, the most that noise lets a "
            "ranking reach.",
            "Regret: trained cost of the variant that is ranked first, above the best. Bias: mean "
            "of estimated minus trained cost, above 0 in favour of the baseline. Error: root mean "
            "square of the same. CPU seconds are those of a worker, including work that variants "
            "share.",
        ),
    )


def _row(name: str, estimated: Sequence[TrialRecord], trained: Sequence[TrialRecord]) -> Row:
    result = agreement(estimated, trained)
    values: dict[str, Value] = {
        "estimator": name,
        "steps": max(record.steps for record in estimated),
        "seeds": result.rank.seeds[0],
        "variants": result.rank.variants,
        "tau": result.rank.tau,
        "own": result.rank.ceilings[0],
        "truth": result.rank.ceilings[1],
        "regret": result.regret,
        "bias": result.bias,
        "error": result.error_percent,
        "cpu_s": result.cpu_s,
        "share": 100 * result.cpu_s / result.trained_cpu_s if result.trained_cpu_s else None,
    }
    return Row(values=values)
