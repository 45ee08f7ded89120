"""Who trains what: the study's trials as a queue that many workers share and none may corrupt.

A trial's key is its codec and seed. A queued trial has its key from the start; a sampled one
declares it right after the sampler has spoken. Trial numbers come from the database, so of two
trials with one key the lower number holds it: a worker looks only once every lower-numbered trial
has declared itself (Lamport's bakery), and gives up the trial where an older one has its key.
"""

from __future__ import annotations

import json
import threading
import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

from tcm_lab.metrics import Goal
from tcm_lab.study.axes import Key
from tcm_lab.study.record import TrialRecord
from tcm_lab.study.storage import HEARTBEAT_S, close_storage, is_dead, open_storage, this_process

if TYPE_CHECKING:
    from optuna import Study
    from optuna.trial import FrozenTrial, Trial

_POLL_S = 0.2
_RECLAIM_S = 0.5  # looking for the dead costs as much as anything that a worker does
_UNSIGNED_S = 60  # a trial that nobody signed for so long was lost between two statements
_COPIED = ("key", "seed", "baseline", "retries", "rungs", "begun")


def key_of(fingerprint: str, seed: int) -> str:
    """Return what one training is held under."""
    return f"{fingerprint}-s{seed}"


class Ledger:
    """The trials of one study; leave its ``with`` block to close the database.

    Attributes:
        study: Optuna's view of them.
    """

    def __init__(self, url: str, name: str, directions: Sequence[Goal] | None = None) -> None:
        """Open a study; given the directions of its objectives, create it if there is none."""
        import optuna

        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self._reclaimed = -_RECLAIM_S
        self.storage = open_storage(url, on_lost=self._lost)
        if directions is None:
            self.study = optuna.load_study(study_name=name, storage=self.storage)
        else:
            self.study = optuna.create_study(
                study_name=name,
                storage=self.storage,
                directions=list(directions),
                load_if_exists=True,
            )

    def __enter__(self) -> Ledger:
        return self

    def __exit__(self, *_: object) -> None:
        close_storage(self.storage)

    def trials(self, *states: str) -> list[FrozenTrial]:
        """Return the trials in these states (all, if none is named) that were not discarded."""
        from optuna.trial import TrialState

        wanted = tuple(TrialState[state] for state in states) or None
        found = self.study.get_trials(deepcopy=False, states=wanted)
        return [trial for trial in found if "discarded" not in trial.user_attrs]

    def keys(self, *states: str) -> dict[str, FrozenTrial]:
        """Return the trials in these states by key; of several, the oldest."""
        found: dict[str, FrozenTrial] = {}
        for trial in self.trials(*states):
            if "key" in trial.user_attrs:
                found.setdefault(trial.user_attrs["key"], trial)
        return found

    def records(self) -> list[TrialRecord]:
        """Return the record of every finished training, by number."""
        found = [
            read_record(trial)
            for trial in self.trials("COMPLETE", "PRUNED")
            if "record" in trial.user_attrs
        ]
        return sorted(found, key=lambda record: record.number)

    def baseline(self) -> TrialRecord | None:
        """Return the record of the baseline's first training, if it is finished."""
        for trial in self.trials("COMPLETE"):
            if trial.user_attrs.get("baseline") and "record" in trial.user_attrs:
                return read_record(trial)
        return None

    # -- queue ------------------------------------------------------------------------------------

    def enqueue(self, params: Mapping[str, Key], key: str, seed: int, *, baseline: bool) -> None:
        """Put a training at the end of the queue."""
        attributes = {"key": key, "seed": seed, "baseline": baseline}
        self.study.enqueue_trial(dict(params), user_attrs=attributes)

    def ask(self) -> Trial:
        """Take the next queued trial, or a new one where none is queued, and sign it."""
        with warnings.catch_warnings():
            # Heartbeats are our own here, since a trial may outlive the process that asked.
            warnings.filterwarnings("ignore", message="Heartbeat of storage", category=UserWarning)
            trial = self.study.ask()
        trial.set_user_attr("owner", this_process())
        return trial

    def claim(self, trial: Trial, key: str) -> FrozenTrial | None:
        """Declare what a trial is about; return the older trial that has the same key, if any."""
        if trial.user_attrs.get("key") != key:
            trial.set_user_attr("key", key)
        while True:
            older = [other for other in self.trials() if other.number < trial.number]
            undeclared = [
                other for other in older if other.state.name == "RUNNING" and not _declared(other)
            ]
            for other in older:
                if other.user_attrs.get("key") == key and other.state.name != "FAIL":
                    return other
            if not undeclared:
                return None
            time.sleep(_POLL_S)
            self.reclaim()

    def discard(self, trial: Trial, why: str, *, over: Mapping[str, float] | None = None) -> None:
        """Give up a trial that is no training; ``over`` tells the sampler that it is infeasible."""
        trial.set_user_attr("discarded", why)
        for name, excess in (over or {}).items():
            trial.set_constraint(name, excess)
        self._tell(trial.number, state="PRUNED" if over else "FAIL")

    def requeue(self, trial: Trial) -> None:
        """Put a trial that was interrupted back into the queue."""
        self._again(self.study, self._frozen(trial.number), {"begun": True})
        self._tell(trial.number, state="FAIL")

    def reorder(self) -> None:
        """Put the baseline and what was begun to the head of the queue, if nobody else is at work.

        What is queued again stands last; the others are compared with the baseline, and a
        training that was begun should not have been in vain.
        """

        def urgency(trial: FrozenTrial) -> tuple[bool, bool, int]:
            attributes = trial.user_attrs
            first = bool(attributes.get("baseline")) and not attributes.get("seed")
            return not first, not attributes.get("begun"), trial.number

        waiting = self.trials("WAITING")
        ordered = sorted(waiting, key=urgency)
        if ordered == waiting or self.trials("RUNNING"):
            return
        from optuna.trial import TrialState

        for trial in ordered:
            self._again(self.study, trial, {})
        for trial in waiting:
            self.storage.set_trial_user_attr(trial._trial_id, "discarded", "moved in the queue")
            self.storage.set_trial_state_values(trial._trial_id, TrialState.FAIL)

    def fail(self, trial: Trial, reason: str) -> None:
        """Note that a variant can't be trained, and why."""
        trial.set_user_attr("reason", reason)
        self._tell(trial.number, state="FAIL")

    def finish(self, trial: Trial, record: TrialRecord, values: list[float] | None) -> None:
        """Write down a finished training; without values it was stopped at a rung."""
        trial.set_user_attr("record", record.model_dump(mode="json"))
        for name, excess in record.violations.items():
            trial.set_constraint(name, excess)
        if values is None:
            self._tell(trial.number, state="PRUNED")
        else:
            self._tell(trial.number, state="COMPLETE", values=values)

    @contextmanager
    def beating(self, trial: Trial) -> Iterator[None]:
        """Give signs of life for a trial while the block runs."""
        study_id = self.storage.get_study_id_from_name(self.study.study_name)
        trial_id = self.storage.get_trial_id_from_study_id_trial_number(study_id, trial.number)
        ended = threading.Event()

        def beat() -> None:
            while True:
                with suppress(Exception):  # whatever ails the database, the next statement tells
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
        """Put trials of workers that are gone back into the queue; not more often than need be."""
        import optuna

        if time.monotonic() - self._reclaimed < _RECLAIM_S:
            return
        self._reclaimed = time.monotonic()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            optuna.storages.fail_stale_trials(self.study)
        for trial in self.trials("RUNNING"):
            owner = trial.user_attrs.get("owner")
            if owner is None:
                assert trial.datetime_start is not None
                gone = datetime.now() - trial.datetime_start > timedelta(seconds=_UNSIGNED_S)
            else:
                gone = is_dead(owner)
            if gone and self._tell(trial.number, state="FAIL"):
                self._lost(self.study, trial)

    def _lost(self, study: Study, trial: FrozenTrial) -> None:
        """Queue a lost trial once more, unless it was lost before: it may be what kills."""
        retries = trial.user_attrs.get("retries", 0)
        if "key" in trial.user_attrs and retries < 1:
            self._again(study, trial, {"retries": retries + 1, "begun": True})

    def _again(self, study: Study, trial: FrozenTrial, changes: Mapping[str, Any]) -> None:
        if "key" not in trial.user_attrs:
            return
        params = {**trial.system_attrs.get("fixed_params", {}), **trial.params}
        kept = {name: trial.user_attrs[name] for name in _COPIED if name in trial.user_attrs}
        study.enqueue_trial(params, user_attrs={**kept, **changes})

    def _frozen(self, number: int) -> FrozenTrial:
        return self.study.get_trials(deepcopy=False)[number]

    def _tell(self, number: int, *, state: str, values: list[float] | None = None) -> bool:
        """End a trial; return whether it had not been ended before."""
        import optuna

        try:
            self.study.tell(number, values, state=optuna.trial.TrialState[state])
        except (ValueError, optuna.exceptions.UpdateFinishedTrialError):
            if self._frozen(number).state.is_finished():
                return False
            raise
        return True


def read_record(trial: FrozenTrial) -> TrialRecord:
    """Return the record that a finished trial carries."""
    return TrialRecord.model_validate_json(json.dumps(trial.user_attrs["record"]))


def _declared(trial: FrozenTrial) -> bool:
    return "key" in trial.user_attrs
