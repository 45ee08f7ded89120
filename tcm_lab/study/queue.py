"""The trial queue: a study's trials in its database, shared by workers that may be killed.

A trial's key identifies its codec and seed. To train it, a worker claims the key by inserting a row
that the database keeps unique, so of all workers on all machines exactly one gets it. A claim needs
no release: it is free again once the trial that holds it has failed without a reason, or is queued
again.
"""

from __future__ import annotations

import itertools
import threading
import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from datetime import datetime, timedelta
from typing import Any

import optuna
from optuna.exceptions import UpdateFinishedTrialError
from optuna.trial import FrozenTrial, Trial, TrialState
from pydantic import ValidationError
from sqlalchemy import delete, insert, select, update
from sqlalchemy.exc import IntegrityError

from tcm_lab._utils.interrupts import hold_interrupts
from tcm_lab.errors import LabError, validation_message
from tcm_lab.metrics import Goal, Number
from tcm_lab.study.axes import Key
from tcm_lab.study.record import TrialRecord
from tcm_lab.study.storage import (
    CLAIMS,
    HEARTBEAT_S,
    close_storage,
    is_dead,
    open_storage,
    storage_errors,
    this_process,
)
from tcm_lab.study.trial import StudyTrial, TrialAttributes

_RECLAIM_S = 0.5  # looking for dead workers costs as much as anything else in the loop
_COUNT = itertools.count()
_OPEN: set[str] = set()  # owners in this process whose queue is open
_UNSIGNED_S = 60  # a trial without an owner for this long was lost between two statements

# Attributes that a trial keeps when it is queued again.
_KEPT = {"key", "seed", "baseline", "finalist", "begun", "retries", "rungs"}


@contextmanager
def open_queue(
    url: str, name: str, directions: Sequence[Goal] | None = None
) -> Iterator[TrialQueue]:
    """Open a study's queue for a block, and turn database errors into one-line messages.

    Args:
        url: address of the database.
        name: name of the study.
        directions: directions of the objectives, to create the study if it does not exist.

    Raises:
        LabError: as ``storage_errors``.
    """
    with storage_errors(url):
        with hold_interrupts():
            queue = TrialQueue(url, name, directions)
        try:
            yield queue
        finally:
            _OPEN.discard(queue.owner)
            close_storage(queue.storage)


