import math
import signal
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from stand_in import RandomCrops
from torch import Tensor

from tcm_lab.codec import Codec, build
from tcm_lab.data import CropSource, open_images
from tcm_lab.errors import LabError
from tcm_lab.evaluation import evaluate_crops, lagrangian_cost
from tcm_lab.training import Recipe, TrainingRecord, train
from tcm_lab.training.components import as_rows, components
from tcm_lab.training.linear_start import (
    linear_view,
    start_entropy_model,
    start_linear,
    zero_branches,
)
from tcm_lab.training.optimizers import make_optimizers
from tcm_lab.training.trainer import begin

RECIPE = Recipe(
    steps=2, batch=2, crop=64, lr=1e-9, start="linear", shortcut_lr=0.0, aux_lr=1e-9, warmup=0
)
FITTED = RECIPE.changed(lr=1e-3, shortcut_lr=None)
LINEAR = {"shortcut": "staged", "entropy_model.normalised": True, "rate_levels": 3}
SMALL = {**LINEAR, "?_?.depth": 1, "entropy_model.slices": 2}


@cache
def photographs() -> CropSource:
    """Return one source for all tests, since its dead leaves take seconds to paint."""
    return CropSource(open_images(None, "train"), crop=64, seed=0)


def seen(crops: CropSource) -> Tensor:
    """Return the crops that a start sees."""
    return torch.cat([crops.batch(step, 8) for step in range(8)])


def started(changes: dict[str, object], preset: str = "tcm-nano", **recipe: object) -> Codec:
    codec = build(preset, {**LINEAR, **changes})
    train(codec, RECIPE.changed(**recipe), photographs(), accelerator="cpu")
    return codec


@pytest.mark.parametrize("shortcut", ["none", "staged"])
def test_images_of_a_single_colour_are_refused(tmp_path: Path, shortcut: str) -> None:
    Image.new("RGB", (64, 64), (77, 130, 9)).save(tmp_path / "flat.png")
    crops = CropSource(open_images(tmp_path, "train"), crop=64, seed=0)
    codec = build("tcm-nano", {**SMALL, "shortcut": shortcut})
    with pytest.raises(LabError, match="64 crops of the same single colour"):
        train(codec, RECIPE, crops, accelerator="cpu")


class Whole(RandomCrops):
    """Cuts its crops to whole patches of 16x16."""

    def batch(self, step: int, batch_size: int, rank: int = 0, world: int = 1) -> Tensor:
        whole = self.side // 16 * 16
        return super().batch(step, batch_size, rank, world)[..., :whole, :whole]


@pytest.mark.parametrize("shortcut", ["none", "staged", "wavelet"])
@pytest.mark.parametrize("start", ["linear", "calibrate"])
def test_a_start_sees_the_whole_patches_of_crops_of_any_size(shortcut: str, start: str) -> None:
    recipe = RECIPE.changed(start=start, lambdas=(0.01, 0.02, 0.04))
    states = []
    for crops in (RandomCrops(40), Whole(40)):
        codec = build("tcm-nano", {**SMALL, "shortcut": shortcut})
        begin(codec, recipe, crops, accelerator="cpu")
        states.append(codec.state_dict())
    assert all(torch.equal(value, states[1][name]) for name, value in states[0].items())
    with pytest.raises(LabError, match="crops of 8x8: a start needs at least the 16x16 pixels"):
        begin(codec, recipe, RandomCrops(8), accelerator="cpu")


def test_a_start_for_ms_ssim_takes_the_step_of_the_same_quality_of_squared_error() -> None:
    # CompressAI's λ of its qualities 1, 3 and 6, by which its models were trained to either metric.
    lambdas = {"mse": (0.0018, 0.0067, 0.0483), "ms-ssim": (2.4, 8.73, 60.5)}
    steps = []
    for metric, values in lambdas.items():
        recipe = RECIPE.changed(metric=metric, lambdas=values, crop=192)
        codec = build("tcm-nano", SMALL)
        steps.append(start_linear(codec, recipe, RandomCrops(64), lambda *_: None, None).step)
    assert steps[1] == pytest.approx(steps[0], rel=0.02)
    # High rate: bits fall by log2(step), the error of three colours rises by step^2 / 12 each.
    middle = math.sqrt(0.0018 * 0.0483)
    assert steps[0] == pytest.approx(math.sqrt(18 / (255**2 * math.log(2) * middle)), rel=1e-6)


