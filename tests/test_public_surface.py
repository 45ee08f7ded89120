"""The names that other tools rely on, as their documentation shows them."""

from importlib import import_module
from pathlib import Path

import pytest
import torch

import tcm_lab

DOCUMENTED = (
    "list_models",
    "load_config",
    "build",
    "load_checkpoint",
    "measure_complexity",
    "measure_timing",
    "RdCurve",
    "bd_rate",
    "effective_receptive_field",
    "register_block",
)


@pytest.mark.parametrize("name", DOCUMENTED)
def test_a_documented_name_is_there(name: str) -> None:
    assert callable(getattr(tcm_lab, name))
    assert name in tcm_lab.__all__
    assert name in dir(tcm_lab)


def test_every_exported_name_is_there_and_says_what_it_is() -> None:
    for name in tcm_lab.__all__:
        assert getattr(tcm_lab, name).__doc__, name


def test_every_package_exports_what_it_lists() -> None:
    package = Path(tcm_lab.__file__).parent
    for path in sorted(package.iterdir()):
        if not path.name.startswith("_") and (path / "__init__.py").exists():
            exporting = import_module(f"tcm_lab.{path.name}")
            assert [name for name in exporting.__all__ if not hasattr(exporting, name)] == []


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="bulid"):
        _ = tcm_lab.bulid


def test_models_are_listed_by_pattern() -> None:
    names = tcm_lab.list_models("tcm-*")
    assert {"tcm-small", "tcm-medium", "tcm-large", "tcm-nano"} <= set(names)
    assert all(name.startswith("tcm-") for name in names)
    assert "compressai/mbt2018" in tcm_lab.list_models()


def test_a_codec_is_a_compressai_model_and_does_what_the_documentation_shows() -> None:
    config = tcm_lab.load_config("tcm-nano").override({"g_a.split": 0.25})
    codec = tcm_lab.build(config).eval()
    from compressai.models import CompressionModel  # importable once a codec has been

    assert isinstance(codec, CompressionModel)
    x = torch.rand(1, 3, 17, 33)
    with torch.no_grad():
        out = codec(x)
    assert set(out) == {"x_hat", "likelihoods"}
    assert set(out["likelihoods"]) == {"y", "z"}
    assert all((value > 0).all() and (value <= 1).all() for value in out["likelihoods"].values())
    coded = codec.compress(x)
    assert all(isinstance(string, bytes) for strings in coded["strings"] for string in strings)
    decoded = codec.decompress(**coded)["x_hat"]
    torch.testing.assert_close(decoded, out["x_hat"].clamp(0, 1), rtol=0, atol=1e-4)


def test_training_noise_and_rounding_are_both_differentiable() -> None:
    codec = tcm_lab.build("tcm-nano").train()
    x = torch.rand(1, 3, 16, 16, requires_grad=True)
    out = codec(x)
    bits = sum(-value.log2().sum() for value in out["likelihoods"].values())
    (gradient,) = torch.autograd.grad(bits + out["x_hat"].sum(), x)
    assert torch.isfinite(gradient).all()
    assert gradient.abs().max() > 0
