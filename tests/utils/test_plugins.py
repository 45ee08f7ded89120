"""Layers of the user's own reach the registries by a file, a module or an installed plugin."""

from __future__ import annotations

import pickle
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tcm_lab._utils import plugins
from tcm_lab.blocks import BLOCKS
from tcm_lab.cli import main
from tcm_lab.codec import build, load_checkpoint, load_config, save_checkpoint
from tcm_lab.errors import LabError

LAYER = """
from torch import nn
from tcm_lab.blocks import register_block
@register_block("{name}")
class Lens(nn.Identity):
    def __init__(self, channels: int) -> None:
        super().__init__()
"""


@pytest.fixture(autouse=True)
def _as_before(monkeypatch: pytest.MonkeyPatch, own_layers: None) -> Iterator[None]:
    """Forget what a test imports."""
    del own_layers
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.setattr(plugins, "_imported", [])
    modules = set(sys.modules)
    yield
    for name in set(sys.modules) - modules:
        if "lens" in name:
            del sys.modules[name]


def test_a_file_is_imported_once_and_recorded(tmp_path: Path) -> None:
    path = tmp_path / "lens_file.py"
    path.write_text(LAYER.format(name="lens"))
    plugins.import_layers([path, str(path)])
    assert "lens" in BLOCKS
    assert plugins.imported_layers() == (str(path),)
    assert (
        pickle.loads(pickle.dumps(sys.modules["lens_file"].Lens)) is sys.modules["lens_file"].Lens
    )


def test_a_module_is_imported_by_its_dotted_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "lenses").mkdir()
    (tmp_path / "lenses" / "wide.py").write_text(LAYER.format(name="wide-lens"))
    monkeypatch.syspath_prepend(tmp_path)
    plugins.import_layers(["lenses.wide"])
    assert "wide-lens" in BLOCKS


def test_what_cannot_be_imported_is_named(tmp_path: Path) -> None:
    with pytest.raises(LabError, match=r"nowhere\.py: no such file"):
        plugins.import_layers([tmp_path / "nowhere.py"])
    with pytest.raises(LabError, match=r"no_such_lens\.wide: no such module"):
        plugins.import_layers(["no_such_lens.wide"])
    for mistyped in ("./lens", "../lens", "", "lens.", ".lens"):
        with pytest.raises(LabError, match=r"no such module\. Give the path of a \.py file"):
            plugins.import_layers([mistyped])
    dotted = tmp_path / "lens.v2.py"
    dotted.touch()
    with pytest.raises(LabError, match=r"lens\.v2\.py: .* must not contain a dot"):
        plugins.import_layers([dotted])
    taken = tmp_path / "json.py"
    taken.touch()
    with pytest.raises(LabError, match=r"'json' belongs to .*rename your file"):
        plugins.import_layers([taken])


def test_a_mistake_inside_the_users_file_keeps_its_traceback(tmp_path: Path) -> None:
    path = tmp_path / "lens_broken.py"
    path.write_text("import no_such_lens_maker")
    with pytest.raises(ModuleNotFoundError, match="no_such_lens_maker"):
        plugins.import_layers([path])


def test_an_installed_plugin_is_there_and_a_broken_one_is_a_warning(tmp_path: Path) -> None:
    (tmp_path / "lens_plugin.py").write_text(LAYER.format(name="plugin-lens"))
    metadata = tmp_path / "lens-1.0.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: lens\nVersion: 1.0\n")
    (metadata / "entry_points.txt").write_text(
        f"[{plugins.ENTRY_POINTS}]\nlens = lens_plugin\nbroken = no_such_plugin\n"
    )
    program = (
        f"import sys; sys.path.insert(0, {str(tmp_path)!r})\n"
        "from tcm_lab.blocks import BLOCKS; print('plugin-lens' in BLOCKS)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.stdout == "True\n", done.stderr
    assert "plugin 'broken' (no_such_plugin) could not be imported" in done.stderr


def test_a_checkpoint_names_the_modules_that_its_layers_came_from(tmp_path: Path) -> None:
    path, weights = tmp_path / "lens_layers.py", tmp_path / "lens.safetensors"
    path.write_text(LAYER.format(name="lens"))
    plugins.import_layers([path])
    config = load_config("tcm-nano").override({"g_a.stages.0.block": "lens"})
    save_checkpoint(build(config), weights)
    assert load_checkpoint(weights).config == config
    BLOCKS.unregister("lens")
    plugins._imported.clear()
    with pytest.raises(LabError, match=f"lens.*saved with --import {re.escape(str(path))}"):
        load_checkpoint(weights)


def test_a_layer_of_the_users_own_reaches_a_command(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "lens_command.py"
    path.write_text(LAYER.format(name="lens"))
    assert main(["blocks", "--import", str(path), "--format", "csv"]) == 0
    assert "lens" in capsys.readouterr().out