def centred(x: Tensor) -> "np.ndarray[tuple[int, int], np.dtype[np.float64]]":
    """Return patches of 16x16 pixels as rows, by numpy, minus their colours' and pixels' means."""
    patches = x.unfold(2, 16, 16).unfold(3, 16, 16).permute(0, 2, 3, 1, 4, 5).numpy()
    rows = patches.reshape(-1, 3, 256).astype(np.float64)
    rows = (rows - x.mean((0, 2, 3)).numpy()[:, None]).reshape(-1, 768)
    centred: np.ndarray[tuple[int, int], np.dtype[np.float64]] = rows - rows.mean(0)
    return centred


@pytest.mark.parametrize("shortcut", ["patch", "staged"])
def test_the_start_is_the_principal_components_of_the_patches(shortcut: str) -> None:
    codec = build("tcm-nano", {**LINEAR, "shortcut": shortcut})
    crops = photographs()
    record = train(codec, RECIPE, crops, accelerator="cpu")
    x = seen(crops)
    with torch.no_grad():
        y = codec.g_a(x)
        assert codec.y_unit is not None
        x_hat = codec.g_s(y / codec.y_unit[:, None, None])
    # The same by numpy: singular values of the centred patches, and what 64 of them keep.
    rows = centred(x)
    energy = np.linalg.svd(rows, compute_uv=False) ** 2
    floor = -10 * math.log10(energy[64:].sum() / rows.size)
    assert record.start is not None
    assert record.start.floor_psnr_db == pytest.approx(floor, abs=0.01)
    assert record.start.kept == pytest.approx(energy[:64].sum() / energy.sum(), abs=1e-4)
    psnr = -10 * math.log10((x_hat - x).square().mean().item())
    assert psnr == pytest.approx(floor, abs=0.05)
    variances = y.var((0, 2, 3), unbiased=False).numpy() * record.start.step**2
    assert np.allclose(np.sort(variances)[::-1], energy[:64] / len(rows), rtol=2e-3)
    assert record.start.deviation < 1e-3


def test_the_shortcuts_between_stages_start_as_components_of_their_inputs() -> None:
    codec = started({"shortcut": "staged"})
    x = seen(photographs())[:16]
    cells = x.unfold(2, 2, 2).unfold(3, 2, 2).permute(0, 2, 3, 1, 4, 5).reshape(-1, 12).numpy()
    expected = np.linalg.eigvalsh(np.cov(cells.T, bias=True))[::-1]
    with torch.no_grad():
        first = codec.g_a.stages[0].shortcut(x)
        second = codec.g_a.stages[1].shortcut(first)
    for output in (first, second):
        covariance = np.cov(as_rows(output).double().numpy().T, bias=True)
        off_diagonal = covariance - np.diag(np.diag(covariance))
        assert np.abs(off_diagonal).max() < 1e-3 * covariance.max()
    found = np.diag(np.cov(as_rows(first).double().numpy().T, bias=True))
    assert np.allclose(found[:12], expected / expected.mean(), rtol=1e-3)
    assert not found[12:].any()


_DICTIONARY = {"type": "dictionary", "slices": 2, "width": 32, "entries": 8}


@pytest.mark.parametrize(
    ("preset", "changes", "refines"),
    [
        ("tcm-nano", {}, True),
        ("tcm-nano", {"entropy_model": {**_DICTIONARY, "lrp": True}}, True),
        ("tcm-nano", {"entropy_model": {**_DICTIONARY, "lrp": False}}, False),
        ("hpcm-nano", {}, False),
        ("mlicpp-nano", {}, True),
    ],
    ids=str,
)
def test_no_entropy_model_refines_the_latent_at_first(
    preset: str, changes: dict[str, object], refines: bool
) -> None:
    codec = build(preset, {"rate_levels": 3, **changes}).eval()
    codec.g_a.register_forward_hook(lambda *args: 200 * args[2])  # rounding errors of all sizes
    taken: list[Tensor] = []
    codec.g_s.register_forward_pre_hook(lambda _, args: taken.append(args[0]))
    x = photographs().batch(0, 2)
    errors = []
    with torch.no_grad():
        for start in (lambda _: None, zero_branches):
            start(codec)
            y = codec.g_a(x)
            codec(x, rate=1.0)  # gains are 1 before training
            errors.append((taken.pop() - y).abs().max().item())
    assert 0.45 < errors[1] < 0.501
    assert (errors[0] > 0.501) == refines


