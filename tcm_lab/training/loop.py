"""The loop of one training: steps, reports, checkpoints, and rollbacks after divergence."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from contextlib import closing, nullcontext
from pathlib import Path
from threading import Event
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.swa_utils import get_ema_multi_avg_fn

from tcm_lab._utils.environment import environment
from tcm_lab._utils.interrupts import hold_interrupts
from tcm_lab.codec import Codec, CodecAdapter
from tcm_lab.data import Batches, prefetch
from tcm_lab.training.causal_context import CausalContext
from tcm_lab.training.guard import MAX_ROLLBACKS, WINDOW, DivergedError, DivergenceGuard
from tcm_lab.training.linear_start import start_linear
from tcm_lab.training.log import (
    LinearStart,
    LossCurve,
    Meter,
    OnProgress,
    TrainingLog,
    TrainingProgress,
    TrainingRecord,
    psnr_db,
)
from tcm_lab.training.objective import (
    MakeObjective,
    SharedNoise,
    draw_levels,
    rate_distortion,
    seed_step,
)
from tcm_lab.training.optimizers import make_optimizers
from tcm_lab.training.recipe import Recipe
from tcm_lab.training.start import calibrate, refuse_lost_weights
from tcm_lab.training.state import (
    FILE_NAME,
    PHASE,
    Snapshot,
    described,
    put,
    take,
    trained_names,
)
from tcm_lab.training.trackers import Tracker

if TYPE_CHECKING:
    from lightning_fabric import Fabric

_TAIL = 0.05  # share of the steps over which the record's metrics are averaged
_LOG_ROWS = 2000


class TrainingLoop:
    """The state of a running training.

    Arguments are those of `train`. Progress reports name the ``phase``, if the steps are not the
    recipe's own.
    """

    def __init__(
        self,
        codec: nn.Module,
        recipe: Recipe,
        crops: Batches,
        fabric: Fabric,
        directory: Path | None,
        on_progress: OnProgress | None,
        *,
        objective: MakeObjective = rate_distortion,
        branches: Mapping[Path, Recipe] | None = None,
        phase: str = "",
    ) -> None:
        self.codec, self.recipe, self.crops = codec, recipe, crops
        self.fabric, self.directory, self.on_progress = fabric, directory, on_progress
        self.file = None if directory is None else directory / FILE_NAME
        self.make_objective, self.branches, self.phase = objective, branches or {}, phase
        self.levels = CodecAdapter(codec).rate_levels
        codec.train()
        codec.to(fabric.device)
        if recipe.channels_last:
            codec.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # torch's stub lacks it
        named = codec.named_parameters()
        learned = {n: p for n, p in named if not n.endswith("quantiles") and p.requires_grad}
        self.main = list(learned.values())
        self.context = CausalContext.of(codec, recipe)
        self.modules = {"model": codec} | ({"cca": self.context} if self.context else {})
        self.optimizers: dict[str, Optimizer] = make_optimizers(codec, recipe, self.context)
        self.averages = {n: p.detach().clone() for n, p in learned.items() if recipe.ema}
        self.average = get_ema_multi_avg_fn(recipe.ema)
        self.step = self.first = 0  # steps done, and those done when this part began
        self.lr_scale = 1.0
        self.rollbacks = 0
        self.earlier_s = 0.0
        self.started = self.stepping = time.perf_counter()  # the start takes time without steps
        self.meter = Meter(recipe, fabric)
        self.guard = DivergenceGuard()
        self.good: Snapshot | None = None
        self.start: LinearStart | None = None

    def run(self, trackers: Sequence[Tracker] = ()) -> TrainingRecord:
        """Train to the last step, rolling back after each divergence."""
        directory = self.directory if self.fabric.is_global_zero else None
        log = TrainingLog(directory, self.step, self.recipe, trackers)
        if self.good is None:
            self.good = self._snapshot()
        self.first, self.stepping = self.step, time.perf_counter()
        with hold_interrupts() as interrupted, closing(log):
            while self.step < self.recipe.steps:
                self._run_to_rollback(log, interrupted)
        with torch.no_grad():
            for weight, average in zip(self.main, self.averages.values(), strict=False):
                weight.copy_(average)
        return self._record(log.curve)

    def _run_to_rollback(self, log: TrainingLog, interrupted: Event) -> None:
        """Take the remaining steps, or those until a rollback: it needs earlier batches again."""
        batches = prefetch(
            self.crops,
            range(self.step, self.recipe.steps),
            self.recipe.batch,
            rank=self.fabric.global_rank,
            world=self.fabric.world_size,
            pin=self.fabric.device.type == "cuda",
        )
        with closing(batches):
            for batch in batches:
                self._one_step(batch)
                if not self._report(log):
                    return
                if interrupted.is_set():
                    if self.meter.is_finite():
                        self._save()
                    raise KeyboardInterrupt

    def _one_step(self, batch: Tensor) -> None:
        recipe, fabric, step = self.recipe, self.fabric, self.step
        seed_step(recipe.seed, step, self.rollbacks, fabric.device)
        x = batch.to(fabric.device, non_blocking=True)
        if recipe.channels_last:
            x = x.contiguous(memory_format=torch.channels_last)
        levels = None
        if self.levels:
            drawn = draw_levels(self.levels, recipe.batch, recipe.seed, step)
            levels = drawn.chunk(fabric.world_size)[fabric.global_rank].to(fabric.device)
        factor = self.lr_scale * recipe.lr_factor(step)
        for name, optimizer in self.optimizers.items():
            for group in optimizer.param_groups if name != "aux" else ():
                group["lr"] = group["base_lr"] * factor
            optimizer.zero_grad()
        # A compiled codec draws its noise where a function mode cannot intercept it.
        is_shared = fabric.world_size > 1 and not recipe.compile
        with SharedNoise(fabric.global_rank, fabric.world_size) if is_shared else nullcontext():
            losses = self.objective(x, levels)
        fabric.backward(losses["total"])
        norm = nn.utils.clip_grad_norm_(self.main, recipe.clip_norm)
        if self.context is not None:
            nn.utils.clip_grad_norm_(self.context.parameters(), recipe.clip_norm)
        for optimizer in self.optimizers.values():
            optimizer.step()
        if self.averages:
            self.average(list(self.averages.values()), self.main, None)
        self.meter.add({**losses, "gradient_norm": norm})
        self.step += 1

    def _report(self, log: TrainingLog) -> bool:
        """Report the metrics when they are due; return False after rolling back."""
        done = self.step == self.recipe.steps
        saves = done or self.step % self.recipe.checkpoint_every == 0
        if not (saves or self.step % WINDOW == 0):
            return True
        means = self.meter.report(counts=self.step > (1 - _TAIL) * self.recipe.steps)
        if not self.guard.accepts(means):
            self._roll_back(means["loss"])
            log.rewind(self.step)
            return False
        self._log(means, log)
        for folder, shorter in self.branches.items():
            if self.step == shorter.cooldown_begins and not (folder / FILE_NAME).exists():
                self._snapshot(shorter).save(folder / FILE_NAME)
        if done or (saves and not self.guard.in_doubt):
            self._save()
        return True

    def _log(self, means: dict[str, float], log: TrainingLog) -> None:
        recipe = self.recipe
        pace = (time.perf_counter() - self.stepping) / max(self.step - self.first, 1)
        images_per_s = recipe.batch / pace
        every = max(WINDOW, recipe.steps // _LOG_ROWS // WINDOW * WINDOW)
        if self.step % every == 0 or self.step == recipe.steps:
            row = self.meter.row()
            lr = recipe.lr * self.lr_scale * recipe.lr_factor(self.step - 1)
            others = {"step": self.step, "lr": lr, "images_per_s": images_per_s}
            log.write({**row, **others, "psnr_db": psnr_db(row["mse"])})
        if self.on_progress is not None and self.fabric.is_global_zero:
            progress = TrainingProgress(
                step=self.step,
                steps=recipe.steps,
                loss=means["loss"],
                bpp=means["bpp"],
                psnr_db=psnr_db(means["mse"]),
                images_per_s=images_per_s,
                remaining_s=pace * (recipe.steps - self.step),
                phase=self.phase,
            )
            self.on_progress(progress)

    def begin(self, *, resume: bool, cache: Path | None = None) -> None:
        """Start as the recipe says, or resume from the directory's state if there is one."""
        recipe = self.recipe
        if resume and self.file is not None and self.file.exists():
            snapshot = Snapshot.load(self.file)
            snapshot.refuse_other(self.codec, recipe, self.crops.fingerprint, self.file)
            self._restore(snapshot)
            self.earlier_s = snapshot.facts["wall_s"]
        else:
            self._start(cache)
        objective = self.make_objective(self.codec, recipe, self.context)
        if recipe.compile:
            objective = torch.compile(objective)  # type: ignore[assignment]  # a module in disguise
        self.objective = self.fabric.setup_module(objective)

    def _start(self, cache: Path | None) -> None:
        """Run the recipe's start, before the first update."""
        recipe, codec = self.recipe, self.codec
        if recipe.start == "linear" and isinstance(codec, Codec):
            refuse_lost_weights(codec)
            self.start = start_linear(codec, recipe, self.crops, self._train_phase, cache)
            codec.train()
        elif recipe.start != "none":
            calibrate(codec, self.crops.batch(0, recipe.batch).to(self.fabric.device))
        if self.context is not None:
            self.context.copy_from(codec)
        for average, weight in zip(self.averages.values(), self.main, strict=False):
            average.copy_(weight.detach())

    def _train_phase(self, view: Codec, phase: Recipe) -> None:
        """Train the entropy model alone, with its state in a folder of its own."""
        folder = None if self.directory is None else self.directory / PHASE
        loop = TrainingLoop(
            view, phase, self.crops, self.fabric, folder, self.on_progress, phase="linear phase"
        )
        loop.begin(resume=True)
        loop.run()

    def _snapshot(self, recipe: Recipe | None = None) -> Snapshot:
        facts = {
            "step": self.step,
            "lr_scale": self.lr_scale,
            "rollbacks": self.rollbacks,
            "smoothed": self.guard.smoothed,
            **self.meter.facts(),
            "wall_s": self._wall_s(),
            "recipe": (recipe or self.recipe).model_dump(mode="json"),
            "data": self.crops.fingerprint,
            "model": described(self.codec),
            "trained": trained_names(self.codec),
            "start": None if self.start is None else self.start.model_dump(mode="json"),
        }
        return take(self.modules, self.optimizers, self.averages, facts)

    def _restore(self, snapshot: Snapshot) -> None:
        put(snapshot, self.modules, self.optimizers, self.averages, str(self.file))
        facts = snapshot.facts
        self.step = facts["step"]
        self.meter.restore(facts)
        self.lr_scale, self.rollbacks = facts["lr_scale"], facts["rollbacks"]
        self.guard = DivergenceGuard(facts["smoothed"])
        self.start = facts["start"] and LinearStart.model_validate(facts["start"])
        self.good = snapshot

    def _save(self) -> None:
        """Keep the current state as good, and write it to the file."""
        self.good = self._snapshot()
        if self.file is not None and self.fabric.is_global_zero:
            self.good.save(self.file)

    def _roll_back(self, loss: float) -> None:
        """Return to the last good state with half the learning rate.

        Raises:
            DivergedError: the training has been rolled back too often.
        """
        assert self.good is not None
        step, rollbacks, scale = self.step, self.rollbacks, self.lr_scale
        self._restore(self.good)
        if rollbacks == MAX_ROLLBACKS:
            saved = ""
            if self.file is not None and self.file.exists():
                saved = f" {self.directory} keeps the state of step {self.step}."
            raise DivergedError(
                f"training diverged at step {step} (loss {loss:.4g}) for the "
                f"{MAX_ROLLBACKS + 1}th time, with lr reduced to {self.recipe.lr * scale:.2g}."
                f"{saved} Lower lr or clip_norm, or look for damaged images."
            )
        self.rollbacks, self.lr_scale = rollbacks + 1, scale / 2
        self.first, self.stepping = self.step, time.perf_counter()

    def _wall_s(self) -> float:
        return self.earlier_s + time.perf_counter() - self.started

    def _record(self, curve: LossCurve) -> TrainingRecord:
        recipe, wall_s = self.recipe, self._wall_s()
        means = self.meter.tail()
        return TrainingRecord(
            model=CodecAdapter(self.codec).description,
            recipe=recipe,
            steps=self.step,
            processes=self.fabric.world_size,
            loss=means["loss"],
            bpp=means["bpp"],
            psnr_db=psnr_db(means["mse"]),
            wall_s=wall_s,
            images_per_s=recipe.batch * recipe.steps / wall_s,
            rollbacks=self.rollbacks,
            curve=curve,
            start=self.start,
            data_fingerprint=self.crops.fingerprint,
            skipped=tuple(getattr(self.crops, "skipped", ())),
            environment=environment(self.fabric.device),
        )
