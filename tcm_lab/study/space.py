"""Search spaces, read from YAML and validated against their fields and their base."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from importlib import resources
from pathlib import Path
from typing import Annotated, Literal, TypeAlias

from pydantic import (
    AfterValidator,
    ConfigDict,
    Field,
    ValidationError,
    ValidationInfo,
    WithJsonSchema,
    field_validator,
    model_validator,
)

from tcm_lab._utils import Frozen
from tcm_lab._utils.files import is_file
from tcm_lab._utils.plugins import import_layers
from tcm_lab._utils.yaml import parse_yaml, read_text, to_yaml
from tcm_lab.codec import VariantConfig, load_config
from tcm_lab.errors import ConfigError, LabError, at, brief, near, one_of, validation_message
from tcm_lab.metrics import ESTIMATED, METRICS, Metric
from tcm_lab.study.alone import include_base, options_alone
from tcm_lab.study.axes import Axis, Key, show
from tcm_lab.study.estimators import AnyEstimator, Train
from tcm_lab.training import Recipe, check_cca, get_recipe


def _known(name: str) -> str:
    return METRICS[name].name  # raises for an unknown name


def _known_before_training(name: str) -> str:
    if METRICS[name].needs_training:
        raise ConfigError(f"{name} is known only after training; bound it by soft_constraints")
    return name


def _completed(names: Iterable[str]) -> WithJsonSchema:
    """Return a schema that makes editors offer these names, and accept a user's own."""
    return WithJsonSchema({"anyOf": [{"enum": list(names)}, {"type": "string"}]})


_COSTS = [name for name, metric in METRICS.items() if not metric.needs_training]
MetricName: TypeAlias = Annotated[str, AfterValidator(_known), _completed(METRICS)]
"""A registered metric."""
CostName: TypeAlias = Annotated[str, AfterValidator(_known_before_training), _completed(_COSTS)]
"""A registered metric that is known before training."""

_SET_APART = {
    "name": "the recipe's own; write another recipe",
    "steps": "budget.steps",
    "seed": "the space's own field; write seed next to axes, and seeds under budget",
}

_Count = Annotated[int, Field(gt=0, le=10**9)]
_Side = Annotated[int, Field(gt=0, le=2**16)]
_Positive = Annotated[float, Field(gt=0, le=1e15)]
_Bounded = Annotated[float, Field(ge=-1e15, le=1e15)]


