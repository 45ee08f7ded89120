"""A study of estimators: the same variants by each estimator and by training, compared."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated

from pydantic import Field

from tcm_lab._utils import Frozen
from tcm_lab._utils.yaml import read_yaml
from tcm_lab.errors import ConfigError
from tcm_lab.reporting import Table
from tcm_lab.study.agreement import agreement_table
from tcm_lab.study.estimators import AnyEstimator, Estimator, Train
from tcm_lab.study.folder import file_names
from tcm_lab.study.prepare import prepare
from tcm_lab.study.record import TrialRecord
from tcm_lab.study.report import write_tables
from tcm_lab.study.run import Display, run_study
from tcm_lab.study.space import Space, check_estimator, find_in, load_space

TRUTH = "truth"


class Plan(Frozen):
    """The plan of a study of estimators, read from a YAML file.

    Attributes:
        space: YAML file of the variants; training them with its budget is the reference for the
            estimators. With ``mode: ablation`` every variant is trained with every seed.
        estimators: estimators by name or with options; the same one may be listed several times
            with different options, such as steps.
        seeds: number of seeds of each estimator.
    """

    space: str
    estimators: Annotated[tuple[AnyEstimator, ...], Field(min_length=1)]
    seeds: Annotated[int, Field(gt=0, le=1000)] = 1

    def studies(self, folder: Path | None = None) -> dict[str, Space]:
        """Return the studies by name, the cheap ones of the estimators first.

        Args:
            folder: another place to look for the space.

        Raises:
            ConfigError: the space's estimator is not ``train``, or an estimator does not suit it.
        """
        truth = load_space(find_in(folder, self.space))
        if truth.estimator != Train():
            raise ConfigError(
                f"{self.space}: estimator = {truth.estimator.type}; a plan's space is trained, so "
                "leave its estimator out"
            )
        cheaper = {"seeds": self.seeds, "resolution": None, "rungs": ()}
        budget = truth.budget.model_copy(update=cheaper)
        spaces = {}
        for estimator in self.estimators:
            space = truth.model_copy(update={"estimator": estimator, "budget": budget})
            check_estimator(space)
            spaces[name_of(estimator)] = space
        return {**spaces, TRUTH: truth}


def load_plan(path: Path) -> Plan:
    """Read a plan.

    Raises:
        ConfigError: the message names the file, the field and the fix.
    """
    return Plan.parse(read_yaml(path), f"{path}: ")


def name_of(estimator: Estimator) -> str:
    """Return an estimator's name in tables: its type and the options that were given."""
    options = estimator.model_dump(mode="json", exclude={"type"}, exclude_defaults=True)
    return ", ".join([estimator.type, *(f"{name} {value}" for name, value in options.items())])


def run_plan(
    plan: Plan,
    out: Path,
    *,
    folder: Path | None = None,
    data: Path | None = None,
    eval_data: Path | None = None,
    cache: Path | None = None,
    workers: int | None = None,
    displays: Mapping[str, Display] | None = None,
) -> Table:
    """Run each study of a plan in its own folder, and write how well they agree.

    Rerun to resume. Trainings that several studies share are done once.

    Args:
        plan: the plan to run.
        out: folder for all studies.
        folder: another place to look for the plan's space.
        data: folder of training images; ``None`` for the embedded ones.
        eval_data: folder of evaluation images; ``None`` for the embedded ones.
        cache: folder of finished trainings shared between studies; by default, ``records`` in
            ``out``.
        workers: number of processes for each study.
        displays: progress display of each study, by its name.

    Raises:
        LabError: as ``run_study``; or too few variants were trained to compare.
        KeyboardInterrupt: Ctrl-C; rerun to resume.
    """
    records: dict[str, Sequence[TrialRecord]] = {}
    studies = plan.studies(folder)
    for (name, space), place in zip(studies.items(), file_names(studies), strict=True):
        context = prepare(
            space, out=out / place, data=data, eval_data=eval_data, cache=cache or out / "records"
        )
        records[name] = run_study(context, workers, (displays or {}).get(name)).searched
    table = agreement_table(records.pop(TRUTH), records)
    write_tables({"agreement": table}, out)
    return table
