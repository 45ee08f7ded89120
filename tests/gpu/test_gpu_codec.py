"""A codec is the same codec on a GPU: its latents, images, bytes, and what analyses find."""

from __future__ import annotations

import copy
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

import tcm_lab
from tcm_lab._utils.devices import Precision, arithmetic
from tcm_lab.analysis import effective_receptive_field, measure_attention, measure_latents
from tcm_lab.data import ImageSet, open_images
from tcm_lab.evaluation import evaluate

FAMILIES = ("tcm-nano", "tcm-auxt-nano", "dcae-nano", "hpcm-nano", "mlicpp-nano")


@pytest.fixture(scope="module")
def image() -> Tensor:
    """The middle of an embedded photograph, (1, 3, 192, 160) in [0, 1]."""
    pixels = open_images(None, "eval").decode(0)[160:352, 160:320]
    return torch.from_numpy(pixels.copy()).permute(2, 0, 1).float().div(255)[None]


@pytest.fixture
def images(tmp_path: Path, image: Tensor) -> ImageSet:
    pixels = image[0].mul(255).round().byte().permute(1, 2, 0).numpy()
    Image.fromarray(pixels).save(tmp_path / "middle.png")
    return open_images(tmp_path, "eval")


def both(name: str, device: torch.device) -> tuple[Any, Any]:
    """Return a codec on the CPU and on the device, in evaluation mode."""
    here = tcm_lab.build(name, seed=0).eval()
    here.update(force=True)
    return here, copy.deepcopy(here).to(device)


