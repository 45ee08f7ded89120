"""The reference: every field of a user's files is in it, with its type, range and meaning."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Annotated, Literal

import pytest
from fields import field_table
from pydantic import Field
from reference import PACKAGES, configuration_page, configuration_tables

import tcm_lab
from tcm_lab._utils.models import Frozen, meanings_of
from tcm_lab.blocks import ATTENTIONS, BLOCKS, RESAMPLERS
from tcm_lab.codec import VariantConfig
from tcm_lab.reporting.table import Table

ROOT = Path(__file__).parents[2]


class Lens(Frozen):
    """A thing with one field of each sort.

    Attributes:
        focus: from here to
            there.
        mode: how.
        blades: how many; one number,
            or one for each ring.
        names: by colour.
    """

    focus: Annotated[float, Field(gt=0, le=1)]
    mode: Literal["near", "far"] = "near"
    blades: Annotated[int, Field(ge=2)] | tuple[int, ...] | None = None
    names: dict[str, bool] = Field(default_factory=dict)
    kind: Literal["lens"] = "lens"


def test_a_field_has_its_type_range_default_and_meaning() -> None:
    rows = [tuple(row.values.values()) for row in field_table(Lens, "Lens").rows]
    assert rows == [
        ("focus", "number > 0, ≤ 1", "required", "from here to there."),
        ("mode", "near | far", "near", "how."),
        (
            "blades",
            "integer ≥ 2 or list of integer or none",
            "none",
            "how many; one number, or one for each ring.",
        ),
        ("names", "mapping of names to true or false", "empty", "by colour."),
    ]


def _tables() -> list[Table]:
    return [
        table
        for tables in configuration_tables().values()
        for table in tables
        if table.columns[0].key == "field"
    ]


@pytest.mark.parametrize("table", _tables(), ids=lambda table: table.title)
def test_every_field_of_every_file_says_what_it_means(table: Table) -> None:
    assert table.rows
    for row in table.rows:
        assert row.values["meaning"], row.values["field"]
        assert "anything" not in str(row.values["type"]), row.values["field"]


def test_every_meaning_belongs_to_a_field() -> None:
    models = [VariantConfig]
    models += [registry[name] for registry in (BLOCKS, ATTENTIONS, RESAMPLERS) for name in registry]
    for model in models:
        assert set(meanings_of(model)) <= set(model.model_fields), model


def test_every_layer_and_every_field_of_a_variant_is_on_the_page() -> None:
    page = configuration_page()
    for registry in (BLOCKS, ATTENTIONS, RESAMPLERS):
        for name in registry:
            assert f">{name}<" in page
    for field in VariantConfig.model_fields:
        assert f">{field}<" in page


def test_every_package_is_in_the_reference() -> None:
    package = ROOT / "tcm_lab"
    packages = {path.parent.name for path in package.glob("*/__init__.py")}
    assert set(PACKAGES) == {name for name in packages if not name.startswith("_")} - {"cli"}


def test_the_reference_is_written_without_a_warning_and_shows_every_public_name(
    tmp_path: Path,
) -> None:
    command = [sys.executable, "tests/docs/reference.py", str(tmp_path)]
    subprocess.run(command, check=True, capture_output=True, cwd=ROOT)
    start = (tmp_path / "index.html").read_text(encoding="utf-8")
    for target in re.findall(r'href="([^"]+)"', start):
        assert (tmp_path / target).stat().st_size > 1000
    page = (tmp_path / "tcm_lab.html").read_text(encoding="utf-8")
    for name in set(tcm_lab.__all__) - {*PACKAGES, "testing"}:
        assert f'<section id="{name}">' in page
