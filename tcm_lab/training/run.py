"""The state of one training while it runs: steps, figures, checkpoints, rollbacks."""

from __future__ import annotations

import math
import time
from collections.abc import Generator
from contextlib import closing, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.optim import Adam, Optimizer

from tcm_lab._utils.environment import environment
from tcm_lab.data.prefetch import Batches, prefetch
from tcm_lab.errors import LabError
from tcm_lab.training.calibration import calibrate
from tcm_lab.training.guard import MAX_ROLLBACKS, DivergenceGuard, diverged
from tcm_lab.training.interrupts import interrupts
from tcm_lab.training.log import TrainingLog
from tcm_lab.training.noise import SharedNoise, seed_step
from tcm_lab.training.objective import Objective, draw_levels
from tcm_lab.training.progress import OnProgress, Progress
from tcm_lab.training.recipe import Recipe
from tcm_lab.training.record import TrainingRecord
from tcm_lab.training.state import FILE_NAME, Snapshot, put, take

if TYPE_CHECKING:
    from lightning_fabric import Fabric

# Figures are fetched from the device once in so many steps, so that a GPU need not wait.
_WINDOW = 10
_NAMES = ("loss", "bpp", "mse", "aux", "gradient_norm")
_TAIL = 0.05  # share of the steps whose mean is the record's final figure
_LOG_ROWS = 2000