class Budget(Frozen):
    """The training budget of a study."""

    model_config = ConfigDict(use_attribute_docstrings=True)

    recipe: str = "minute"
    """Name of the training recipe of every variant."""
    steps: _Count | None = None
    """Steps of each training, instead of the recipe's."""
    changes: dict[str, bool | int | float | str | tuple[float, ...]] = Field(default_factory=dict)
    """Other fields of the recipe to change, such as ``{crop: 128, batch: 4}``."""
    rate_levels: Annotated[int, Field(ge=0, le=64)] = 4
    """Number of rates that one training learns and one evaluation measures. 0 trains separate
    weights for each of the recipe's ``lambdas``, as most papers do; their points form one curve."""
    trials: _Count | None = None
    """Number of variants to train, including the baseline. Leave it out for a grid or an ablation,
    which train every variant."""
    seeds: Annotated[int, Field(gt=0, le=1000)] = 1
    """Number of trainings of each variant on the front (in an ablation, of each variant)."""
    resolution: _Positive | None = None
    """Difference in percent of Lagrangian cost that the study must resolve, in place of ``seeds``.
    The number of seeds follows from the measured noise of the recipe (and so does the number of
    steps, if noise was measured at several and ``steps`` is left out)."""
    finalists: Annotated[int, Field(ge=0, le=10_000)] = 0
    """Number of best variants to train with this recipe, and ``seeds`` seeds each, after a search
    by an estimator other than ``train``. The baseline is trained, too."""
    rungs: tuple[Annotated[float, Field(gt=0, lt=1)], ...] = ()
    """Shares of the steps after which a variant is stopped if another one dominates it by more
    than ``margin_percent``; the baseline is never stopped."""
    margin_percent: _Positive = 5.0
    """Margin at a rung, in percent of Lagrangian cost."""

    @field_validator("recipe")
    @classmethod
    def _is_known(cls, recipe: str) -> str:
        get_recipe(recipe)
        return recipe

    @field_validator("rungs")
    @classmethod
    def _ascend(cls, rungs: tuple[float, ...]) -> tuple[float, ...]:
        if list(rungs) != sorted(set(rungs)):
            raise ConfigError(f"{list(rungs)} must ascend, such as [0.25, 0.5]")
        return rungs

    @field_validator("rate_levels")
    @classmethod
    def _is_none_or_several(cls, levels: int) -> int:
        if levels == 1:
            raise ConfigError("1: give 2 or more, or 0 for separate weights for each lambda")
        return levels

    @model_validator(mode="after")
    def _has_a_recipe(self) -> Budget:
        if self.resolution is not None and "seeds" in self.model_fields_set:
            raise ConfigError(f"resolution = {self.resolution:g} determines seeds; leave one out")
        for name in _SET_APART.keys() & self.changes:
            raise ConfigError(f"changes.{name}: is {_SET_APART[name]}")
        try:
            recipe = self.recipe_for(seed=0)
        except ConfigError as error:
            raise ConfigError(f"changes: {error}") from None
        if not self.rate_levels and not recipe.lambdas:
            raise ConfigError(
                "rate_levels = 0: trains weights for each lambda, but the recipe names none; set "
                "them, such as changes: {lambdas: [0.002, 0.004, 0.008, 0.016]}"
            )
        if self.rungs and not self.rate_levels:
            raise ConfigError("rungs: need a training that learns all rates; set rate_levels")
        if self.rungs and recipe.schedule == "constant":
            shortest = round(self.rungs[0] * recipe.steps / 10) * 10
            if not recipe.changed(steps=max(shortest, 1)).cooldown_begins:
                raise ConfigError(
                    f"rungs: {shortest} steps are too few to end with a cooldown over "
                    f"{recipe.cooldown:g} of them; give later rungs or more steps"
                )
        return self

    def recipe_for(self, seed: int) -> Recipe:
        """Return the recipe of a training with this seed."""
        recipe = get_recipe(self.recipe, **self.changes)
        recipe = recipe.spread(self.rate_levels) if self.rate_levels else recipe
        return recipe.changed(seed=seed, steps=self.steps or recipe.steps)


