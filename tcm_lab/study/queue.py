"""The trial queue: a study's trials in its database, shared by workers that may be killed.

A trial's key is its codec and seed. A worker that wants to train it claims the key by a row that
the database keeps unique, so of all workers on all machines exactly one gets it. A claim needs no
release: it is free again once the trial that holds it has failed without a reason.
"""

from __future__ import annotations

import json
import threading
import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, Literal

from pydantic import ConfigDict, Field

from tcm_lab._utils import Frozen
from tcm_lab.metrics import Goal, Number
from tcm_lab.study.axes import Key
from tcm_lab.study.record import TrialRecord
from tcm_lab.study.storage import (
    HEARTBEAT_S,
    claims_table,
    close_storage,
    is_dead,
    open_storage,
    this_process,
)

if TYPE_CHECKING:
    from optuna.trial import FrozenTrial, Trial

_RECLAIM_S = 0.5  # looking for the dead costs as much as anything that a worker does
_UNSIGNED_S = 60  # a trial without an owner for so long was lost between two statements


def key_of(fingerprint: str, seed: int) -> str:
    """Return the key of one training."""
    return f"{fingerprint}-s{seed}"


class TrialAttributes(Frozen):
    """What a trial's user attributes hold."""

    model_config = ConfigDict(extra="ignore", use_attribute_docstrings=True)

    key: str | None = None
    """What is trained; a sampled trial has none until its codec is built."""
    seed: int = 0
    """Of the training."""
    baseline: bool = False
    """Whether it trains the base."""
    begun: bool = False
    """Whether an earlier trial has begun this training."""
    retries: int = 0
    """How often this training was lost with its worker."""
    rungs: dict[int, float] = Field(default_factory=dict)
    """Mean log Lagrangian cost by step, of evaluations on the way."""
    owner: str | None = None
    """The process that took it."""
    label: str = ""
    """What tables call the variant."""
    cost: dict[str, Number] = Field(default_factory=dict)
    """Metrics that are known before training."""
    discarded: str | None = None
    """Why it is not a training after all."""
    reason: str | None = None
    """Why the variant can't be trained."""
    record: dict[str, Any] | None = None
    """The finished training."""


class StudyTrial(TrialAttributes):
    """A trial of the database with its typed attributes."""

    number: int
    """Its place in the study."""
    state: Literal["WAITING", "RUNNING", "COMPLETE", "PRUNED", "FAIL"]
    """As Optuna names it."""

    @property
    def is_lost(self) -> bool:
        """Whether it ended without a result, so that its training is open again."""
        return self.state == "FAIL" and self.reason is None


_KEPT = {"key", "seed", "baseline", "begun", "retries", "rungs"}  # when it is queued again