def test_a_hierarchical_model_begins_with_the_hyper_synthesis_at_the_statistics() -> None:
    codec = build("tcm-nano", {"entropy_model": {"type": "hierarchical", "head_dim": 16}})
    y = 5 * torch.randn(2, codec.config.latent_channels, 8, 8) + 3
    start_entropy_model(codec, y)
    with torch.no_grad():
        (hyper,) = codec.h_s(torch.zeros(1, codec.config.hyper_channels, 2, 2))
    scale, mean = hyper.mean((0, 2, 3)).chunk(2)
    assert torch.allclose(scale, 0.7 * y.std((0, 2, 3)), atol=0.3)
    assert torch.allclose(mean, y.mean((0, 2, 3)), atol=0.3)


def test_a_wavelet_path_starts_as_orthonormal_components_of_its_subbands() -> None:
    codec = build("tcm-nano", {**LINEAR, "shortcut": "wavelet"})
    crops = photographs()
    record = train(codec, RECIPE, crops, accelerator="cpu")
    assert record.start is not None
    down, up = codec.g_a.wavelet, codec.g_s.wavelet
    assert all(step.orthogonality() < 1e-6 for step in (*down, *list(up)[1:]))
    x = seen(crops)
    with torch.no_grad():
        y = codec.g_a(x)
        x_hat = codec.g_s(y / codec.y_unit[:, None, None])
    psnr = -10 * math.log10((x_hat - x).square().mean().item())
    assert psnr == pytest.approx(record.start.floor_psnr_db, abs=0.05)
    # The components of whole patches are the best; those of subbands step by step come close.
    rows = as_rows(F.pixel_unshuffle(x, 16))
    best = -10 * math.log10(components(rows, 64)[1][64:].sum().item() / rows.shape[1])
    assert best - 2 < psnr < best
    # What the first step takes, by averages and differences alone.
    cells = x.unfold(2, 2, 2).unfold(3, 2, 2).flatten(4).double()
    signs = torch.tensor([[1, 1, 1, 1], [1, 1, -1, -1], [1, -1, 1, -1], [1, -1, -1, 1]])
    bands = torch.einsum("bchwk,sk->bhwsc", cells, signs.double() / 2).flatten(0, 2).flatten(1)
    variances = np.linalg.eigvalsh(np.cov(bands.T.numpy(), bias=True))[::-1]
    with torch.no_grad():
        taken = down[0](x).double().var((0, 2, 3), unbiased=False)[:12].numpy()
    assert np.allclose(taken, variances, rtol=1e-3, atol=1e-7)


@pytest.mark.parametrize(
    "changes",
    [
        {"g_*.block": "convnext"},
        {"g_*.block": "large-kernel"},
        {"g_*.block": "swin", "g_*.head_dim": 8},
        {"g_*.block": "residual-bottleneck"},
        {"g_*.block": "tcm-sequential", "g_*.head_dim": 8},
        {"g_*.depth": 0},
        {"g_a.stages.0.resample": "patch", "g_s.stages.2.resample": "patch"},
        {"entropy_model.hidden": "none", "entropy_model.slices": 1, "entropy_model.lrp": "none",
         "entropy_model.attention": "none"},
        {"entropy_model.paths": "shared"},
        {"entropy_model.checkerboard": True},
        {"entropy_model": {"type": "hierarchical", "coarse": [1, 0], "fine": [0, 1]}},
        {"latent_channels": 16},
        {"shortcut": "wavelet"},
        {"shortcut": "wavelet", "g_s.width": 16, "entropy_model.normalised": False},
    ],
)  # fmt: skip
def test_whatever_the_blocks_the_stages_add_nothing_at_first(changes: dict[str, object]) -> None:
    codec = build("tcm-nano", {**LINEAR, **changes})
    record = train(codec, RECIPE, photographs(), accelerator="cpu")
    assert record.start is not None
    assert record.start.deviation < 1e-3
    with torch.no_grad():
        x = photographs().batch(0, 2)
        linear = linear_view(codec)
        assert torch.allclose(codec(x, rate=1.0)["x_hat"], linear(x, rate=1.0)["x_hat"], atol=1e-4)


