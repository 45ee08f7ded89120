"""Kill the workers of a study at random times and compare its results with an undisturbed run.

    python tests/study/kills.py 100                       # on SQLite
    python tests/study/kills.py 100 --storage postgresql+psycopg://lab@/postgres?host=/tmp/server

Every study trains 24 codecs in two workers. A killed worker is replaced at once, as on a cluster;
when all workers have ended, the study is resumed, as by a user.
"""

from __future__ import annotations

import argparse
import logging
import os
import random
import signal
import sys
import tempfile
import time
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import psutil
import torch
from PIL import Image

from tcm_lab.study.context import Event, StudyContext
from tcm_lab.study.estimators import Outcome, Task, Watch
from tcm_lab.study.prepare import prepare
from tcm_lab.study.queue import open_queue
from tcm_lab.study.record import TrialRecord
from tcm_lab.study.run import fill_queue
from tcm_lab.study.space import parse_space
from tcm_lab.study.worker import work

SPACE = """
name: kills
base: tcm-nano
axes:
  split: {path: "g_*.split", choices: [0.0, 0.5, 1.0]}
  slices: {path: entropy_model.slices, choices: [1, 2, 4, 8]}
  window: {path: "g_*.window_size", choices: [4, 8]}
sampler: grid
size: [64, 64]
budget:
  recipe: scratch
  steps: 6
  rate_levels: 2
  changes: {crop: 64, batch: 1, checkpoint_every: 2}
"""
WORKERS = 2
_GAVE_UP = 3  # exit status after a trial whose worker was killed twice


@dataclass(frozen=True)
class Logging:
    """A trainer that logs the start of each training run, with its circumstances, and its end."""

    inner: object
    log: Path

    def __call__(self, task: Task, watch: Watch) -> Outcome:
        own = task.directory.name
        after = "a record" if (task.directory / "record.json").exists() else self._holder(own)
        self._note(own, f"began after {after}" if after else "began")
        outcome: Outcome = self.inner(task, watch)  # type: ignore[operator]
        self._note(own, "ended")
        return outcome

    def _note(self, training: str, what: str) -> None:
        with self.log.open("a") as file:
            file.write(f"{training} {os.getpid()} {what}\n")

    def _holder(self, training: str) -> str | None:
        """Return the live worker that has not finished this training run, if any."""
        if not self.log.exists():
            return None
        lines = [line.split(maxsplit=2) for line in self.log.read_text().splitlines()]
        own = [(pid, what) for name, pid, what in lines if name == training]
        if not own or own[-1][1] == "ended" or own[-1][0] == str(os.getpid()):
            return None
        with suppress(psutil.NoSuchProcess):
            if psutil.Process(int(own[-1][0])).status() != psutil.STATUS_ZOMBIE:
                return f"worker {own[-1][0]}"
        return None


@dataclass(frozen=True)
class Disturbed:
    """The outcome of a study whose workers were killed.

    Attributes:
        records: one record per training run.
        kills: number of killed workers.
        resumed: number of times that the study was resumed.
        twice: runs that began although they had a record or were running in another worker.
        ended_again: runs that ended but lost their worker before their record was written; they
            resume from the last checkpoint, at the last step.
    """

    records: tuple[TrialRecord, ...]
    kills: int
    resumed: int
    twice: int
    ended_again: int

    def results(self) -> dict[str, object]:
        """Return everything that does not depend on the speed of the machine."""
        return {
            record.fingerprint: (
                record.label,
                record.state,
                record.steps,
                record.complexity.total_parameters,
                [
                    (image.name, image.bits, image.psnr_db)
                    for point in record.rd.points
                    for image in point.images
                ],
            )
            for record in self.records
        }


def write_images(folder: Path) -> None:
    """Write two small images of smooth noise."""
    folder.mkdir()
    rng = np.random.default_rng(0)
    for index in range(2):
        coarse = Image.fromarray(rng.integers(0, 256, (6, 6, 3), dtype=np.uint8))
        coarse.resize((96, 96), Image.Resampling.BICUBIC).save(folder / f"{index}.png")


def study(folder: Path, storage: str | None, images: Path) -> StudyContext:
    """Return a study of 24 short training runs in ``folder``."""
    space = parse_space(SPACE, "kills.yaml", None)
    context = prepare(space, out=folder, data=images, eval_data=images, storage=storage)
    return replace(context, trainer=Logging(context.trainer, folder.with_suffix(".log")))


def _fork(context: StudyContext, index: int) -> int:
    pid = os.fork()
    if pid:
        return pid
    torch.set_num_threads(1)
    try:
        work(context, index, _silent)
    except BaseException as error:
        print(f"worker {index}: {type(error).__name__}: {error}", file=sys.stderr, flush=True)
        os._exit(_GAVE_UP if "its worker was killed twice" in str(error) else 1)
    os._exit(0)


def _silent(event: Event) -> None:
    pass


def run(context: StudyContext, kills: int, mean_s: float, rng: random.Random) -> Disturbed:
    """Run a study to its end, killing up to ``kills`` workers, one per ``mean_s`` on average."""
    killed = resumed = 0
    todo, done = fill_queue(context)
    while done < todo:
        workers = [_fork(context, index) for index in range(WORKERS)]
        due_s = time.monotonic() + rng.expovariate(1 / mean_s)
        while workers:
            time.sleep(0.005)
            for pid in list(workers):
                ended, status = os.waitpid(pid, os.WNOHANG)
                if ended:
                    workers.remove(pid)
                    if os.WIFSIGNALED(status):
                        workers.append(_fork(context, len(workers)))
                    elif os.WEXITSTATUS(status) not in (0, _GAVE_UP):
                        raise SystemExit("a worker failed without being killed")
            if workers and killed < kills and time.monotonic() > due_s:
                os.kill(rng.choice(workers), signal.SIGKILL)
                killed += 1
                due_s = time.monotonic() + rng.expovariate(1 / mean_s)
        todo, done = fill_queue(context)
        resumed += done < todo
    with open_queue(context.storage, context.name) as queue:
        records = tuple(queue.records())
    noted = [line.split(maxsplit=2) for line in context.out.with_suffix(".log").open()]
    ended = [name for name, _, what in noted if what.strip() == "ended"]
    twice = sum("after" in what for *_, what in noted)
    return Disturbed(records, killed, resumed, twice, len(ended) - len(set(ended)))


def main(words: list[str]) -> int:
    """Kill the requested number of workers, over as many studies as necessary."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("kills", type=int)
    parser.add_argument("--storage", help="database on a server; default: SQLite files")
    parser.add_argument("--mean-s", type=float, default=2.0, help="mean seconds between kills")
    args = parser.parse_args(words)
    logging.disable(logging.WARNING)
    rng = random.Random(0)
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        write_images(root / "images")
        whole = run(study(root / "undisturbed", None, root / "images"), 0, 1.0, rng)
        expected, total, index = whole.results(), 0, 0
        assert len(expected) == 24
        while total < args.kills:
            index += 1
            context = study(root / f"study-{index}", args.storage, root / "images")
            outcome = run(context, args.kills - total, args.mean_s, rng)
            total += outcome.kills
            same = outcome.results() == expected and len(outcome.records) == len(expected)
            print(
                f"study {index}: {outcome.kills} kills, {len(outcome.records)} records, "
                f"{outcome.twice} trained twice, {outcome.ended_again} ended again, "
                f"resumed {outcome.resumed} times, "
                f"{'equal' if same else 'NOT EQUAL'}; {total} of {args.kills} kills",
                flush=True,
            )
            if not same or outcome.twice:
                return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
