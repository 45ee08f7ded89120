"""``stage-swap``: options of single stages, each trained alone to imitate the parent's stage."""

from __future__ import annotations

import itertools
import math
import random
import shutil
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any

import numpy as np
from pydantic import Field

from tcm_lab import codec as codecs
from tcm_lab import training
from tcm_lab._utils import Frozen
from tcm_lab._utils.digests import digest
from tcm_lab._utils.files import write_atomically
from tcm_lab.codec import VariantConfig
from tcm_lab.errors import FileError
from tcm_lab.study.estimators.base import (
    Estimate,
    Estimator,
    Outcome,
    Task,
    Watch,
    check_one_set_of_weights,
    register_estimator,
)
from tcm_lab.study.estimators.middles import MiddleCost, middle_cost, sd_over_images
from tcm_lab.training import Recipe, TrainingProgress

if TYPE_CHECKING:
    from tcm_lab.codec import Codec
    from tcm_lab.study.context import StudyContext
    from tcm_lab.training import Swap

_PAIRS_PER_VARIANT = 3  # at most, to check


class PairCheck(Frozen):
    """Two swaps evaluated together, against the sum of the two.

    Attributes:
        places: places of the swaps.
        summed: sum of both swaps' Lagrangian costs above the parent's, in percent.
        together: Lagrangian cost above the parent's of a codec with both swaps, in percent.
    """

    places: tuple[str, str]
    summed: float
    together: float


@register_estimator("stage-swap")
class StageSwap(Estimator):
    """Trains the baseline, then each stage that differs from it alone, and adds up the costs.

    A swapped stage learns to reproduce the output of the parent's stage, then trains for rate and
    distortion through the rest of the parent, which stays fixed. A variant's cost is the sum of its
    swaps' differences from the parent's own stages, swapped and trained in the same way. So k
    options at s places need k s short trainings, however they are combined. Costs use estimated
    bits on the centre crop of each evaluation image.

    Attributes:
        match_steps: updates towards the parent's features; the entropy model, which has none, gets
            these as further ``steps``.
        steps: updates for rate and distortion.
        pairs: number of pairs of swaps to evaluate together, to check that costs add up.
        crop: side of the centre crop, in pixels.
    """

    type: str = "stage-swap"
    bias = (
        "imitates the parent's features, adds up the effects of single stages, and misses "
        "differences that take long to train"
    )
    over = "images"
    baseline_first = True

    match_steps: int = Field(default=100, ge=0, le=10**9)
    steps: int = Field(default=60, gt=0, le=10**9)
    pairs: int = Field(default=10, ge=0, le=10**4)
    crop: int = Field(default=256, gt=0, le=2**16)

    def check(self, base: VariantConfig, recipe: Recipe) -> None:
        """Refuse a base whose rates have separate weights: it would need several parents."""
        check_one_set_of_weights(self.type, base)

    def check_variant(self, base: VariantConfig, variant: VariantConfig) -> None:
        """Refuse a variant that differs in something outside the stages."""
        training.swaps_of(base, variant)

    def identity(self) -> dict[str, Any]:
        """Return all options but ``pairs``, which change no estimate."""
        return self.model_dump(mode="json", exclude={"pairs"})

    def run(self, task: Task, context: StudyContext, watch: Watch) -> Outcome:
        """Train the parent, or the stages in which a variant differs from it."""
        parent = context.baseline_task(task, self)
        costs = _SwapCosts(self, parent, task, context, watch)
        if task.directory != parent.directory:
            return Outcome(estimate=costs.estimate(), steps=self.match_steps + self.steps)
        outcome = context.trainer(task, watch)
        cost = costs.cost_of_parent()
        estimate = Estimate(log_cost=cost.log_cost, sd_percent=0)
        return outcome.model_copy(update={"estimate": estimate})

    def findings(self, trials: Path) -> list[str]:
        """Describe what swapping itself costs, and how well swaps add up."""
        sentences, ahead, pairs = list[str](), advantages(trials), checked_pairs(trials)
        if ahead:
            sentences.append(
                "The parent's own stages, retrained like the swaps, cost "
                f"{fmean(ahead.values()):+.2f} % on average relative to the parent "
                f"({', '.join(f'{place} {value:+.2f} %' for place, value in ahead.items())}); "
                "each swap is compared with the retrained stage in its place."
            )
        if pairs:
            gaps = [pair.together - pair.summed for pair in pairs]
            sentences.append(
                f"{len(pairs)} pair{'s' * (len(pairs) > 1)} of swaps, evaluated together, "
                f"{'differ' if len(pairs) > 1 else 'differs'} from the sum of the two by "
                f"{math.sqrt(fmean(gap**2 for gap in gaps)):.2f} % (root mean square; "
                f"{fmean(gaps):+.2f} % on average)."
            )
        return sentences