@pytest.mark.parametrize("model", [{"type": "hierarchical"}, {"slices": 1, "hidden": "none"}])
def test_an_entropy_model_without_a_convolution_to_begin_in_starts_as_it_is_built(
    model: dict[str, object],
) -> None:
    entropy_model = {"support": 0, "lrp": "none", **model} if "slices" in model else model
    changes = {"entropy_model": entropy_model, "h_s.depth": 0, "h_s.resample": "patch"}
    codec = build("tcm-nano", changes)
    before = {name: value.clone() for name, value in codec.h_s.state_dict().items()}
    start_entropy_model(codec, torch.randn(2, codec.config.latent_channels, 4, 4))
    assert all(torch.equal(value, before[name]) for name, value in codec.h_s.state_dict().items())


CONV_GDN = {"type": "conv", "kernel": 5, "upsample": "transposed", "activation": "gdn"}


@pytest.mark.parametrize(
    "resample",
    ["residual", {"type": "residual", "activation": "gelu"}, "conv", CONV_GDN,
     {"type": "conv", "kernel": 4}, {"type": "conv", "kernel": 2}, "bottlenecks"],
    ids=str,
)  # fmt: skip
def test_without_shortcuts_the_main_path_starts_as_the_components(resample: object) -> None:
    # As wide as a linear transform of 16x16 patches needs, or wider.
    wide = {"g_a.width": [16, 48, 192], "g_s.width": [192, 48, 16], "g_*.depth": 1}
    codec = build("tcm-nano", {**LINEAR, **wide, "shortcut": "none", "g_*.resample": resample})
    names = list(codec.state_dict())
    record = train(codec, RECIPE, photographs(), accelerator="cpu")
    assert list(codec.state_dict()) == names
    x = seen(photographs())
    energy = np.linalg.svd(centred(x), compute_uv=False) ** 2
    with torch.no_grad():
        y = codec.g_a(x)
        assert codec.y_unit is not None
        x_hat = codec.g_s(y / codec.y_unit[:, None, None])
    floor = -10 * math.log10(energy[64:].sum() / x.numel())
    psnr = -10 * math.log10((x_hat - x).square().mean().item())
    assert psnr == pytest.approx(floor, abs=0.8)
    assert record.start is not None
    assert record.start.floor_psnr_db == pytest.approx(floor, abs=0.01)
    assert 0 < record.start.deviation < 0.05
    variances = y.var((0, 2, 3), unbiased=False).numpy() * record.start.step**2
    assert np.allclose(np.sort(variances)[::-1], energy[:64] / (x.numel() / 768), rtol=0.05)


@pytest.mark.parametrize("preset", ["tcm-nano", "dcae-nano", "hpcm-nano", "mlicpp-nano"])
def test_a_narrow_main_path_starts_as_far_as_its_width_allows(preset: str) -> None:
    codec = build(preset, {"shortcut": "none", "rate_levels": 3})
    record = train(codec, RECIPE, photographs(), accelerator="cpu")
    assert record.start is not None
    assert record.start.deviation < 0.1
    x = seen(photographs())
    with torch.no_grad():
        x_hat = codec(x, rate=1.0)["x_hat"]
    # A codec that restores the mean colour of 8x8 pixels, and of 4x4.
    coarse, fine = (
        -10 * math.log10((F.interpolate(F.avg_pool2d(x, side), scale_factor=side) - x)
                         .square().mean().item())
        for side in (8, 4)
    )  # fmt: skip
    assert coarse + 1 < -10 * math.log10((x_hat - x).square().mean().item()) < fine + 3