@torch.no_grad()
@pytest.mark.parametrize("name", FAMILIES)
def test_every_family_computes_the_cpus_numbers(
    name: str, device: torch.device, image: Tensor
) -> None:
    here, there = both(name, device)
    x = here.pad(image) if hasattr(here, "pad") else image
    with arithmetic("float32", device):
        y, y_there = here.g_a(x), there.g_a(x.to(device))
        torch.testing.assert_close(y_there.cpu(), y, rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(there.g_s(y_there).cpu(), here.g_s(y), rtol=1e-4, atol=1e-4)
        ours, theirs = here(x), there(x.to(device))
    # A latent that lies between two steps may be rounded to the other one.
    differ = (theirs["x_hat"].cpu() - ours["x_hat"]).abs() > 1e-4
    assert differ.float().mean() < 1e-3
    for key, likelihoods in ours["likelihoods"].items():
        bits, bits_there = (
            -v.double().log2().sum().item() for v in (likelihoods, theirs["likelihoods"][key])
        )
        assert bits_there == pytest.approx(bits, rel=1e-3, abs=1)


@torch.no_grad()
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("name", FAMILIES)
def test_every_family_decodes_what_it_encodes_and_the_other_device_decodes_its_portable_files(
    name: str, precision: Precision, device: torch.device, image: Tensor
) -> None:
    here, there = both(name, device)
    how = {"rate": 0.0} if here.config.rate_levels else {}
    x = image.to(device)
    with arithmetic(precision, device):
        coded = there.compress(x, **how)
        decoded = there.decompress(**coded)["x_hat"]
        assert decoded.shape == x.shape
        assert there.compress(x, **how)["strings"] == coded["strings"]
        shown = there(x, **how)["x_hat"].clamp(0, 1)
        torch.testing.assert_close(decoded.float(), shown.float(), rtol=0, atol=1e-4)
        portable = there.compress(x, **how, portable=True)
    with arithmetic("float32", device):
        across = here.decompress(**portable)["x_hat"]
        torch.testing.assert_close(
            there.decompress(**portable)["x_hat"].cpu(), across, rtol=0, atol=1e-4
        )
        there.decompress(**here.compress(image, **how, portable=True))


@pytest.mark.parametrize(
    ("precision", "rate", "psnr_db"), [("tf32", 0.01, 0.02), ("bfloat16", 0.02, 0.1)]
)
def test_what_fewer_bits_cost_in_rate_and_quality_is_bounded(
    precision: Precision, rate: float, psnr_db: float, device: torch.device, images: ImageSet
) -> None:
    if precision == "tf32" and device.type != "cuda":
        pytest.skip("TF32 is a GPU's arithmetic")
    codec = tcm_lab.load_checkpoint("tcm-nano").to(device)
    exact, fewer = (evaluate(codec, images, precision=p) for p in ("float32", precision))
    assert fewer.precision == precision
    np.testing.assert_allclose(fewer.bpp, exact.bpp, rtol=rate)
    np.testing.assert_allclose(fewer.psnr_db, exact.psnr_db, atol=psnr_db)


def test_an_evaluation_is_the_cpus(device: torch.device, images: ImageSet) -> None:
    here = tcm_lab.load_checkpoint("tcm-nano")
    ours, theirs = evaluate(here, images), evaluate(copy.deepcopy(here).to(device), images)
    np.testing.assert_allclose(theirs.bpp, ours.bpp, rtol=1e-3)
    np.testing.assert_allclose(theirs.psnr_db, ours.psnr_db, atol=0.005)
    if device.type == "cuda":
        assert theirs.environment.device == torch.cuda.get_device_name(device)


def test_analyses_find_the_same(device: torch.device, images: ImageSet) -> None:
    here = tcm_lab.load_checkpoint("tcm-nano")
    there = copy.deepcopy(here).to(device)
    with arithmetic("float32", device):
        field, field_there = (effective_receptive_field(c, images, side=128) for c in (here, there))
        peak = float(np.max(field.scores))
        np.testing.assert_allclose(field_there.scores, field.scores, rtol=1e-3, atol=1e-4 * peak)
        for measure in (measure_attention, measure_latents):
            found = [measure(c, images).model_dump() for c in (here, there)]
            ours, theirs = map(_numbers, found)
            np.testing.assert_allclose(theirs, ours, rtol=1e-2, atol=1e-3)
    # A value at the border of two bins may lie in either, and a bin of the tail holds few. Of a
    # normal distribution, σ off by 1 % moves 2.4 of a thousand values across a border.
    counts, counts_there = (np.array(each["errors"]["histogram"]) for each in found)
    moved = np.abs(np.cumsum(counts_there - counts))
    assert moved[-1] == 0
    assert moved.max() <= 2e-3 * counts.sum()


def _numbers(tree: Any) -> list[float]:
    """Return every number of a record, in order, but for a histogram's counts."""
    if isinstance(tree, dict):
        tree = [value for key, value in tree.items() if key not in ("environment", "histogram")]
    if isinstance(tree, (list, tuple)):
        return [number for each in tree for number in _numbers(each)]
    return [float(tree)] if isinstance(tree, (int, float)) else []


COMPILED = """
import sys
import torch
import tcm_lab
from tcm_lab._utils.devices import arithmetic

device, backend = torch.device(sys.argv[1]), sys.argv[2]
codec = tcm_lab.load_checkpoint("tcm-nano").to(device)
x = torch.rand(1, 3, 128, 192, generator=torch.Generator().manual_seed(0)).to(device)
with torch.no_grad(), arithmetic("float32", device):
    plain = codec.compress(x, rate=1.0)
    expected = codec.decompress(**plain)["x_hat"]
    for stage in (codec.g_a, codec.h_a, codec.h_s, codec.g_s, *codec.slices):
        stage.forward = torch.compile(stage.forward, backend=backend)
    for _ in range(3):  # the first ones compile and capture
        coded = codec.compress(x, rate=1.0)
        decoded = codec.decompress(**coded)["x_hat"]
    sizes = [sum(len(s) for part in c["strings"] for s in part) for c in (plain, coded)]
    print(((decoded - expected).abs() > 1e-4).float().mean().item(), *sizes)
"""


@pytest.mark.parametrize("backend", ["eager", "cudagraphs", "inductor"])
def test_compiled_and_captured_networks_code_the_same(backend: str, device: torch.device) -> None:
    if device.type != "cuda" and backend != "eager":
        pytest.skip("is tried on a GPU")
    # In a process of its own: the checks of shapes under test cannot be compiled.
    run = subprocess.run(
        [sys.executable, "-c", COMPILED, str(device), backend],
        capture_output=True, text=True, timeout=600, check=False,
    )  # fmt: skip
    assert run.returncode == 0, run.stderr[-2000:]
    differ, plain, compiled = map(float, run.stdout.split())
    # Other kernels round the last bit otherwise, and so a latent that lies between two steps.
    assert differ < 0.01
    assert compiled == pytest.approx(plain, rel=0.01)