class Space(Frozen):
    """A search space: the variants of a base, the metrics to judge them by, bounds and budget."""

    model_config = ConfigDict(
        use_attribute_docstrings=True, validate_by_name=True, serialize_by_alias=True
    )

    imports: tuple[str, ...] = Field(default=(), alias="import")
    """Modules that register layers or metrics of your own: ``.py`` files, or dotted names."""
    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")]
    """Name of the study; its files go to ``runs/<name>`` by default."""
    title: str = ""
    """Title of the report, in one line."""
    base: str
    """Preset or YAML configuration to vary; unchanged, it is the baseline."""
    mode: Literal["search", "ablation"] = "search"
    """``search`` combines the axes; ``ablation`` changes one at a time from the baseline."""
    axes: Annotated[dict[str, Axis], Field(min_length=1)]
    """Axes by name; a plain list is a categorical axis whose name is its path."""
    objectives: Annotated[tuple[MetricName, ...], Field(min_length=1)] = (
        "lagrangian_percent",
        "kmacs_per_px",
    )
    """Metrics to optimise together, each in its own direction."""
    constraints: dict[CostName, _Positive] = Field(default_factory=dict)
    """Bounds on metrics that are known before training; a variant that violates one is skipped. A
    bound is the largest value allowed, or the smallest for a metric to be maximised."""
    soft_constraints: dict[MetricName, _Bounded] = Field(default_factory=dict)
    """Bounds on any metrics; a variant that violates one is trained and reported to the sampler,
    but never on the front."""
    sampler: Literal["grid", "random", "tpe", "gp", "nsga2"] = "tpe"
    """Sampler that proposes variants; ``grid`` proposes all of them."""
    estimator: AnyEstimator = Train()
    """Estimator of each variant's Lagrangian cost: ``train``, or something cheaper, by name or with
    options (``{type: paired-loss, steps: 60}``)."""
    budget: Budget = Budget()
    """Recipe, steps, trials and seeds."""
    size: tuple[_Side, _Side] = (512, 768)
    """Size (height, width) of the image for which complexity is counted."""
    seed: Annotated[int, Field(ge=0, le=2**31)] = 0
    """Seed from which every random choice follows."""

    @field_validator("imports")
    @classmethod
    def _are_imported(cls, sources: tuple[str, ...], info: ValidationInfo) -> tuple[str, ...]:
        """Import the modules first, since later fields may need what they register."""
        folder: Path | None = (info.context or {}).get("folder")
        modules = tuple(find_in(folder, source) for source in sources)
        import_layers(modules)
        return modules

    @field_validator("base")
    @classmethod
    def _is_found(cls, base: str, info: ValidationInfo) -> str:
        return find_in((info.context or {}).get("folder"), base)

    @model_validator(mode="after")
    def _is_sound(self) -> Space:
        if len(set(self.objectives)) < len(self.objectives):
            raise ConfigError(f"objectives = {list(self.objectives)}: contains a duplicate")
        names = list(self.axes)
        for place, (name, axis) in enumerate(self.axes.items()):
            for other in axis.when:
                if other not in names[:place]:
                    raise ConfigError(
                        f"axes.{name}.when: no axis '{other}' before this one."
                        f"{near(other, names[:place])} Write the axis that decides first."
                    )
        if not self.enumerated and self.budget.trials is None:
            raise ConfigError(
                f"budget.trials is missing: sampler {self.sampler} needs to know how many variants "
                "to train; give a number, or sampler: grid"
            )
        if self.enumerated and self.budget.trials is not None:
            raise ConfigError(
                f"budget.trials = {self.budget.trials}: a grid trains every variant; "
                "leave trials out, or choose another sampler"
            )
        for name, axis in self.axes.items() if self.enumerated else ():
            try:
                axis.grid()
            except ConfigError as error:
                raise ConfigError(f"axes.{name}: {error}") from None
        return self

    @property
    def enumerated(self) -> bool:
        """Whether every variant is known in advance."""
        return self.sampler == "grid" or self.mode == "ablation"

    @property
    def trains_every_seed(self) -> bool:
        """Whether each variant is trained with every seed, not only the best ones."""
        return self.mode == "ablation" and not self.budget.finalists

    @property
    def quality(self) -> Metric:
        """The first objective that is known only after training, or else the Lagrangian cost."""
        trained = (METRICS[name] for name in self.objectives if METRICS[name].needs_training)
        return next(trained, METRICS[ESTIMATED])

    @property
    def requested(self) -> tuple[str, ...]:
        """The space's metrics that an evaluation measures only on request."""
        judged = dict.fromkeys([*self.objectives, *self.constraints, *self.soft_constraints])
        return tuple(name for name in judged if METRICS[name].on_request)

    def rung_steps(self, recipe: Recipe) -> tuple[int, ...]:
        """Return the steps after which a variant may be stopped; trainings report every ten."""
        at = sorted({round(share * recipe.steps / 10) * 10 for share in self.budget.rungs})
        return tuple(step for step in at if 0 < step < recipe.steps)

    @property
    def baseline(self) -> VariantConfig:
        """The base with the study's number of rate levels."""
        return load_config(self.base).override({"rate_levels": self.budget.rate_levels})

    def to_yaml(self) -> str:
        """Return the space as the text of a file that ``load_space`` reads."""
        tree = self.model_dump(mode="json", exclude_defaults=True)
        if "estimator" in tree:
            tree["estimator"] = {"type": self.estimator.type, **tree["estimator"]}
        return to_yaml(tree)

    def label(self, params: Mapping[str, Key]) -> str:
        """Return the label, in tables, of the variant with these keys."""
        return ", ".join(self.axes[name].label(name, key) for name, key in params.items())

    def place(self, params: Mapping[str, Key]) -> tuple[int, ...]:
        """Return the position of keys in the grid, axis by axis; () if no grid is searched."""
        if self.sampler != "grid" or self.mode == "ablation":
            return ()
        known = ((self.axes[name], key) for name, key in params.items() if name in self.axes)
        return tuple(axis.grid().index(key) for axis, key in known)

    def cells(self, params: Mapping[str, Key]) -> dict[str, str]:
        """Return the value of every axis as text for tables; a dash if the axis doesn't act."""
        return {name: show(params[name]) if name in params else "\N{EN DASH}" for name in self.axes}

    def encode(self, params: Mapping[str, Key]) -> dict[str, Key]:
        """Return keys in the form used by the sampler and the database."""
        return {name: self.axes[name].encode(key) for name, key in params.items()}