class _Cost(MiddleCost):
    """Cost of a codec with a swapped stage.

    Attributes:
        place: place of the swap.
        is_own: whether the stage was swapped for the parent's own.
    """

    place: str
    is_own: bool


class _SwapCosts:
    """Costs of the parent and of one variant's swaps, each measured once."""

    def __init__(
        self, options: StageSwap, parent: Task, task: Task, context: StudyContext, watch: Watch
    ) -> None:
        self.options, self.task, self.context, self.watch = options, task, context, watch
        self.identity, self.shared = parent.directory.name, parent.directory.parent
        self._weights = parent.directory / "model.safetensors"
        self.done = 0

    @property
    def parent(self) -> Codec:
        """The trained baseline.

        Raises:
            FileError: its weights are missing.
        """
        if not self._weights.exists():
            raise FileError(
                f"{self._weights}: the baseline's weights, which every swap needs, are missing. "
                "Restore them, or start over in another folder with --out."
            )
        return _loaded(str(self._weights), self._weights.stat().st_mtime_ns)

    def cost_of_parent(self) -> MiddleCost:
        """Return the parent's cost, measured once."""
        path = self.shared / f"parent-{self.identity}.json"
        if not path.exists():
            _write(path, self._measure(self.parent))
        return MiddleCost.model_validate_json(path.read_bytes())

    def estimate(self) -> Estimate:
        """Return the estimate of a variant, as the sum of its swaps."""
        swaps = training.swaps_of(self.parent.config, self.task.config)
        total, parts = self.cost_of_parent().log_cost, dict[str, float]()
        differences = np.zeros(len(self.context.data.evaluation))
        for swap in swaps:
            zero = self.cost(
                training.self_swap(swap, self.parent.config), 2 * len(swaps), is_own=True
            )
            option = self.cost(swap, 2 * len(swaps))
            difference = option.log_cost - zero.log_cost
            total, parts[swap.place] = total + difference, 100 * math.expm1(difference)
            differences += option.shares - zero.shares
        self._check_pairs(swaps)
        return Estimate(log_cost=total, sd_percent=sd_over_images(differences), parts=parts)

    def cost(self, swap: Swap, of: int, *, is_own: bool = False) -> _Cost:
        """Return a swap's cost, trained once for all variants that have it."""
        path = self._path("swap", swap)
        if not path.with_suffix(".json").exists():
            self._train(swap, path, of, is_own=is_own)
        self.done += 1
        return _Cost.model_validate_json(path.with_suffix(".json").read_bytes())

    def _train(self, swap: Swap, path: Path, of: int, *, is_own: bool) -> None:
        recipe, folder = self.task.recipe, self.task.directory / path.stem
        what = f"swap {self.done + 1} of {of}, {swap.place}"

        def on_progress(progress: TrainingProgress) -> None:
            self.watch.progress(recipe.steps * self.done // of, f"{what}: {progress.text}")

        codec = training.train_swap(
            self.parent,
            swap,
            recipe,
            self.context.data.crops(recipe),
            match_steps=self.options.match_steps,
            steps=self.options.steps,
            directory=folder,
            on_progress=on_progress,
        ).cpu()
        state = codec.state_dict()
        own = {n: v.contiguous() for n, v in state.items() if n.startswith(swap.trained)}
        training.Snapshot(own, {"place": swap.place, "codec": codec.config.fingerprint}).save(path)
        cost = self._measure(codec)
        found = _Cost(**cost.model_dump(), place=swap.place, is_own=is_own)
        _write(path.with_suffix(".json"), found)
        shutil.rmtree(folder, ignore_errors=True)  # only needed for resuming

    def _measure(self, codec: Codec) -> MiddleCost:
        images, lambdas = self.context.data.evaluation, self.task.recipe.lambdas
        return middle_cost(codec, images, lambdas, crop=self.options.crop)

    def _check_pairs(self, swaps: Sequence[Swap]) -> None:
        """Evaluate some of the variant's pairs together, until enough pairs are checked."""
        parent, zero = self.parent, self.cost_of_parent().log_cost
        pairs = [p for p in itertools.combinations(swaps, 2) if not _overlap(*p)]
        random.Random(self.task.config.fingerprint).shuffle(pairs)
        for pair in pairs[:_PAIRS_PER_VARIANT]:
            path = self._path("pair", *pair).with_suffix(".json")
            if path.exists() or len([*self.shared.glob("pair-*.json")]) >= self.options.pairs:
                continue
            paths = [self._path("swap", swap) for swap in pair]
            parts = [
                (s, training.Snapshot.load(p).tensors) for s, p in zip(pair, paths, strict=True)
            ]
            codec = training.splice(parent, training.combined(parent.config, pair), parts)
            single = [_Cost.model_validate_json(p.with_suffix(".json").read_bytes()) for p in paths]
            _write(
                path,
                PairCheck(
                    places=(pair[0].place, pair[1].place),
                    summed=100 * math.expm1(sum(each.log_cost - zero for each in single)),
                    together=100 * math.expm1(self._measure(codec).log_cost - zero),
                ),
            )

    def _path(self, kind: str, *swaps: Swap) -> Path:
        places = sorted(swap.name for swap in swaps)
        return self.shared / f"{kind}-{digest([self.identity, places])}.safetensors"


def checked_pairs(trials: Path) -> list[PairCheck]:
    """Return the pairs of swaps that a study has evaluated together.

    Args:
        trials: folder of the study's trials.
    """
    found = [PairCheck.model_validate_json(p.read_bytes()) for p in trials.glob("pair-*.json")]
    return sorted(found, key=lambda pair: pair.places)


def advantages(trials: Path) -> dict[str, float]:
    """Return how much the parent's own stages, trained like swaps, cost above the parent.

    Args:
        trials: folder of the study's trials.

    Returns:
        Percent by place: the zero that other options in the place are compared with.
    """
    parents = [MiddleCost.model_validate_json(p.read_bytes()) for p in trials.glob("parent-*.json")]
    swaps = [_Cost.model_validate_json(p.read_bytes()) for p in trials.glob("swap-*.json")]
    found: dict[str, list[float]] = {}
    for swap in (swap for swap in swaps if swap.is_own):
        found.setdefault(swap.place, []).append(swap.log_cost)
    zero = fmean(parent.log_cost for parent in parents) if parents else math.nan
    return {name: 100 * math.expm1(fmean(found[name]) - zero) for name in sorted(found)}


def _overlap(a: Swap, b: Swap) -> bool:
    """Return whether two swaps train the same weights."""
    return any(x.startswith(y) or y.startswith(x) for x in a.trained for y in b.trained)


def _write(path: Path, record: Frozen) -> None:
    write_atomically(path, record.model_dump_json(indent=2) + "\n")


@lru_cache(maxsize=1)
def _loaded(path: str, _: int) -> Codec:
    """Return the codec in a checkpoint, which is read again if it was rewritten."""
    return codecs.load_checkpoint(path)
