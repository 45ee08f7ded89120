"""A search space as a YAML file says it: validated against its base, field by field."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from importlib import resources
from pathlib import Path
from typing import Annotated, Literal, TypeAlias

import yaml
from pydantic import (
    AfterValidator,
    Field,
    PositiveFloat,
    PositiveInt,
    ValidationError,
    WithJsonSchema,
    field_validator,
)
from pydantic import model_validator as validator

from tcm_lab._utils import Frozen
from tcm_lab.codec import VariantConfig, load_config
from tcm_lab.errors import ConfigError, LabError, near, one_of
from tcm_lab.metrics import METRICS
from tcm_lab.study.axes import Axis
from tcm_lab.training import Recipe, get_recipe


def _known(name: str) -> str:
    return METRICS[name].name  # raises for an unknown one


def _known_before_training(name: str) -> str:
    if METRICS[name].needs_training:
        raise ConfigError(f"{name} is known only after training; bound it by soft_constraints")
    return name


def _completed(names: Iterable[str]) -> WithJsonSchema:
    """Return a schema by which editors offer these names, and accept a user's own."""
    return WithJsonSchema({"anyOf": [{"enum": list(names)}, {"type": "string"}]})


_COSTS = [name for name, metric in METRICS.items() if not metric.needs_training]
MetricName: TypeAlias = Annotated[str, AfterValidator(_known), _completed(METRICS)]
"""A registered metric."""
CostName: TypeAlias = Annotated[str, AfterValidator(_known_before_training), _completed(_COSTS)]
"""A registered metric that is known before training."""
SamplerName: TypeAlias = Literal["grid", "random", "tpe", "gp", "nsga2"]

SCHEMA_FILE = "space.schema.json"


_SET_APART = {
    "name": "the recipe's; write another recipe",
    "steps": "budget.steps",
    "seed": "the space's own field; write seed beside axes, and seeds under budget",
}


class Budget(Frozen):
    """What a study may spend.

    Attributes:
        recipe: the named training recipe of every variant.
        steps: steps of each training, instead of the recipe's.
        changes: other fields of the recipe that differ, such as ``{crop: 128, batch: 4}``.
        rate_levels: rates that one training learns, and one evaluation measures.
        trials: variants to train, the baseline among them; a grid or an ablation has its own
            number and takes none.
        seeds: trainings of each variant on the front (of each variant, in an ablation).
        rungs: shares of the steps after which a variant that another one dominates by more than
            ``margin_percent`` is given up; the baseline never is.
        margin_percent: by how much, in percent of Lagrangian cost.
    """

    recipe: str = "laptop"
    steps: PositiveInt | None = None
    changes: dict[str, bool | int | float | str | tuple[float, ...]] = Field(default_factory=dict)
    rate_levels: Annotated[int, Field(ge=2)] = 4
    trials: PositiveInt | None = None
    seeds: PositiveInt = 1
    rungs: tuple[Annotated[float, Field(gt=0, lt=1)], ...] = ()
    margin_percent: PositiveFloat = 5.0

    @field_validator("recipe")
    @classmethod
    def _is_known(cls, recipe: str) -> str:
        get_recipe(recipe)
        return recipe

    @field_validator("rungs")
    @classmethod
    def _ascend(cls, rungs: tuple[float, ...]) -> tuple[float, ...]:
        if list(rungs) != sorted(set(rungs)):
            raise ConfigError(f"rungs = {list(rungs)} must ascend, such as [0.25, 0.5]")
        return rungs

    @validator(mode="after")
    def _has_a_recipe(self) -> Budget:
        for name in _SET_APART.keys() & self.changes:
            raise ConfigError(f"changes.{name}: is {_SET_APART[name]}")
        try:
            self.recipe_for(seed=0)
        except ConfigError as error:
            raise ConfigError(f"changes: {error}") from None
        return self

    def recipe_for(self, seed: int) -> Recipe:
        """Return the recipe of one training."""
        recipe = get_recipe(self.recipe, **self.changes).spread(self.rate_levels)
        return recipe.changed(seed=seed, steps=self.steps or recipe.steps)


