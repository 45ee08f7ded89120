"""The linear shortcut's share, where it is known beforehand."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

import tcm_lab
from tcm_lab.analysis import measure_shortcut
from tcm_lab.cli import main
from tcm_lab.errors import LabError


@pytest.fixture
def codec() -> Any:
    return tcm_lab.build("tcm-nano", {"shortcut": "patch"}).eval()


def silenced(module: torch.nn.Module) -> None:
    for parameter in module.parameters():
        torch.nn.init.zeros_(parameter)


@torch.no_grad()
def test_a_transform_whose_stages_are_silent_is_its_shortcut(codec: Any) -> None:
    silenced(codec.g_a.stages[-1])
    record = measure_shortcut(codec, torch.rand(2, 3, 64, 64))
    assert record.latent == pytest.approx((1.0, 1.0))
    assert record.image != pytest.approx((1.0, 1.0))


@torch.no_grad()
def test_a_silent_shortcut_has_no_share(codec: Any) -> None:
    silenced(codec.g_s.shortcut)
    assert measure_shortcut(codec, torch.rand(1, 3, 64, 64)).image == (0.0,)


@torch.no_grad()
def test_shares_are_numpy_s_covariances(codec: Any) -> None:
    import numpy as np

    x = torch.rand(1, 3, 64, 64)
    ours = measure_shortcut(codec, x).latent[0]
    part, whole = (f(x).double().flatten(2)[0].numpy() for f in (codec.g_a.shortcut, codec.g_a))
    shared = sum(np.cov(p, w)[0, 1] for p, w in zip(part, whole, strict=True))
    assert ours == pytest.approx(shared / sum(np.var(w, ddof=1) for w in whole), rel=1e-4)


def test_a_codec_without_a_shortcut_is_refused() -> None:
    codec = tcm_lab.build("tcm-nano", {"shortcut": "none"})
    refusal = "no end-to-end linear shortcut; shortcut: staged gives it one"
    with pytest.raises(LabError, match=refusal):
        measure_shortcut(codec, torch.rand(1, 3, 64, 64))


def test_the_command_prints_a_table_and_writes_records(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["--max-images", "1", "--format", "csv", "--out", str(tmp_path)]
    assert main(["analyze", "shortcut", "tcm-nano", *arguments]) == 0
    assert "tcm-nano" in capsys.readouterr().out
    (record,) = json.loads((tmp_path / "tcm-nano.json").read_text())
    assert record["images"] == ["astronaut.png"]