class TrialQueue:
    """The trials of one study.

    Attributes:
        study: Optuna's study with the trials.
        owner: signature of the trials taken from this queue.
    """

    def __init__(self, url: str, name: str, directions: Sequence[Goal] | None = None) -> None:
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self.owner = f"{this_process()}|{next(_COUNT)}"
        _OPEN.add(self.owner)
        self._reclaimed = -_RECLAIM_S
        self._finished: dict[int, StudyTrial] = {}
        self.storage = open_storage(url)
        if directions is None:
            self.study = optuna.load_study(study_name=name, storage=self.storage)
        else:
            self.study = optuna.create_study(
                study_name=name, storage=self.storage, directions=[*directions], load_if_exists=True
            )

    # -- reading ----------------------------------------------------------------------------------

    @hold_interrupts()
    def trials(self, *states: str) -> list[StudyTrial]:
        """Return the trials in these states (by default, all) that were not discarded."""
        wanted = tuple(TrialState[state] for state in states) or None
        frozen = self.study.get_trials(deepcopy=False, states=wanted)
        return [trial for each in frozen if (trial := self._typed(each)).discarded is None]

    def _typed(self, frozen: FrozenTrial) -> StudyTrial:
        """Return a trial with typed attributes, parsed only once if it has finished."""
        number = frozen.number
        if number in self._finished:
            return self._finished[number]
        own = {"number": number, "state": frozen.state.name}
        try:
            trial = StudyTrial.model_validate({**frozen.user_attrs, **own})
        except ValidationError as error:
            raise LabError(
                f"trial {number}: cannot be read: {validation_message(error, StudyTrial)}. Use the "
                "version of tcm-lab that began the study."
            ) from None
        if frozen.state.is_finished():
            self._finished[number] = trial
        return trial

    def keys(self, *states: str) -> set[str]:
        """Return the keys of the trials in these states."""
        return {trial.key for trial in self.trials(*states) if trial.key is not None}

    def records(self) -> list[TrialRecord]:
        """Return the record of every finished training, in order of number."""
        return [t.record for t in self.trials("COMPLETE", "PRUNED") if t.record is not None]

    def failures(self) -> dict[str, str]:
        """Return the label of each variant that couldn't be trained, with the reason."""
        trials = self.trials()
        known = {trial.key for trial in trials if trial.state != "FAIL"}  # tried again since
        failed = (trial for trial in trials if trial.state == "FAIL" and trial.key not in known)
        return {trial.label: trial.reason for trial in failed if trial.reason is not None}

    # -- queueing ---------------------------------------------------------------------------------

    @hold_interrupts()
    def enqueue(self, params: Mapping[str, Key], **attributes: Any) -> None:
        """Add a training to the end of the queue, with ``params`` in the database's form."""
        self.study.enqueue_trial(dict(params), user_attrs=_plain(attributes))

    @hold_interrupts()
    def name_objectives(self, names: Sequence[str]) -> None:
        """Set the names of the objectives for Optuna's dashboard."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            self.study.set_metric_names([*names])

    @hold_interrupts()
    def note(self, trial: Trial, **attributes: Any) -> None:
        """Write attributes of a trial, unless another worker has declared it lost and ended it."""
        with suppress(UpdateFinishedTrialError):
            for name, value in _plain(attributes).items():
                trial.set_user_attr(name, value)

    @hold_interrupts()
    def ask(self) -> Trial:
        """Take the next queued trial, or a new one if none is queued, and sign it."""
        with warnings.catch_warnings():
            # We send heartbeats ourselves, since a trial may outlive the process that took it.
            warnings.filterwarnings("ignore", message="Heartbeat of storage", category=UserWarning)
            trial = self.study.ask()
        self.note(trial, owner=self.owner)
        return trial

    def attributes(self, trial: Trial) -> TrialAttributes:
        """Return a trial's current attributes."""
        return TrialAttributes.model_validate(trial.user_attrs)

    @hold_interrupts()
    def claim(self, trial: Trial, key: str) -> bool:
        """Claim a training for a trial; return False if another trial holds or has finished it."""
        self.note(trial, key=key)
        study = self.study._study_id
        row = {"study_id": study, "key": key, "number": trial.number}
        with suppress(IntegrityError), self.storage.engine.begin() as connection:
            connection.execute(insert(CLAIMS).values(row))
            return True
        here = (CLAIMS.c.study_id == study) & (CLAIMS.c.key == key)
        with self.storage.engine.begin() as connection:
            number = connection.execute(select(CLAIMS.c.number).where(here)).scalar()
        if number is not None:  # already claimed, perhaps by a trial that was lost
            holder = self._typed(self._frozen(number))
            if holder.key == key and not holder.is_lost:
                return False
        lost = update(CLAIMS).where(here & (CLAIMS.c.number == number))
        with self.storage.engine.begin() as connection:
            return connection.execute(lost.values(number=trial.number)).rowcount == 1

    @hold_interrupts()
    def requeue(self, trial: Trial) -> None:
        """Return an interrupted training to the queue."""
        frozen = self._frozen(trial.number)
        if frozen.state.is_finished():
            self._succeed(frozen)
        else:
            self._replace(frozen, begun=True)

    def _succeed(self, frozen: FrozenTrial) -> None:
        """Queue the training of a trial that others declared lost, unless they have queued it."""
        key, discarded = map(frozen.user_attrs.get, ("key", "discarded"))
        if discarded is None and key not in self.keys("WAITING", "RUNNING", "COMPLETE", "PRUNED"):
            self.try_again(frozen.number, begun=True)

    def _replace(self, frozen: FrozenTrial, **changes: Any) -> None:
        """Queue a trial's training again, then end the trial.

        In this order, the training is open at any time. If two workers take it, one finds it
        claimed.
        """
        self.try_again(frozen.number, **changes)
        self._tell(frozen.number, "FAIL")

    @hold_interrupts()
    def try_again(self, number: int, **changes: Any) -> None:
        """Queue a trial's training again, with changed attributes, if it has a key.

        The trial's claim is released for its successor.
        """
        here = (CLAIMS.c.study_id == self.study._study_id) & (CLAIMS.c.number == number)
        with self.storage.engine.begin() as connection:
            connection.execute(delete(CLAIMS).where(here))
        frozen = self._frozen(number)
        attributes = TrialAttributes.model_validate(frozen.user_attrs)
        if attributes.key is not None:
            params = {**frozen.system_attrs.get("fixed_params", {}), **frozen.params}
            self.enqueue(params, **attributes.model_dump(include=_KEPT) | changes)

    @hold_interrupts()
    def reorder(self) -> None:
        """Move the baseline and begun trainings to the head of the queue, if no worker is busy.

        A requeued training is last in the queue, but all others are compared with the baseline, and
        a training that was begun should be finished.
        """
        waiting = self.trials("WAITING")
        ordered = sorted(
            waiting, key=lambda t: (not (t.baseline and t.seed == 0), not t.begun, t.number)
        )
        if ordered == waiting or self.trials("RUNNING"):
            return
        for trial in ordered:
            self.try_again(trial.number)
        for trial in waiting:
            trial_id = self._frozen(trial.number)._trial_id
            with suppress(UpdateFinishedTrialError):  # another machine has moved it
                self.storage.set_trial_user_attr(trial_id, "discarded", "moved in the queue")
                self.storage.set_trial_state_values(trial_id, TrialState.FAIL)

    @hold_interrupts()
    def reclaim(self) -> None:
        """Requeue the trainings of workers that are gone; at most once every half second.

        A training that was lost before is not queued again: it may be what kills the workers.
        """
        if time.monotonic() - self._reclaimed < _RECLAIM_S:
            return
        self._reclaimed = time.monotonic()
        silent = self.storage._get_stale_trial_ids(self.study._study_id)
        for trial in self.trials("RUNNING"):
            frozen = self._frozen(trial.number)
            if trial.owner is None:
                assert frozen.datetime_start is not None
                gone = datetime.now() - frozen.datetime_start > timedelta(seconds=_UNSIGNED_S)
            else:
                gone = frozen._trial_id in silent or _has_left(trial.owner)
            if gone and trial.retries:
                self._tell(trial.number, "FAIL")
            elif gone:
                self._replace(frozen, retries=1, begun=True)

    @contextmanager
    def heartbeat(self, trial: Trial) -> Iterator[None]:
        """Send heartbeats for a trial while the block runs."""
        trial_id = self._frozen(trial.number)._trial_id
        ended = threading.Event()

        def beat() -> None:
            while True:
                with suppress(Exception):  # the next statement raises any error of the database
                    self.storage.record_heartbeat(trial_id)
                if ended.wait(HEARTBEAT_S):
                    return

        thread = threading.Thread(target=beat, name="heartbeat", daemon=True)
        try:
            thread.start()
            yield
        finally:
            ended.set()
            if thread.is_alive():
                thread.join()

    # -- ending -----------------------------------------------------------------------------------

    @hold_interrupts()
    def discard(self, trial: Trial, why: str, over: Mapping[str, float] | None = None) -> None:
        """End a trial that does not become a training; ``over`` marks it as infeasible."""
        self._end(trial, "PRUNED" if over else "FAIL", over, discarded=why)

    @hold_interrupts()
    def fail(self, trial: Trial, reason: str, *, out_of_memory: bool = False) -> None:
        """End a trial whose variant can't be trained, and store the reason."""
        self._end(trial, "FAIL", reason=reason, out_of_memory=out_of_memory)

    @hold_interrupts()
    def finish(self, trial: Trial, record: TrialRecord, values: Sequence[Number] | None) -> bool:
        """Store a finished training; without values, it was stopped at a rung.

        Returns False if another worker declared the trial lost: its successor finds the record.
        """
        state = "PRUNED" if values is None else "COMPLETE"
        self._end(trial, state, record.violations, values, record=record)
        ended = self._frozen(trial.number)
        if ended.state.name == state:
            return True
        self._succeed(ended)
        return False

    def _end(
        self,
        trial: Trial,
        state: str,
        over: Mapping[str, float] | None = None,
        values: Sequence[Number] | None = None,
        **attributes: Any,
    ) -> None:
        self.note(trial, **attributes)
        with suppress(UpdateFinishedTrialError):
            for name, excess in (over or {}).items():
                trial.set_constraint(name, excess)
        self._tell(trial.number, state, values)

    def _tell(self, number: int, state: str, values: Sequence[Number] | None = None) -> None:
        """End a trial, unless it has ended already."""
        try:
            self.study.tell(number, values, state=TrialState[state])
        except (ValueError, UpdateFinishedTrialError):
            if not self._frozen(number).state.is_finished():
                raise

    def _frozen(self, number: int) -> FrozenTrial:
        return self.study.get_trials(deepcopy=False)[number]


def _has_left(owner: str) -> bool:
    """Return whether the process that signed a trial is dead, or is this one with the queue closed.

    A notebook's process outlives a run that was ended by Ctrl-C, at whatever point.
    """
    if owner.rpartition("|")[0] == this_process():
        return owner not in _OPEN
    return is_dead(owner)


def _plain(attributes: Mapping[str, Any]) -> dict[str, Any]:
    """Return attributes in their JSON form."""
    return TrialAttributes(**attributes).model_dump(mode="json", include=set(attributes))