class Space(Frozen):
    """Which variants of which base, judged by what, within which bounds and budget.

    Attributes:
        name: of the study; its files go to ``runs/<name>`` unless told otherwise.
        title: one line for the report.
        base: a preset or a YAML configuration; as it is, it is the baseline.
        mode: ``search`` combines the axes; ``ablation`` changes one at a time from the baseline.
        axes: by name; a plain list is a categorical axis whose name is its path.
        objectives: metrics to optimise together, each in its own direction.
        constraints: bounds of metrics that are known before training: a variant that violates one
            is never trained. A bound is the largest value allowed, or the smallest for a metric
            that is to be maximised.
        soft_constraints: bounds of any metrics: a variant that violates one is trained, stands on
            no front, and the sampler learns of it.
        sampler: who proposes variants; ``grid`` takes them all.
        budget: recipe, steps, seeds, trials.
        size: (height, width) of the image that is counted.
        seed: root of every random choice.
    """

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")]
    title: str = ""
    base: str
    mode: Literal["search", "ablation"] = "search"
    axes: Annotated[dict[str, Axis], Field(min_length=1)]
    objectives: Annotated[tuple[MetricName, ...], Field(min_length=1)] = (
        "lagrangian_percent",
        "kmacs_per_px",
    )
    constraints: dict[CostName, PositiveFloat] = Field(default_factory=dict)
    soft_constraints: dict[MetricName, float] = Field(default_factory=dict)
    sampler: SamplerName = "tpe"
    budget: Budget = Budget()
    size: tuple[PositiveInt, PositiveInt] = (512, 768)
    seed: Annotated[int, Field(ge=0)] = 0

    @validator(mode="after")
    def _is_sound(self) -> Space:
        if len(set(self.objectives)) < len(self.objectives):
            raise ConfigError(f"objectives = {list(self.objectives)}: one stands there twice")
        seen: list[str] = []
        for name, axis in self.axes.items():
            unknown = [other for other in axis.when if other not in seen]
            if unknown:
                raise ConfigError(
                    f"axes.{name}.when: no axis '{unknown[0]}' stands before it."
                    f"{near(unknown[0], seen)} Write the axis that decides first."
                )
            seen.append(name)
        if self.enumerated:
            if self.budget.trials is not None:
                raise ConfigError(
                    f"budget.trials = {self.budget.trials}: a grid trains every variant; "
                    "leave trials out, or choose another sampler"
                )
            for name, axis in self.axes.items():
                try:
                    axis.grid()
                except ConfigError as error:
                    raise ConfigError(f"axes.{name}: {error}") from None
        elif self.budget.trials is None:
            raise ConfigError(
                f"budget.trials is missing: sampler {self.sampler} needs to know how many variants "
                "to train; give a number, or sampler: grid"
            )
        return self

    @property
    def enumerated(self) -> bool:
        """Whether every variant is known beforehand."""
        return self.sampler == "grid" or self.mode == "ablation"

    @property
    def rung_steps(self) -> tuple[int, ...]:
        """Steps after which a variant may be given up; a training reports every ten."""
        steps = self.budget.recipe_for(self.seed).steps
        at = sorted({round(share * steps / 10) * 10 for share in self.budget.rungs})
        return tuple(step for step in at if 0 < step < steps)

    def to_yaml(self) -> str:
        """Return the space as a file that ``load_space`` reads."""
        tree = self.model_dump(mode="json", exclude_defaults=True)
        text: str = yaml.safe_dump(tree, sort_keys=False, width=100, default_flow_style=None)
        return text

    def baseline(self) -> VariantConfig:
        """Return the base, conditioned on as many rates as the study measures."""
        return load_config(self.base).override({"rate_levels": self.budget.rate_levels})


