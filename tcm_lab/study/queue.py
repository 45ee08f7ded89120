"""The trial queue: a study's trials in its database, shared by workers that may be killed.

A trial's key is its codec and seed. A worker that wants to train it claims the key by a row that
the database keeps unique, so of all workers on all machines exactly one gets it. A claim needs no
release: it is free again once the trial that holds it has failed without a reason, or is queued
once more.
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
from sqlalchemy import delete, insert, select, update
from sqlalchemy.exc import IntegrityError

from tcm_lab._utils.interrupts import hold_interrupts
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

_RECLAIM_S = 0.5  # looking for the dead costs as much as anything that a worker does
_COUNT = itertools.count()
_OPEN: set[str] = set()  # owners in this process whose queue is open
_UNSIGNED_S = 60  # a trial without an owner for so long was lost between two statements

# What a trial keeps when it is queued again.
_KEPT = {"key", "seed", "baseline", "finalist", "begun", "retries", "rungs"}


@contextmanager
def open_queue(
    url: str, name: str, directions: Sequence[Goal] | None = None
) -> Iterator[TrialQueue]:
    """Open a study's queue for a block, in which whatever the database raises is one message.

    Args:
        url: of the database.
        name: of the study.
        directions: of its objectives, to make it if it does not exist.

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
        study: Optuna's view of them.
        owner: what signs the trials that are taken from here.
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
        """Return the trials in these states (all, if none is named) that were not discarded."""
        wanted = tuple(TrialState[state] for state in states) or None
        frozen = self.study.get_trials(deepcopy=False, states=wanted)
        return [trial for each in frozen if (trial := self._typed(each)).discarded is None]

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

    def keys(self, *states: str) -> set[str]:
        """Return the keys of the trials in these states."""
        return {trial.key for trial in self.trials(*states) if trial.key is not None}

    def records(self) -> list[TrialRecord]:
        """Return the record of every finished training, by number."""
        return [t.record for t in self.trials("COMPLETE", "PRUNED") if t.record is not None]

    def failures(self) -> dict[str, str]:
        """Return the reason by label of each variant that couldn't be trained."""
        trials = self.trials()
        known = {trial.key for trial in trials if trial.state != "FAIL"}  # tried again since
        failed = (trial for trial in trials if trial.state == "FAIL" and trial.key not in known)
        return {trial.label: trial.reason for trial in failed if trial.reason is not None}

    # -- queueing ---------------------------------------------------------------------------------

    @hold_interrupts()
    def enqueue(self, params: Mapping[str, Key], **attributes: Any) -> None:
        """Put a training at the end of the queue; ``params`` as the database knows them."""
        self.study.enqueue_trial(dict(params), user_attrs=_plain(attributes))

    @hold_interrupts()
    def name_objectives(self, names: Sequence[str]) -> None:
        """Tell Optuna's dashboard what the objectives are called."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            self.study.set_metric_names([*names])

    @hold_interrupts()
    def note(self, trial: Trial, **attributes: Any) -> None:
        """Write attributes of a trial; nothing happens to one that others have taken for lost."""
        with suppress(UpdateFinishedTrialError):
            for name, value in _plain(attributes).items():
                trial.set_user_attr(name, value)

    @hold_interrupts()
    def ask(self) -> Trial:
        """Take the next queued trial, or a new one where none is queued, and sign it."""
        with warnings.catch_warnings():
            # Heartbeats are our own here, since a trial may outlive the process that asked.
            warnings.filterwarnings("ignore", message="Heartbeat of storage", category=UserWarning)
            trial = self.study.ask()
        self.note(trial, owner=self.owner)
        return trial

    def attributes(self, trial: Trial) -> TrialAttributes:
        """Return what a trial's attributes hold now."""
        return TrialAttributes.model_validate(trial.user_attrs)

    @hold_interrupts()
    def claim(self, trial: Trial, key: str) -> bool:
        """Take hold of a training; False where another trial has it or has finished it."""
        self.note(trial, key=key)
        study = self.study._study_id
        own = {"study_id": study, "key": key, "number": trial.number}
        with suppress(IntegrityError), self.storage.engine.begin() as connection:
            connection.execute(insert(CLAIMS).values(own))
            return True
        here = (CLAIMS.c.study_id == study) & (CLAIMS.c.key == key)
        with self.storage.engine.begin() as connection:
            number = connection.execute(select(CLAIMS.c.number).where(here)).scalar()
        if number is not None:  # claimed before; by a trial that was lost?
            holder = self._typed(self._frozen(number))
            if holder.key == key and not holder.is_lost:
                return False
        lost = update(CLAIMS).where(here & (CLAIMS.c.number == number))
        with self.storage.engine.begin() as connection:
            return connection.execute(lost.values(number=trial.number)).rowcount == 1

    @hold_interrupts()
    def requeue(self, trial: Trial) -> None:
        """Put an interrupted training back into the queue."""
        frozen = self._frozen(trial.number)
        if frozen.state.is_finished():
            self._succeed(frozen)
        else:
            self._replace(frozen, begun=True)

    def _succeed(self, frozen: FrozenTrial) -> None:
        """Queue the training of a trial that others have taken for lost, unless they have."""
        key, discarded = map(frozen.user_attrs.get, ("key", "discarded"))
        if discarded is None and key not in self.keys("WAITING", "RUNNING", "COMPLETE", "PRUNED"):
            self.try_again(frozen.number, begun=True)

    def _replace(self, frozen: FrozenTrial, **changes: Any) -> None:
        """Queue a trial's training anew and end the trial, in this order.

        So its training is open at any time. If two workers do it, one finds it claimed.
        """
        self.try_again(frozen.number, **changes)
        self._tell(frozen.number, "FAIL")

    @hold_interrupts()
    def try_again(self, number: int, **changes: Any) -> None:
        """Queue what a trial trains once more, if that is known, with changed attributes.

        Its claim is free for the successor.
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
        for trial in ordered:
            self.try_again(trial.number)
        for trial in waiting:
            trial_id = self._frozen(trial.number)._trial_id
            self.storage.set_trial_user_attr(trial_id, "discarded", "moved in the queue")
            self.storage.set_trial_state_values(trial_id, TrialState.FAIL)

    @hold_interrupts()
    def reclaim(self) -> None:
        """Put trainings whose workers are gone back into the queue; at most every half second.

        One that was lost before is not queued again: it may be what kills.
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
        """Give up a trial that is not a training; ``over`` marks it as infeasible."""
        self._end(trial, "PRUNED" if over else "FAIL", over, discarded=why)

    @hold_interrupts()
    def fail(self, trial: Trial, reason: str, *, out_of_memory: bool = False) -> None:
        """Note that a variant can't be trained, and why."""
        self._end(trial, "FAIL", reason=reason, out_of_memory=out_of_memory)

    @hold_interrupts()
    def finish(self, trial: Trial, record: TrialRecord, values: Sequence[Number] | None) -> bool:
        """Store a finished training; without values it was stopped at a rung.

        Returns False where others took the trial for lost: its successor will find the record.
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
        """End a trial, unless it was ended before."""
        try:
            self.study.tell(number, values, state=TrialState[state])
        except (ValueError, UpdateFinishedTrialError):
            if not self._frozen(number).state.is_finished():
                raise

    def _frozen(self, number: int) -> FrozenTrial:
        return self.study.get_trials(deepcopy=False)[number]


def _has_left(owner: str) -> bool:
    """Say whether the process that signed a trial is dead, or is this one and has closed its queue.

    A notebook's process outlives the run in it that Ctrl-C has ended, wherever that was.
    """
    if owner.rpartition("|")[0] == this_process():
        return owner not in _OPEN
    return is_dead(owner)


def _plain(attributes: Mapping[str, Any]) -> dict[str, Any]:
    """Return attributes as JSON holds them."""
    return TrialAttributes(**attributes).model_dump(mode="json", include=set(attributes))