def test_the_main_path_learns_slowly_where_it_started_as_a_linear_transform() -> None:
    def rates(recipe: Recipe, changes: dict[str, object]) -> set[float]:
        codec = build("tcm-nano", {**LINEAR, **changes})
        groups = [g for o in make_optimizers(codec, recipe).values() for g in o.param_groups]
        resamplers = {
            id(parameter)
            for transform in (codec.g_a, codec.g_s)
            for stage in transform.stages
            for parameter in stage.resample.parameters()
        }
        return {
            group["base_lr"]
            for group in groups
            if any(id(parameter) in resamplers for parameter in group["params"])
        }

    recipe = RECIPE.changed(optimizer="muon", lr=3e-3, matrix_lr=2e-3)
    assert rates(recipe, {"shortcut": "none"}) == {0.1 * 3e-3}
    wide = {"shortcut": "none", "latent_channels": 320}
    assert [*rates(recipe, wide)] == pytest.approx([0.1 * 3e-3 / 5])
    assert rates(recipe.changed(start="none"), {"shortcut": "none"}) == {3e-3, 2e-3}
    for changes in (
        {"shortcut": "wavelet"},
        {"shortcut": "none", "g_a.stages.0.resample": "patch"},
    ):
        assert rates(recipe, changes) == {3e-3, 2e-3}


@pytest.mark.parametrize("latent_channels", [64, 320])
def test_the_linear_phase_improves_entropy_models_of_any_width(latent_channels: int) -> None:
    width = latent_channels // 64
    changes: dict[str, object] = {
        "latent_channels": latent_channels,
        "entropy_model.hidden": [32 * width, 24 * width],
        "entropy_model.attention": "none",
    }
    images, costs = open_images(None, "eval")[:1], []
    for steps in (0, 20):
        codec = build("tcm-nano", {**LINEAR, **changes})
        recipe = RECIPE.changed(linear_steps=steps, linear_batch=4)
        recipe = recipe.suited(latent_channels, codec.config.rate_levels)
        begin(codec, recipe, photographs())
        view = linear_view(codec).eval()
        costs.append(lagrangian_cost(evaluate_crops(view, images), recipe.lambdas))
    assert costs[1] < costs[0]


def test_an_interrupted_linear_phase_leaves_no_shortcut_behind() -> None:
    codec = build("tcm-nano", {**SMALL, "shortcut": "none"})
    names = list(codec.state_dict())
    recipe = RECIPE.changed(linear_steps=6, linear_batch=2)
    with pytest.raises(KeyboardInterrupt):
        train(codec, recipe, Interrupting(64, after=11), accelerator="cpu")
    assert list(codec.state_dict()) == names


def test_a_main_path_that_cannot_be_linear_starts_with_a_wide_latent_and_its_statistics() -> None:
    changes = {
        "shortcut": "none",
        "g_a.stages.0.resample": "patch",
        "g_s.stages.2.resample": "patch",
    }
    codec = build("tcm-nano", {**LINEAR, **changes})
    record = train(codec, RECIPE, photographs(), accelerator="cpu")
    assert TrainingRecord.model_validate_json(record.model_dump_json()) == record
    assert record.start is not None
    assert record.start.floor_psnr_db is None
    with torch.no_grad():
        y = codec.g_a(seen(photographs())[:16])
    assert (y - y.mean((0, 2, 3), keepdim=True)).std().item() == pytest.approx(3.0, rel=0.2)
    assert codec.y_unit is not None
    assert torch.allclose(codec.y_unit, y.std((0, 2, 3)).clamp(min=0.3), rtol=0.05)


@pytest.mark.parametrize("shortcut", ["none", "staged", "wavelet"])
def test_the_first_step_codes_better_than_an_untrained_codec_by_far(shortcut: str) -> None:
    x = photographs().batch(100, 4)
    codec = started({"shortcut": shortcut})
    raw = build("tcm-nano", {**LINEAR, "shortcut": shortcut}).eval()
    costs = []
    for one in (codec, raw):
        with torch.no_grad():
            out = one(x, rate=1.0)
        bpp = -sum(p.log2().sum() for p in out["likelihoods"].values()).item() / (4 * 64 * 64)
        costs.append(bpp + 0.0013 * 255**2 * (out["x_hat"] - x).square().mean().item())
    assert costs[0] < 0.5 * costs[1]