class Run:
    """The state of a training while it runs."""

    def __init__(
        self,
        codec: nn.Module,
        recipe: Recipe,
        crops: Batches,
        levels: int,
        fabric: Fabric,
        directory: Path | None,
        on_progress: OnProgress | None,
    ) -> None:
        self.codec, self.recipe, self.crops, self.levels = codec, recipe, crops, levels
        self.fabric, self.directory = fabric, directory
        self.on_progress = on_progress
        codec.train()
        codec.to(fabric.device)
        if recipe.channels_last:
            codec.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # torch's stub lacks it
        named = list(codec.named_parameters())
        self.main = [p for name, p in named if not name.endswith("quantiles") and p.requires_grad]
        aux = [p for name, p in named if name.endswith("quantiles")]
        self.optimizers: dict[str, Optimizer] = {"main": _adam(self.main, recipe.lr)}
        if aux:
            self.optimizers["aux"] = _adam(aux, recipe.aux_lr)
        own = {id(p) for p in self.main} if recipe.ema else set()
        self.averages = {n: p.detach().clone() for n, p in named if id(p) in own}

        self.step = 0
        self.lr_scale = 1.0
        self.rollbacks = 0
        self.earlier_s = 0.0
        self.started = time.perf_counter()
        self.window = torch.zeros(len(_NAMES) + 1, device=fabric.device)
        self.tail = [0.0] * (len(_NAMES) + 1)
        self.guard = DivergenceGuard()
        self.good: Snapshot | None = None

    # -- the loop ---------------------------------------------------------------------------

    def until_done(self) -> TrainingRecord:
        """Train to the last step, rolling back where it diverges."""
        log = TrainingLog(self.directory if self.fabric.is_global_zero else None, self.step)
        if self.good is None:
            self.good = self._snapshot()
        first = self.step
        with interrupts() as interrupted, closing(log):
            while self.step < self.recipe.steps:
                with closing(self._batches()) as batches:
                    for batch in batches:
                        self._one_step(batch)
                        if not self._report(log, first):
                            break  # rolled back: the batches start again from there
                        if interrupted.is_set():
                            if self.window.isfinite().all():
                                self._save()
                            raise KeyboardInterrupt
        self._use_averages()
        return self._record()

    def _batches(self) -> Generator[Tensor, None, None]:
        return prefetch(
            self.crops,
            range(self.step, self.recipe.steps),
            self.recipe.batch,
            rank=self.fabric.global_rank,
            world=self.fabric.world_size,
            pin=self.fabric.device.type == "cuda",
        )

    def _one_step(self, batch: Tensor) -> None:
        recipe, fabric, step = self.recipe, self.fabric, self.step
        seed_step(recipe.seed, step, self.rollbacks)
        x = batch.to(fabric.device, non_blocking=True)
        if recipe.channels_last:
            x = x.contiguous(memory_format=torch.channels_last)
        levels = None
        if self.levels:
            whole = draw_levels(self.levels, recipe.batch, recipe.seed, step)
            levels = whole.chunk(fabric.world_size)[fabric.global_rank].to(fabric.device)
        for group in self.optimizers["main"].param_groups:
            group["lr"] = recipe.lr * self.lr_scale * recipe.lr_factor(step)
        for optimizer in self.optimizers.values():
            optimizer.zero_grad()
        # A compiled codec draws its noise where no one can see it.
        shares = fabric.world_size > 1 and not recipe.compile
        with SharedNoise(fabric.global_rank, fabric.world_size) if shares else nullcontext():
            losses = self.objective(x, levels)
        fabric.backward(losses["total"])
        norm = nn.utils.clip_grad_norm_(self.main, recipe.clip_norm)
        for optimizer in self.optimizers.values():
            optimizer.step()
        if self.averages:
            own = dict(self.codec.named_parameters())
            torch._foreach_lerp_(
                list(self.averages.values()),
                [own[name].detach() for name in self.averages],
                1 - recipe.ema,
            )
        figures = [losses["loss"], losses["bpp"], losses["mse"], losses["aux"], norm]
        self.window += torch.stack([*figures, torch.ones_like(norm)])
        self.step += 1

    def _report(self, log: TrainingLog, first: int) -> bool:
        """Look at the figures when they are due; return False after rolling back."""
        done = self.step == self.recipe.steps
        saves = done or self.step % self.recipe.checkpoint_every == 0
        if not (saves or self.step % _WINDOW == 0):
            return True
        reduced = self.fabric.all_reduce(self.window, reduce_op="mean")
        assert isinstance(reduced, Tensor)
        sums: list[float] = reduced.tolist()
        self.window.zero_()
        means = {name: value / sums[-1] for name, value in zip(_NAMES, sums, strict=False)}
        if not self.guard.accepts(means["loss"], means["gradient_norm"]):
            self._roll_back(means["loss"])
            return False
        if self.step > (1 - _TAIL) * self.recipe.steps:
            self.tail = [old + new for old, new in zip(self.tail, sums, strict=True)]
        self._tell(means, log, first)
        if saves:
            self._save()
        return True

    def _tell(self, means: dict[str, float], log: TrainingLog, first: int) -> None:
        recipe = self.recipe
        pace = (time.perf_counter() - self.started) / max(self.step - first, 1)
        figures = {
            **means,
            "step": self.step,
            "psnr_db": _psnr_db(means["mse"]),
            "lr": self.optimizers["main"].param_groups[0]["lr"],
            "images_per_s": recipe.batch / pace,
        }
        every = max(_WINDOW, recipe.steps // _LOG_ROWS // _WINDOW * _WINDOW)
        if self.step % every == 0 or self.step == recipe.steps:
            log.write(figures)
        if self.on_progress is not None and self.fabric.is_global_zero:
            self.on_progress(
                Progress(
                    step=self.step,
                    steps=recipe.steps,
                    loss=means["loss"],
                    bpp=means["bpp"],
                    psnr_db=figures["psnr_db"],
                    images_per_s=figures["images_per_s"],
                    remaining_s=pace * (recipe.steps - self.step),
                )
            )

    # -- state ------------------------------------------------------------------------------

    def begin(self, *, resume: bool) -> None:
        """Start afresh, or go on from the directory's state if there is one."""
        recipe = self.recipe
        path = None if self.directory is None else self.directory / FILE_NAME
        if resume and path is not None and path.exists():
            self._resume(path)
        elif recipe.calibrate:
            calibrate(self.codec, self.crops.batch(0, recipe.batch).to(self.fabric.device))
            weights = dict(self.codec.named_parameters())
            self.averages = {name: weights[name].detach().clone() for name in self.averages}
        objective: nn.Module = Objective(self.codec, recipe.lambdas, recipe.metric)
        if recipe.compile:
            objective = torch.compile(objective)  # type: ignore[assignment]  # a module in disguise
        self.objective = self.fabric.setup_module(objective)

    def _resume(self, path: Path) -> None:
        snapshot = Snapshot.load(path)
        theirs, ours = snapshot.facts["recipe"], self.recipe.model_dump(mode="json")
        differing = [name for name in ours if theirs.get(name) != ours[name]]
        if snapshot.facts["data"] != self.crops.fingerprint:
            differing.append("data")
        if differing:
            raise LabError(
                f"{path}: began with other {', '.join(differing)}. "
                "Resume with the same, or name another folder."
            )
        self._restore(snapshot)
        self.earlier_s = snapshot.facts["wall_s"]

    def _snapshot(self) -> Snapshot:
        facts = {
            "step": self.step,
            "lr_scale": self.lr_scale,
            "rollbacks": self.rollbacks,
            "smoothed": self.guard.smoothed,
            "tail": self.tail,
            "window": self.window.tolist(),
            "wall_s": self._wall_s(),
            "recipe": self.recipe.model_dump(mode="json"),
            "data": self.crops.fingerprint,
        }
        return take(self.codec, self.optimizers, self.averages, facts)

    def _restore(self, snapshot: Snapshot) -> None:
        put(snapshot, self.codec, self.optimizers, self.averages)
        facts = snapshot.facts
        self.step, self.tail = facts["step"], list(facts["tail"])
        self.lr_scale, self.rollbacks = facts["lr_scale"], facts["rollbacks"]
        self.guard = DivergenceGuard(facts["smoothed"])
        self.window.copy_(torch.tensor(facts["window"]))
        self.good = snapshot

    def _save(self) -> None:
        """Remember the present state as good, and write it down."""
        self.good = self._snapshot()
        if self.directory is not None and self.fabric.is_global_zero:
            self.good.save(self.directory / FILE_NAME)

    def _roll_back(self, loss: float) -> None:
        """Return to the last good state with half the learning rate.

        Raises:
            LabError: that has been done too often.
        """
        assert self.good is not None
        step, rollbacks, scale = self.step, self.rollbacks, self.lr_scale
        self._restore(self.good)
        if rollbacks == MAX_ROLLBACKS:
            kept = ""
            if self.directory is not None and (self.directory / FILE_NAME).exists():
                kept = f"{self.directory} keeps the state of step {self.step}."
            raise diverged(step, loss, self.recipe.lr * scale, kept)
        self.rollbacks, self.lr_scale = rollbacks + 1, scale / 2

    def _use_averages(self) -> None:
        own = dict(self.codec.named_parameters())
        with torch.no_grad():
            for name, average in self.averages.items():
                own[name].copy_(average)

    def _wall_s(self) -> float:
        return self.earlier_s + time.perf_counter() - self.started

    def _record(self) -> TrainingRecord:
        recipe, wall_s = self.recipe, self._wall_s()
        means = {n: v / self.tail[-1] for n, v in zip(_NAMES, self.tail, strict=False)}
        config: Any = getattr(self.codec, "config", None)
        return TrainingRecord(
            model=type(self.codec).__name__ if config is None else config.model_dump(mode="json"),
            recipe=recipe,
            steps=self.step,
            processes=self.fabric.world_size,
            loss=means["loss"],
            bpp=means["bpp"],
            psnr_db=_psnr_db(means["mse"]),
            wall_s=wall_s,
            images_per_s=recipe.batch * recipe.steps / wall_s,
            rollbacks=self.rollbacks,
            data_fingerprint=self.crops.fingerprint,
            skipped=tuple(getattr(self.crops, "skipped", ())),
            environment=environment(self.fabric.device),
        )


def _adam(parameters: list[nn.Parameter], lr: float) -> Adam:
    return Adam(parameters, lr=lr, fused=all(p.is_floating_point() for p in parameters))


def _psnr_db(mse: float) -> float:
    return -10 * math.log10(max(mse, 1e-10))
