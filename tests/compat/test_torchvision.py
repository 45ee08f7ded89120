"""torchvision is importable beside a torch that its extension was not built for."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch

from tcm_lab._compat import torchvision as compat


def _run(program: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)


def test_the_workaround_is_still_needed_where_it_acts() -> None:
    if not compat.make_torchvision_importable():
        pytest.skip("torchvision's extension can be loaded here, so that nothing is declared")
    done = _run("import torchvision")
    # If this fails, torchvision no longer needs its extension: delete _compat/torchvision.py.
    assert "operator torchvision::nms does not exist" in done.stderr


def test_an_import_of_torchvision_that_failed_before_us_succeeds_after_us() -> None:
    program = (
        "try:\n    import torchvision\nexcept RuntimeError: pass\n"
        "from tcm_lab._compat.torchvision import import_compressai\n"
        "import_compressai()\n"
        "import compressai.models, torchvision.transforms, torchvision.models\n"
    )
    done = _run(program)
    assert done.returncode == 0, done.stderr


def test_operators_that_are_there_already_are_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compat, "_declared", lambda name: True)
    assert compat.make_torchvision_importable.__wrapped__() == ()


def test_a_declared_operator_has_no_implementation() -> None:
    if not compat.make_torchvision_importable():
        pytest.skip("torchvision's extension can be loaded here, so that nothing is declared")
    with pytest.raises(NotImplementedError):
        torch.ops.torchvision.nms(torch.rand(1, 4), torch.rand(1), 0.5)
