"""The base of every configuration and record: frozen, closed, comparable, described."""

from __future__ import annotations

import inspect
import re
from collections.abc import Mapping
from typing import Annotated, Any, Self

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    GetJsonSchemaHandler,
    ModelWrapValidatorHandler,
    ValidationError,
    model_validator,
)
from pydantic_core import CoreSchema

from tcm_lab._utils.display import rendered
from tcm_lab.errors import ConfigError, brief, validation_message

NONE_AS_WORD = BeforeValidator(lambda value: None if value == "none" else value)
"""Annotates an optional field that YAML may give as ``none``."""
ChannelCount = Annotated[int, Field(gt=0, le=2**16)]
"""A number of channels. No codec has more than the bound; a larger number is a typing mistake."""
LayerCount = Annotated[int, Field(ge=0, le=1000)]
"""Number of consecutive layers."""
Ratio = Annotated[float, Field(gt=0, le=1000)]
"""Width of an inner layer, relative to its input."""
RateLevels = Annotated[int, Field(ge=0, le=64)]
"""Number of rates that one set of weights covers; 0 is a single rate without conditioning."""


class Frozen(BaseModel):
    """A frozen pydantic model that refuses unknown fields.

    Its JSON schema describes each field by the ``Attributes:`` section of the docstring, which is
    parsed only when the schema is requested.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True)

    @model_validator(mode="wrap")
    @classmethod
    def _no_truth_as_number(cls, data: Any, handler: ModelWrapValidatorHandler[Self]) -> Self:
        model = handler(data)
        for name, value in data.items() if isinstance(data, Mapping) else ():
            parsed = getattr(model, name, value)
            if parsed is not value and _truths(value) != _truths(parsed):
                expected = "true or false" if _truths(parsed) else "a number"
                raise ValueError(f"{name} = {brief(repr(value))} must be {expected}")
        return model

    def _repr_html_(self) -> str | None:
        """Return the HTML table that a notebook shows, if the type has one."""
        return rendered(self, "html")

    def _repr_pretty_(self, printer: Any, cycle: bool) -> None:
        """Print a table in IPython's console, or the plain form if the type has none."""
        printer.text(rendered(self, "text") or repr(self))

    @classmethod
    def parse(cls, tree: Mapping[str, Any], where: str = "") -> Self:
        """Validate a tree of plain values.

        Raises:
            ConfigError: the message names the first field at fault, its value and the fix, and
                begins with ``where``.
        """
        try:
            return cls.model_validate(tree)
        except ValidationError as error:
            raise ConfigError(f"{where}{validation_message(error, cls, tree)}") from None

    @classmethod
    def __get_pydantic_json_schema__(
        cls, core_schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> dict[str, Any]:
        """Add the descriptions of the fields."""
        schema = handler(core_schema)
        properties = handler.resolve_ref_schema(schema).get("properties", {})
        for name, meaning in meanings_of(cls).items():
            if name in properties:
                properties[name].setdefault("description", meaning)
        return schema


def _truths(value: object) -> int:
    """Count the truth values in a field, or in its elements."""
    elements = value if isinstance(value, list | tuple) else (value,)
    return sum(isinstance(element, bool) for element in elements)


def meanings_of(model: type[BaseModel]) -> dict[str, str]:
    """Return each field's description from the ``Attributes:`` of a model and its bases."""
    meanings: dict[str, str] = {}
    for base in reversed(model.__mro__):
        meanings |= _own_meanings(base)
    return {name: text for name, text in meanings.items() if name in model.model_fields}


def _own_meanings(cls: type) -> dict[str, str]:
    _, heading, section = inspect.cleandoc(cls.__doc__ or "").partition("Attributes:\n")
    if not heading:
        return {}
    section = re.split(r"\n(?=\S)", section)[0]
    entries = re.findall(r"^ {4}(\w+): (.*(?:\n {6,}.*)*)", section, re.MULTILINE)
    return {name: re.sub(r"\s+", " ", text).strip().replace("``", "") for name, text in entries}