class TrialQueue:
    """The trials of one study; leave its ``with`` block to close the database.

    Attributes:
        study: Optuna's view of them.
    """

    def __init__(self, url: str, name: str, directions: Sequence[Goal] | None = None) -> None:
        """Open a study; given the directions of its objectives, make it if it does not exist."""
        import optuna

        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self._reclaimed = -_RECLAIM_S
        self._finished: dict[int, StudyTrial] = {}
        self._records: dict[int, TrialRecord] = {}
        self._claims = claims_table()
        self.storage = open_storage(url)
        if directions is None:
            self.study = optuna.load_study(study_name=name, storage=self.storage)
        else:
            self.study = optuna.create_study(
                study_name=name,
                storage=self.storage,
                directions=list(directions),
                load_if_exists=True,
            )

    def __enter__(self) -> TrialQueue:
        return self

    def __exit__(self, *_: object) -> None:
        close_storage(self.storage)

    # -- reading ----------------------------------------------------------------------------------

    def trials(self, *states: str) -> list[StudyTrial]:
        """Return the trials in these states (all, if none is named) that were not discarded."""
        from optuna.trial import TrialState

        wanted = tuple(TrialState[state] for state in states) or None
        frozen = self.study.get_trials(deepcopy=False, states=wanted)
        found = [self._typed(trial) for trial in frozen]
        return [trial for trial in found if trial.discarded is None]

    def _typed(self, frozen: FrozenTrial) -> StudyTrial:
        """Return a trial with typed attributes, parsed once where it no longer changes."""
        number = frozen.number
        if number in self._finished:
            return self._finished[number]
        own = {"number": number, "state": frozen.state.name}
        trial = StudyTrial.model_validate({**frozen.user_attrs, **own})
        if frozen.state.is_finished():
            self._finished[number] = trial
        return trial

    def keys(self, *states: str) -> dict[str, StudyTrial]:
        """Return the trials in these states by key; of several, the oldest."""
        found: dict[str, StudyTrial] = {}
        for trial in self.trials(*states):
            if trial.key is not None:
                found.setdefault(trial.key, trial)
        return found

    def records(self) -> list[TrialRecord]:
        """Return the record of every finished training, by number."""
        found = self.trials("COMPLETE", "PRUNED")
        return [self.record(trial) for trial in found if trial.record is not None]

    def record(self, trial: StudyTrial) -> TrialRecord:
        """Return the record of a finished training."""
        if trial.number not in self._records:
            text = json.dumps(trial.record)
            self._records[trial.number] = TrialRecord.model_validate_json(text)
        return self._records[trial.number]

    def failures(self) -> dict[str, str]:
        """Return the reason by label of each variant that couldn't be trained."""
        return {t.label: t.reason for t in self.trials("FAIL") if t.reason is not None}

    # -- queueing ---------------------------------------------------------------------------------

    def enqueue(self, params: Mapping[str, Key], attributes: TrialAttributes) -> None:
        """Put a training at the end of the queue; ``params`` as the database knows them."""
        self.study.enqueue_trial(dict(params), user_attrs=_plain(attributes))

    def note(self, trial: Trial, attributes: TrialAttributes) -> None:
        """Write those attributes of a trial that are set."""
        for name, value in _plain(attributes).items():
            trial.set_user_attr(name, value)

    def ask(self) -> Trial:
        """Take the next queued trial, or a new one where none is queued, and sign it."""
        with warnings.catch_warnings():
            # Heartbeats are our own here, since a trial may outlive the process that asked.
            warnings.filterwarnings("ignore", message="Heartbeat of storage", category=UserWarning)
            trial = self.study.ask()
        self.note(trial, TrialAttributes(owner=this_process()))
        return trial

    def attributes(self, trial: Trial) -> TrialAttributes:
        """Return what a trial's attributes hold now."""
        return TrialAttributes.model_validate(trial.user_attrs)

    def claim(self, trial: Trial, key: str) -> bool:
        """Take hold of a training; False where another trial has it or has finished it."""
        from sqlalchemy import insert, select, update
        from sqlalchemy.exc import IntegrityError

        self.note(trial, TrialAttributes(key=key))
        claims, mine = self._claims, {"number": trial.number}
        here = (claims.c.study_id == self._study_id) & (claims.c.key == key)
        try:
            with self.storage.engine.begin() as connection:
                values = {"study_id": self._study_id, "key": key, **mine}
                connection.execute(insert(claims).values(values))
            return True
        except IntegrityError:  # claimed before; by a trial that was lost?
            with self.storage.engine.begin() as connection:
                number = connection.execute(select(claims.c.number).where(here)).scalar()
        if number is not None:
            holder = self._typed(self._frozen(number))
            if holder.key == key and not holder.is_lost:
                return False
        lost = here & (claims.c.number == number)
        with self.storage.engine.begin() as connection:
            return connection.execute(update(claims).where(lost).values(mine)).rowcount == 1

    def discard(self, trial: Trial, why: str, *, over: Mapping[str, float] | None = None) -> None:
        """Give up a trial that is not a training; ``over`` marks it as infeasible."""
        self.note(trial, TrialAttributes(discarded=why))
        for name, excess in (over or {}).items():
            trial.set_constraint(name, excess)
        self._tell(trial.number, state="PRUNED" if over else "FAIL")

    def requeue(self, trial: Trial) -> None:
        """Put an interrupted training back into the queue."""
        self._replace(self._frozen(trial.number), TrialAttributes(begun=True))

    def _replace(self, frozen: FrozenTrial, changes: TrialAttributes) -> None:
        """Queue a trial's training anew and end the trial, in this order.

        So its training is open at any time. If two workers do it, one finds it claimed.
        """
        from sqlalchemy import delete

        claims = self._claims
        mine = (claims.c.study_id == self._study_id) & (claims.c.number == frozen.number)
        with self.storage.engine.begin() as connection:  # so that its successor can be claimed
            connection.execute(delete(claims).where(mine))
        self._again(frozen, changes)
        self._tell(frozen.number, state="FAIL")

    def reorder(self) -> None:
        """Move the baseline and whatever was begun to the head of the queue, if no one is at work.

        A requeued training is last in the queue; but the others are compared with the baseline,
        and a training that was begun should be finished.
        """
        waiting = self.trials("WAITING")
        ordered = sorted(
            waiting, key=lambda t: (not (t.baseline and t.seed == 0), not t.begun, t.number)
        )
        if ordered == waiting or self.trials("RUNNING"):
            return
        from optuna.trial import TrialState

        for trial in ordered:
            self._again(self._frozen(trial.number), TrialAttributes())
        for trial in waiting:
            trial_id = self._frozen(trial.number)._trial_id
            self.storage.set_trial_user_attr(trial_id, "discarded", "moved in the queue")
            self.storage.set_trial_state_values(trial_id, TrialState.FAIL)

    # -- ending -----------------------------------------------------------------------------------

    def fail(self, trial: Trial, reason: str) -> None:
        """Note that a variant can't be trained, and why."""
        self.note(trial, TrialAttributes(reason=reason))
        self._tell(trial.number, state="FAIL")

    def finish(self, trial: Trial, record: TrialRecord, values: Sequence[Number] | None) -> None:
        """Store a finished training; without values it was stopped at a rung."""
        self.note(trial, TrialAttributes(record=record.model_dump(mode="json")))
        for name, excess in record.violations.items():
            trial.set_constraint(name, excess)
        self._tell(trial.number, state="PRUNED" if values is None else "COMPLETE", values=values)

    @contextmanager
    def heartbeat(self, trial: Trial) -> Iterator[None]:
        """Give signs of life for a trial while the block runs."""
        trial_id = self._frozen(trial.number)._trial_id
        ended = threading.Event()

        def beat() -> None:
            while True:
                with suppress(Exception):  # whatever ails the database, the next statement raises
                    self.storage.record_heartbeat(trial_id)
                if ended.wait(HEARTBEAT_S):
                    return

        thread = threading.Thread(target=beat, name="heartbeat", daemon=True)
        thread.start()
        try:
            yield
        finally:
            ended.set()
            thread.join()

    def reclaim(self) -> None:
        """Put trainings whose workers are gone back into the queue; at most every half second.

        One that was lost before is not queued again: it may be what kills.
        """
        if time.monotonic() - self._reclaimed < _RECLAIM_S:
            return
        self._reclaimed = time.monotonic()
        silent = self.storage._get_stale_trial_ids(self._study_id)
        for trial in self.trials("RUNNING"):
            frozen = self._frozen(trial.number)
            if trial.owner is None:
                assert frozen.datetime_start is not None
                gone = datetime.now() - frozen.datetime_start > timedelta(seconds=_UNSIGNED_S)
            else:
                gone = frozen._trial_id in silent or is_dead(trial.owner)
            if gone and trial.retries:
                self._tell(trial.number, state="FAIL")
            elif gone:
                self._replace(frozen, TrialAttributes(retries=1, begun=True))

    def _again(self, frozen: FrozenTrial, changes: TrialAttributes) -> None:
        attributes = TrialAttributes.model_validate(frozen.user_attrs)
        if attributes.key is None:
            return
        params = {**frozen.system_attrs.get("fixed_params", {}), **frozen.params}
        kept = {name: getattr(attributes, name) for name in _KEPT & attributes.model_fields_set}
        set_now = {name: getattr(changes, name) for name in changes.model_fields_set}
        self.enqueue(params, TrialAttributes(**{**kept, **set_now}))

    def _frozen(self, number: int) -> FrozenTrial:
        return self.study.get_trials(deepcopy=False)[number]

    @property
    def _study_id(self) -> int:
        return self.study._study_id

    def _tell(self, number: int, *, state: str, values: Sequence[Number] | None = None) -> None:
        """End a trial, unless it was ended before."""
        import optuna

        try:
            self.study.tell(number, values, state=optuna.trial.TrialState[state])
        except (ValueError, optuna.exceptions.UpdateFinishedTrialError):
            if not self._frozen(number).state.is_finished():
                raise


def _plain(attributes: TrialAttributes) -> dict[str, Any]:
    """Return those attributes that are set, as JSON holds them."""
    return attributes.model_dump(mode="json", exclude_unset=True)
