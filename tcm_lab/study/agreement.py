"""How well an estimator agrees with training: rankings, regret, bias and what each costs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import fmean

import numpy as np

from tcm_lab._utils import Frozen
from tcm_lab.reporting import Column, Row, Table, Value
from tcm_lab.stats import Draw, Interval, bootstrap
from tcm_lab.study.compare import RankAgreement, rank_agreement
from tcm_lab.study.estimators import PairedLoss
from tcm_lab.study.record import TrialRecord, baseline_of

Percents = dict[str, list[float]]
"""By variant's fingerprint, the cost above the baseline's in percent, per seed."""


class Agreement(Frozen):
    """How an estimator's costs stand to those of training, over the variants that both have.

    Attributes:
        rank: how alike they rank.
        regret: by how many percent the variant that the estimator ranks first costs more, when
            trained, than the best of all; the mean over those that tie for the first place, and
            over resampled variants.
        bias: mean of estimated minus trained cost against the baseline, in percent: below 0 the
            estimator favours variants, above 0 the baseline; over resampled variants.
        error_percent: root mean square of estimated minus trained cost.
        cpu_s: seconds of CPU time per variant that the estimator took.
        trained_cpu_s: the same of training.
    """

    rank: RankAgreement
    regret: Interval
    bias: Interval
    error_percent: float
    cpu_s: float
    trained_cpu_s: float


def percents(records: Sequence[TrialRecord]) -> Percents:
    """Return each complete variant's cost above the baseline's of the same seed.

    Raises:
        LabError: the baseline is not among them, or records are not comparable.
    """
    complete = [record for record in records if record.state == "complete"]
    baseline_of(complete)  # refuses records without one
    baseline = {record.seed: record for record in complete if record.is_baseline}
    found: Percents = {}
    for record in sorted(complete, key=lambda record: record.seed):
        if record.seed in baseline:
            percent = record.lagrangian_percent(baseline[record.seed])
            found.setdefault(record.fingerprint, []).append(percent)
    return found


def agreement(
    estimated: Sequence[TrialRecord], trained: Sequence[TrialRecord], *, samples: int = 1000
) -> Agreement:
    """Compare an estimator with training.

    Args:
        estimated: its records.
        trained: those of trainings of the same variants.
        samples: number of resamples.

    Raises:
        LabError: they share fewer than three variants.
    """
    rank = rank_agreement(estimated, trained, samples=samples)
    ours, theirs = ({n: fmean(v) for n, v in percents(r).items()} for r in (estimated, trained))
    base = baseline_of(trained).fingerprint
    shared = [name for name in theirs if name in ours]
    guess, truth = (np.array([side[name] for name in shared]) for side in (ours, theirs))
    others = np.array([name != base for name in shared])
    gaps = (guess - truth)[others]

    def regret(draw: Draw) -> float:
        some = draw["variants"]
        first = np.unique(some[guess[some] == guess[some].min()])
        return float(truth[first].mean() - truth[some].min())

    def bias(draw: Draw) -> float:
        return float(gaps[draw["variants"]].mean())

    return Agreement(
        rank=rank,
        regret=bootstrap(regret, {"variants": len(shared)}, samples=samples),
        bias=bootstrap(bias, {"variants": len(gaps)}, samples=samples),
        error_percent=float(np.sqrt((gaps**2).mean())),
        cpu_s=_cpu_s(estimated),
        trained_cpu_s=_cpu_s(trained),
    )


def _cpu_s(records: Sequence[TrialRecord]) -> float:
    """Return CPU seconds per variant, whatever all of them share included."""
    return sum(record.cpu_s for record in records) / len({r.fingerprint for r in records})


def beginnings(records: Sequence[TrialRecord], steps: int) -> list[TrialRecord]:
    """Return what ``paired-loss`` would read of the first steps of trainings.

    At a constant learning rate these are the first steps of a shorter training, too, which would
    cool down over its own last ones.

    Args:
        records: of trainings, with their loss curves.
        steps: after which the curves are cut off.
    """
    found = []
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
        found.append(record.model_copy(update=update))
    return found


def agreement_table(
    trained: Sequence[TrialRecord], estimated: Mapping[str, Sequence[TrialRecord]]
) -> Table:
    """Return a row per estimator.

    Args:
        trained: the records of a study that trained the variants.
        estimated: those of the same variants by estimators, by their names in the table.

    Raises:
        LabError: one of them shares too few variants with the trained ones.
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
            f"{max(record.seed for record in trained) + 1}. τ is Kendall's between the "
            "costs against the baseline, its 95 % interval over variants and seeds; τ between "
            "seeds is the agreement of two seeds of one side, the most that noise lets a ranking "
            "reach.",
            "Regret: what the variant that is ranked first costs more, trained, than the best. "
            "Bias: mean of estimated minus trained, above 0 in favour of the baseline. Error: its "
            "root mean square. CPU seconds are a worker's, whatever variants share included.",
        ),
    )


def _row(name: str, estimated: Sequence[TrialRecord], trained: Sequence[TrialRecord]) -> Row:
    found = agreement(estimated, trained)
    values: dict[str, Value] = {
        "estimator": name,
        "steps": max(record.steps for record in estimated),
        "seeds": found.rank.seeds[0],
        "variants": found.rank.variants,
        "tau": found.rank.tau,
        "own": found.rank.ceilings[0],
        "truth": found.rank.ceilings[1],
        "regret": found.regret,
        "bias": found.bias,
        "error": found.error_percent,
        "cpu_s": found.cpu_s,
        "share": 100 * found.cpu_s / found.trained_cpu_s if found.trained_cpu_s else None,
    }
    return Row(values=values)