def load_space(source: str | Path) -> Space:
    """Read a search space.

    Args:
        source: a YAML file; if it does not exist, ``configs/<name>.yaml`` means the packaged one.

    Raises:
        ConfigError: the message names the file, the field, its value and the fix.
    """
    path = Path(source)
    if is_file(path):
        return parse_space(read_text(path, str(path)), str(path), path.parent)
    packaged = resources.files("tcm_lab") / "configs"
    if path.parent in (Path("configs"), Path()) and (packaged / path.name).is_file():
        return parse_space((packaged / path.name).read_text(encoding="utf-8"), str(path), None)
    names = packaged_spaces()
    raise ConfigError(
        f"{path}: no such file.{near(str(path), names)} Packaged spaces: {one_of(names)}."
    )


def packaged_spaces() -> list[str]:
    """Return the packaged spaces, as ``--space`` accepts them."""
    folder = resources.files("tcm_lab") / "configs"
    return sorted(f"configs/{f.name}" for f in folder.iterdir() if f.name.endswith(".yaml"))


def parse_space(text: str, origin: str, folder: Path | None) -> Space:
    """Validate a space's YAML against its fields and against its base.

    Args:
        text: YAML text.
        origin: name of the text in messages.
        folder: where to look for a base and imports that are files.

    Raises:
        ConfigError: as ``load_space``.
    """
    tree = parse_yaml(text, origin)
    try:
        space = Space.model_validate(tree, context={"folder": folder})
        at("budget", check_cca, space.budget.recipe_for(space.seed), space.baseline)
        space = space.model_copy(update={"axes": include_base(space.axes, space.baseline)})
        check_estimator(space)
        return space
    except ValidationError as error:
        raise ConfigError(f"{origin}: {validation_message(error, Space, tree)}") from None
    except LabError as error:
        raise ConfigError(f"{origin}: {error}") from None


def check_estimator(space: Space) -> None:
    """Refuse a space that asks for more than its estimator gives or can work with.

    Raises:
        ConfigError: the message names the field or the axis, its value and what would work.
    """
    estimator, budget, base = space.estimator, space.budget, space.baseline
    if estimator == Train():
        if budget.finalists:
            raise ConfigError(
                f"budget.finalists = {budget.finalists}: estimator train trains every variant; "
                "leave it out, or choose another estimator"
            )
        return
    for field in ("objectives", "soft_constraints"):
        for name in getattr(space, field):
            evaluated = name == ESTIMATED or estimator.type == "train"
            if METRICS[name].needs_training and not evaluated:
                raise ConfigError(
                    f"{field}: estimator {estimator.type} estimates {ESTIMATED}, not {name}; use "
                    f"{ESTIMATED}, or estimator: train"
                )
    if budget.rungs and not estimator.trains:
        raise ConfigError(f"budget.rungs: estimator {estimator.type} has no rungs; leave them out")
    estimator.check(base, budget.recipe_for(space.seed))
    for name, key, config in options_alone(space.axes, base):
        try:
            estimator.check_variant(base, config)
        except ConfigError as error:
            what = f"axes.{name}: value {brief(show(key))}: estimator {estimator.type}"
            raise ConfigError(f"{what}: {error}") from None


def find_in(folder: Path | None, name: str) -> str:
    """Return the path of a file in ``folder``, or ``name`` unchanged if there is no such file."""
    return str(folder / name) if folder is not None and is_file(folder / name) else name
