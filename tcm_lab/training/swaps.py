"""The swaps that turn one codec into another, place by place."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

from tcm_lab.codec import VariantConfig, transform_plan
from tcm_lab.codec.config import TransformPlan
from tcm_lab.errors import ConfigError

_FIXED = ("latent_channels", "rate_levels", "shortcut")


class Span(NamedTuple):
    """Consecutive stages of one transform, or all of it if ``last`` is None."""

    transform: str
    first: int
    last: int | None

    @property
    def stages(self) -> range:
        """The stages' numbers; empty for a whole transform."""
        return range(0) if self.last is None else range(self.first, self.last + 1)


@dataclass(frozen=True)
class Swap:
    """One option at one place.

    Attributes:
        place: path of the place, such as ``g_a.stages.1`` or ``entropy_model``.
        config: the parent's configuration with the option at this place.
        fresh: name prefixes of the weights that start untrained.
        trained: name prefixes of the weights to train.
        spans: stages whose outputs are imitated; none for the entropy model, which outputs a rate.
    """

    place: str
    config: VariantConfig
    fresh: tuple[str, ...]
    trained: tuple[str, ...]
    spans: tuple[Span, ...] = ()

    @property
    def name(self) -> str:
        """Name in messages and of folders."""
        return f"{self.place} {self.config.fingerprint}"


def swaps_of(parent: VariantConfig, variant: VariantConfig) -> tuple[Swap, ...]:
    """Return the swaps that turn the parent into a variant, place by place.

    Neighbouring stages are one place if the number of channels between them differs.

    Raises:
        ConfigError: the two differ in something that no swap can change.
    """
    for field in _FIXED:
        ours, theirs = getattr(parent, field), getattr(variant, field)
        if ours != theirs:
            raise ConfigError(
                f"{field} = {theirs!r}: the parent has {ours!r}, and none of its stages would fit; "
                "leave the axis out, or take another estimator"
            )
    if parent.stride != variant.stride:
        raise ConfigError(
            f"strides of {variant.stride}: the parent has {parent.stride}, and none of its "
            "features would fit; leave the axis out, or take another estimator"
        )
    swaps = [*_of_transform("g_a", parent, variant), *_of_transform("g_s", parent, variant)]
    if parent.hyper_channels != variant.hyper_channels:
        swaps.append(_of_hyperprior(parent, variant))
    else:
        swaps += [*_of_transform("h_a", parent, variant), *_of_transform("h_s", parent, variant)]
    channels = parent.latent_channels
    if parent.entropy_model.canonical(channels) != variant.entropy_model.canonical(channels):
        swaps.append(_of_entropy_model(parent, variant))
    return tuple(swaps)


def self_swap(swap: Swap, parent: VariantConfig) -> Swap:
    """Return the swap at the same place that keeps the parent's own option and trains it again."""
    theirs, ours = (f"{c.entropy_model.module_name}." for c in (swap.config, parent))

    def renamed(names: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(ours if name == theirs else name for name in names)

    fresh, trained = renamed(swap.fresh), renamed(swap.trained)
    return replace(swap, config=parent, fresh=fresh, trained=trained)


def combined(parent: VariantConfig, swaps: Sequence[Swap]) -> VariantConfig:
    """Return the parent's configuration with the options of several swaps at different places."""
    before = parent.model_dump(mode="json")
    tree = parent.model_dump(mode="json")
    for swap in swaps:
        after = swap.config.model_dump(mode="json")
        stages = {i for span in swap.spans for i in span.stages}
        for name in before.keys() - {"name"}:
            if before[name] == after[name]:
                continue
            if not stages:
                tree[name] = after[name]
            for i in stages:
                tree[name]["stages"][i] = after[name]["stages"][i]
    places = " ".join(swap.place for swap in swaps)
    return VariantConfig.parse(tree | {"name": f"{parent.name} {places}"})


def _changed(parent: VariantConfig, place: str, **fields: Any) -> VariantConfig:
    tree = parent.model_dump(mode="json") | fields
    return VariantConfig.parse(tree | {"name": f"{parent.name} {place}"})


def _of_transform(name: str, parent: VariantConfig, variant: VariantConfig) -> list[Swap]:
    """Return the swaps of a transform's stages, or of all of it if stages don't correspond."""
    before, after = getattr(parent, name), getattr(variant, name)
    if before == after:
        return []
    plans = {path: p for path, p in transform_plan(parent).items() if path.split(".")[0] == name}
    copies, plan = list(plans), next(iter(plans.values()))
    spans = _segments(plan, plan._replace(config=after))
    if spans is None:
        config = _changed(parent, name, **{name: after.model_dump(mode="json")})
        whole = tuple(Span(path, 0, None) for path in copies)
        return [Swap(name, config, (f"{name}.",), (f"{name}.",), whole)]
    swaps = []
    for first, last in spans:
        stages = [
            (after if first <= i <= last else before).stages[i] for i in range(len(before.stages))
        ]
        tree = {"stages": [stage.model_dump(mode="json") for stage in stages]}
        stage = str(first) if first == last else f"{first}-{last}"
        place = f"{name}.stages.{stage}"
        config = _changed(parent, place, **{name: tree})
        names = tuple(f"{path}.stages.{i}." for path in copies for i in range(first, last + 1))
        parts = tuple(Span(path, first, last) for path in copies)
        swaps.append(Swap(place, config, names, names, parts))
    return swaps


def _segments(before: TransformPlan, after: TransformPlan) -> list[tuple[int, int]] | None:
    """Return the first and last stage of each run that differs but ends with the same channels.

    None means that the stages don't correspond one to one.
    """
    pairs = list(zip(before.stages(), after.stages(), strict=False))
    counts = len(before.config.stages), len(after.config.stages)
    widths_differ = any(a[2] != b[2] for a, b in pairs)
    factors_differ = any(a[0].resample.factor != b[0].resample.factor for a, b in pairs)
    path_differs = before.shortcut == "wavelet" and widths_differ
    if counts[0] != counts[1] or factors_differ or path_differs:
        return None
    runs, first, differs = [], 0, False
    for i, (a, b) in enumerate(pairs):
        differs |= a[0] != b[0]
        if a[2] == b[2]:
            if differs:
                runs.append((first, i))
            first, differs = i + 1, False
    return runs


def _of_hyperprior(parent: VariantConfig, variant: VariantConfig) -> Swap:
    names = ("hyper_channels", "h_a", "h_s")
    tree = variant.model_dump(mode="json")
    config = _changed(parent, "hyperprior", **{name: tree[name] for name in names})
    fresh = ("h_a.", "h_s.", "entropy_bottleneck.", "z_gains.")
    return Swap("hyperprior", config, fresh, (*fresh, f"{parent.entropy_model.module_name}."))


def _of_entropy_model(parent: VariantConfig, variant: VariantConfig) -> Swap:
    ours, theirs = parent.entropy_model, variant.entropy_model
    for field in ("normalised", "scale_table"):
        if getattr(ours, field) != getattr(theirs, field):
            raise ConfigError(
                f"entropy_model.{field} = {getattr(theirs, field)!r}: the parent has "
                f"{getattr(ours, field)!r}, and its synthesis expects that; leave the axis out, or "
                "take another estimator"
            )
    entropy = theirs.model_dump(mode="json")
    config = _changed(parent, "entropy_model", entropy_model=entropy)
    module = (f"{theirs.module_name}.",)
    fresh = module if ours.prior == theirs.prior else (*module, "entropy_bottleneck.")
    return Swap("entropy_model", config, fresh, (*fresh, "h_s."))
