"""The reference: every field of a user's files is in it, with its type, range and meaning."""

from __future__ import annotations

import re
import subprocess
import sys
from html import unescape
from pathlib import Path
from typing import Annotated, Literal
from urllib.parse import unquote

import pytest
from fields import field_table
from pydantic import Field
from reference import (
    MODULES,
    PACKAGES,
    commands_page,
    configuration_page,
    configuration_tables,
    interface_page,
    overview_page,
)

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
    names = [name for registry in (BLOCKS, ATTENTIONS, RESAMPLERS) for name in registry]
    for name in (*names, *VariantConfig.model_fields):
        assert re.search(rf"\| {re.escape(name)} +\|", page), name


def test_every_package_and_every_public_module_is_in_the_reference() -> None:
    package = ROOT / "tcm_lab"
    packages = {path.parent.name for path in package.glob("*/__init__.py")}
    assert set(PACKAGES) == {name for name in packages if not name.startswith("_")} - {"cli"}
    assert set(MODULES) == {path.stem for path in package.glob("[a-z]*.py")}


def test_every_command_shows_its_help() -> None:
    page = commands_page()
    assert page.count("\nusage: tcm-lab ") == page.count("\n## tcm-lab ") > 20
    assert "\x1b" not in page


def test_every_exported_name_leads_to_its_page() -> None:
    page = overview_page()
    for name in set(tcm_lab.__all__) - {*PACKAGES, *MODULES}:
        (part,) = re.findall(rf"py:obj}}`{name} <tcm_lab\.(\w+)\.{name}>", page)
        assert f":: tcm_lab.{part}.{name}\n" in interface_page(part)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The whole site, built without a warning."""
    pytest.importorskip("furo", reason="the docs extra is not installed")
    out = tmp_path_factory.mktemp("site")
    command = [sys.executable, "tests/docs/build.py", str(out)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    return out


def test_every_link_of_the_site_leads_to_a_file_and_a_place_in_it(site: Path) -> None:
    pages = {page: page.read_text(encoding="utf-8") for page in site.rglob("*.html")}
    assert len(pages) > 40
    ids = {page: set(re.findall(r'\bid="([^"]+)"', text)) for page, text in pages.items()}
    for page, text in pages.items():
        for link in re.findall(r'(?:href|src)="([^"]+)"', text):
            file, _, place = unescape(unquote(link)).partition("#")
            if re.match(r"https?:|data:|mailto:", file):
                continue
            target = (page.parent / file.partition("?")[0]).resolve() if file else page
            assert target.exists(), f"{page.name}: {link}"
            if place and target in ids:
                assert place in ids[target], f"{page.name}: {link}"


def test_the_site_needs_no_network(site: Path) -> None:
    """Nothing but links that a reader follows leads away: search and style work from a folder."""
    for page in site.rglob("*.html"):
        loaded = re.findall(
            r'<(?:script|link|img)\b[^>]*?(?:src|href)="(https?:[^"]+)"', page.read_text()
        )
        assert loaded == [], page
    index = (site / "searchindex.js").read_text(encoding="utf-8")
    assert "lagrangian" in index
