"""Which variants are worth another training from another seed."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tcm_lab.reporting import pareto_front
from tcm_lab.study.cost import objective_losses
from tcm_lab.study.ledger import Ledger, key_of
from tcm_lab.study.record import TrialRecord

if TYPE_CHECKING:
    from tcm_lab.study.plan import Plan


def due_seeds(ledger: Ledger, plan: Plan) -> list[tuple[TrialRecord, int]]:
    """Return the next seed of every variant that should have one more training.

    In an ablation that is every variant, since each is compared. In a search it is the baseline
    and whatever stands on the front by the means so far; the front is looked at again after each
    round, so a variant that luck put there gets no further ones.
    """
    if plan.seeds == 1:
        return []
    trainings: dict[str, list[TrialRecord]] = {}
    for record in ledger.records():
        if record.state == "complete":
            trainings.setdefault(record.fingerprint, []).append(record)
    taken = ledger.keys()
    promising = list(trainings) if plan.space.mode == "ablation" else _front(trainings, plan)
    due = []
    for fingerprint in promising:
        for seed in range(1, plan.seeds):
            if key_of(fingerprint, seed) not in taken:
                due.append((trainings[fingerprint][0], seed))
                break
    return due


def _front(trainings: dict[str, list[TrialRecord]], plan: Plan) -> list[str]:
    """Return the baseline and the fingerprints that no other dominates, by means over seeds."""
    baseline = next(records[0] for records in trainings.values() if records[0].is_baseline)
    rows = []
    for records in trainings.values():
        losses = objective_losses(records, baseline, plan.space)
        rows.append(losses if records[0].feasible else [float("nan")] * len(losses))
    marks = pareto_front(rows)
    return [
        fingerprint
        for (fingerprint, records), best in zip(trainings.items(), marks, strict=True)
        if best or records[0].is_baseline
    ]