def test_variants_that_differ_in_their_transforms_alone_share_the_linear_phase(
    tmp_path: Path,
) -> None:
    def trained(changes: dict[str, object], seed: int = 3) -> Codec:
        codec = build("tcm-nano", {**SMALL, **changes}, seed=seed)
        recipe = RECIPE.changed(linear_steps=3, linear_batch=2, steps=1)
        record = train(codec, recipe, photographs(), accelerator="cpu", cache=tmp_path)
        assert record.start is not None
        assert record.start.phase_steps == 3
        return codec

    alone = trained({})
    assert len(list(tmp_path.iterdir())) == 1
    shared = trained({"g_a.split": 0.0, "g_s.depth": 0})
    assert len(list(tmp_path.iterdir())) == 1
    trained({"shortcut": "none"})
    assert len(list(tmp_path.iterdir())) == 1
    entropy = ("h_a.", "h_s.", "slices.", "entropy_bottleneck._", "y_gains.", "z_gains.")
    ours, theirs = alone.state_dict(), shared.state_dict()
    names = [name for name in ours if name.startswith(entropy)]
    assert names
    tables = ("_quantized_cdf", "_offset", "_cdf_length")
    for name in names:
        if not name.endswith(tables):
            assert torch.allclose(ours[name], theirs[name], atol=1e-7), name
    trained({"entropy_model.slices": 4})
    assert len(list(tmp_path.iterdir())) == 2
    for kept, changes in ((3, {}), (4, {"g_a.width": 16})):
        trained({"shortcut": "wavelet", **changes})
        assert len(list(tmp_path.iterdir())) == kept
    trained({}, seed=4)  # begins with other weights
    assert len(list(tmp_path.iterdir())) == 5


def test_an_interrupted_linear_phase_resumes_to_the_same_weights(tmp_path: Path) -> None:
    recipe = RECIPE.changed(linear_steps=6, linear_batch=2, steps=2, lr=1e-3, checkpoint_every=2)

    def one(directory: Path, crops: RandomCrops) -> dict[str, Tensor]:
        codec = build("tcm-nano", SMALL)
        train(codec, recipe, crops, directory=directory, resume=True, accelerator="cpu")
        return codec.state_dict()

    whole = one(tmp_path / "whole", RandomCrops(64))
    # The start asks for batches 0 to 7 first, of which the last two are no steps of the phase.
    with pytest.raises(KeyboardInterrupt):
        one(tmp_path / "parts", Interrupting(64, after=11))
    assert (tmp_path / "parts" / "linear-phase" / "training.safetensors").exists()
    assert not (tmp_path / "parts" / "training.safetensors").exists()
    parts = one(tmp_path / "parts", RandomCrops(64))
    assert all(torch.equal(value, parts[name]) for name, value in whole.items())


class Interrupting(RandomCrops):
    """Sends Ctrl-C while the batch after so many others is made."""

    def __init__(self, side: int, after: int) -> None:
        super().__init__(side)
        self.left = after

    def batch(self, step: int, batch_size: int, rank: int = 0, world: int = 1) -> Tensor:
        self.left -= 1
        if self.left == 0:
            signal.raise_signal(signal.SIGINT)
        return super().batch(step, batch_size, rank, world)


@pytest.mark.parametrize(
    ("recipe", "learns"),
    [
        (FITTED, False),
        (FITTED.without_start(), False),
        (FITTED.changed(shortcut_lr=1e-3), True),
        (FITTED.changed(start="none"), True),
        (FITTED.changed(start="calibrate"), True),
        (FITTED.changed(start="calibrate").without_start(), True),
        (FITTED.changed(start="none", shortcut_lr=0), False),
    ],
)
def test_shortcuts_learn_unless_something_fitted_or_gave_them(recipe: Recipe, learns: bool) -> None:
    codec = build("tcm-nano", LINEAR)
    begin(codec, recipe, photographs(), accelerator="cpu")
    before = [stage.shortcut.weight.clone() for stage in codec.g_a.stages[:3]]
    train(codec, recipe, photographs(), accelerator="cpu")
    moved = [
        not torch.allclose(stage.shortcut.weight, old, rtol=1e-4, atol=1e-4)
        for stage, old in zip(codec.g_a.stages[:3], before, strict=True)
    ]
    assert moved == [learns] * 3
    assert all(parameter.requires_grad for parameter in codec.parameters())