def load_space(source: str | Path) -> Space:
    """Read a search space.

    Args:
        source: a YAML file; where there is none by that name, ``configs/<name>.yaml`` means the
            packaged one.

    Raises:
        ConfigError: the message names the file, the field, its value and the fix.
    """
    path = Path(source)
    if path.is_file():
        try:
            return parse_space(path.read_text(encoding="utf-8"), str(path), path.parent)
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(f"{path}: cannot be read as text ({error})") from None
    packaged = resources.files("tcm_lab") / "configs"
    if path.parent in (Path("configs"), Path()) and (packaged / path.name).is_file():
        return parse_space((packaged / path.name).read_text(encoding="utf-8"), str(path), None)
    names = packaged_spaces()
    raise ConfigError(
        f"{path}: no such file.{near(str(path), names)} "
        f"Packaged spaces: {one_of(names)}; or name a file of your own."
    )


def packaged_spaces() -> list[str]:
    """Return the packaged spaces, as ``--space`` takes them."""
    folder = resources.files("tcm_lab") / "configs"
    return sorted(f"configs/{f.name}" for f in folder.iterdir() if f.name.endswith(".yaml"))


def parse_space(text: str, origin: str, folder: Path | None) -> Space:
    """Validate a space's YAML against its fields and against its base.

    Args:
        text: YAML.
        origin: what messages call it.
        folder: where a base that is a file is looked for.

    Raises:
        ConfigError: as ``load_space``.
    """
    from tcm_lab.study.variants import fit_to_base

    try:
        tree = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ConfigError(f"{origin}: is not YAML ({_where(error)}). Mend that line.") from None
    if not isinstance(tree, Mapping):
        what = "is empty" if tree is None else f"holds a {type(tree).__name__}"
        raise ConfigError(f"{origin}: {what}, not a mapping of fields such as 'base' and 'axes'.")
    try:
        space = Space.model_validate(dict(tree))
        beside = None if folder is None else folder / space.base
        if beside is not None and beside.is_file():
            space = space.model_copy(update={"base": str(beside)})
        return fit_to_base(space)
    except ValidationError as error:
        raise ConfigError(f"{origin}: {_say(error)}") from None
    except LabError as error:
        raise ConfigError(f"{origin}: {error}") from None


def space_schema() -> str:
    """Return the JSON Schema of a space file, by which editors complete and check it."""
    schema = Space.model_json_schema()
    axis = schema["properties"]["axes"]["additionalProperties"]
    schema["properties"]["axes"]["additionalProperties"] = {
        "anyOf": [{"type": "array", "minItems": 1, "description": "choices"}, axis]
    }
    schema = {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema}
    return json.dumps(schema, indent=2, ensure_ascii=False) + "\n"


def _where(error: yaml.YAMLError) -> str:
    mark = getattr(error, "problem_mark", None)
    problem = getattr(error, "problem", None) or str(error).splitlines()[0]
    return problem if mark is None else f"line {mark.line + 1}: {problem}"


def _say(error: ValidationError) -> str:
    """Say the first validation error in one line: field, value and what would work."""
    first = error.errors()[0]
    loc = [
        str(part)
        for part in first["loc"]
        if not str(part).startswith(("function-", "constrained", "literal", "tuple", "nullable"))
        and str(part) != "[key]"
    ]
    path, message = ".".join(loc), first["msg"].removeprefix("Value error, ")
    if first["type"] == "extra_forbidden":
        fields = _fields_at(loc[:-1])
        return f"unknown field '{path}'.{near(loc[-1], fields)} Known: {one_of(fields)}."
    if first["type"] == "missing":
        return f"'{path}' is missing."
    if first["type"] == "value_error":
        return f"{path}: {message}" if path else message
    if first["type"] == "literal_error":
        expected = first.get("ctx", {}).get("expected", "").replace("'", "")
        known = expected.replace(" or ", ", ").split(", ")
        given = first["input"]
        return f"{path} = {given!r} is unknown.{near(str(given), known)} Write {expected}."
    return f"{path} = {first['input']!r}: {message}."


def _fields_at(place: list[str]) -> list[str]:
    model: type[Frozen] = Space
    if place:
        model = Budget if place[0] == "budget" else Axis
    return list(model.model_fields)
