import pytest
import torch
from torch import Tensor

import tcm_lab
from tcm_lab._utils.environment import environment
from tcm_lab.analysis import KnockOutRecord, compare_trained, knock_out, removable_parts
from tcm_lab.blocks.tcm import TcmBlock
from tcm_lab.errors import LabError
from tcm_lab.evaluation import ImageResult, RdPoint, RdRecord
from tcm_lab.reporting.plots import part_loss_plot

WEIGHT = 0.0067


def loss_of(codec: torch.nn.Module, images: Tensor) -> list[float]:
    losses = []
    for image in images:
        with torch.no_grad():
            out = codec(image[None])
        bits = sum(float(-part.double().log2().sum()) for part in out["likelihoods"].values())
        mse = float((out["x_hat"].clamp(0, 1) - image).double().square().mean())
        losses.append(bits / image[0].numel() + WEIGHT * 255**2 * mse)
    return losses


def test_what_is_lost_without_a_part_is_what_the_codec_without_it_loses() -> None:
    images = torch.rand(2, 3, 64, 64)
    codec = tcm_lab.build("tcm-nano").eval()
    record = knock_out(
        codec, images, WEIGHT, parts={"it": ["g_s.stages.2.blocks.0.swin"], "lrp": ["slices.3.lrp"]}
    )
    whole = loss_of(codec, images)
    block = codec.g_s.stages[2].blocks[0]
    assert isinstance(block, TcmBlock)
    block.swin = None
    last = codec.slices[3].lrp
    without = loss_of(codec, images)
    worth = record.parts[0]
    assert worth.kind == "transformer branch"
    assert worth.loss_percent.value == pytest.approx(100 * (sum(without) / sum(whole) - 1))
    assert worth.loss_percent.resampled == {"images": 2}
    codec = tcm_lab.build("tcm-nano").eval()
    codec.slices[3].lrp = None
    without = loss_of(codec, images)
    assert last is not None
    assert record.parts[1].loss_percent.value == pytest.approx(
        100 * (sum(without) / sum(whole) - 1)
    )
    assert record.parts[1].rate_percent.value == pytest.approx(0)  # nothing is coded behind it


def test_parts_cost_what_the_formulas_say() -> None:
    size = (64, 128)
    codec = tcm_lab.build("tcm-nano").eval()
    parts = removable_parts(codec)
    record = knock_out(
        codec,
        torch.rand(1, 3, *size),
        WEIGHT,
        parts={name: parts[name] for name in list(parts)[::9]}
        | {
            "lrp": parts["lrp"],
            "both": [n for n in parts if n.startswith("g_a.stages.0.blocks.0")],
        },
    )
    costs = {part.part: part.kmacs_per_px * size[0] * size[1] * 1e3 for part in record.parts}
    counted = tcm_lab.measure_complexity(codec, size)
    assert costs["lrp"] == pytest.approx(counted.macs_by_part()["lrp"])
    block = codec.config.g_a.stages[0].block
    assert block is not None
    whole = sum(
        macs for kind, macs in block.cost(32, 32, 64).macs.items() if kind != "normalisation"
    )
    assert costs["both"] == pytest.approx(whole - 2 * 32 * 32 * 32 * 64)  # without its 1x1 pair
    assert KnockOutRecord.model_validate_json(record.model_dump_json()) == record


def test_every_branch_of_every_block_and_lrp_can_be_removed() -> None:
    parts = removable_parts(tcm_lab.build("tcm-nano"))
    # Three stages of two blocks in g_a and in g_s, one stage in h_a and in two h_s; two branches.
    assert len(parts) == 2 * 2 * (3 + 3 + 1 + 2) + 1
    assert parts["lrp"] == tuple(f"slices.{i}.lrp" for i in range(4))
    only = removable_parts(
        tcm_lab.build("tcm-nano-transformer-only", {"entropy_model.lrp": "none"})
    )
    assert len(only) == 2 * 9
    with pytest.raises(LabError, match=r"no module 'g_a\.x'"):
        knock_out(tcm_lab.build("tcm-nano"), torch.rand(1, 3, 64, 64), 1, parts={"a": ["g_a.x"]})
    with pytest.raises(LabError, match="'a' has no modules"):
        knock_out(tcm_lab.build("tcm-nano"), torch.rand(1, 3, 64, 64), 1, parts={"a": []})
    with pytest.raises(LabError, match=r"'g_a' turns \(1, 3, 64, 64\) into \(1, 64, 4, 4\)"):
        knock_out(tcm_lab.build("tcm-nano"), torch.rand(1, 3, 64, 64), 1, parts={"a": ["g_a"]})
    with pytest.raises(LabError, match="no part that can be removed"):
        knock_out(tcm_lab.build("compressai/mbt2018-mean"), torch.rand(1, 3, 64, 64), 1)


def test_a_part_of_ones_own_is_called_no_lrp_and_one_without_products_is_not_drawn() -> None:
    codec = tcm_lab.build("tcm-nano", {"?_?.depth": 1}).eval()
    activation = next(name for name, m in codec.named_modules() if isinstance(m, torch.nn.GELU))
    parts = {"block": ["g_a.stages.0.blocks.0"], "activation": [activation]}
    record = knock_out(codec, torch.rand(1, 3, 64, 64), 1, parts=parts)
    assert [part.kind for part in record.parts] == ["other", "other"]
    assert [part.kmacs_per_px > 0 for part in record.parts] == [True, False]
    (dots,) = part_loss_plot(record).axes[0].collections
    assert len(dots.get_offsets()) == 1


def evaluation(name: str, bits: float, psnr_db: float) -> RdRecord:
    images = tuple(
        ImageResult(
            name=str(i),
            height=100,
            width=100,
            bits=round(bits * factor),
            estimated_bits=None,
            psnr_db=psnr_db,
            ms_ssim=None,
            encode_ms=1,
            decode_ms=1,
        )
        for i, factor in enumerate((0.5, 1.0, 1.5))
    )
    return RdRecord(
        name=name,
        model=name,
        points=(RdPoint(rate=None, images=images),),
        data_fingerprint="same",
        environment=environment(),
    )


def test_trained_variants_are_compared_with_their_baseline() -> None:
    size = (64, 64)
    cost, other = (
        tcm_lab.measure_complexity(name, size) for name in ("tcm-nano", "tcm-nano-no-swatten")
    )
    (found,) = compare_trained(
        (cost, [evaluation("tcm-nano", 5000, 30)]),
        [(other, [evaluation("tcm-nano-no-swatten", 6000, 30)])],
        [WEIGHT],
    )
    distortion = WEIGHT * 255**2 * 1e-3
    expected = 100 * ((0.6 + distortion) / (0.5 + distortion) - 1)
    assert found.loss_percent.value == pytest.approx(expected)
    assert found.loss_percent.low < expected < found.loss_percent.high
    saved = cost.macs_by_part()["attention"] / 64**2 / 1e3
    assert found.change_kmacs_per_px == pytest.approx(-saved)
    assert found.change_parameters < 0
    with pytest.raises(LabError, match="count both at the same size"):
        compare_trained(
            (cost, [evaluation("a", 1, 30)]),
            [(tcm_lab.measure_complexity("tcm-nano", (32, 32)), [evaluation("b", 1, 30)])],
            [WEIGHT],
        )


def test_parts_that_overlap_cost_and_lose_what_each_does_alone() -> None:
    codec, image = tcm_lab.build("tcm-nano").eval(), torch.rand(1, 3, 64, 64)
    block = "g_s.stages.2.blocks.0"
    parts = {"block": [block], "inner": [f"{block}.swin"], "both": [block, f"{block}.swin"]}
    found = knock_out(codec, image, WEIGHT, parts=parts).parts
    alone = [knock_out(codec, image, WEIGHT, parts={"": parts[key]}).parts[0] for key in parts]
    assert [part.kmacs_per_px for part in found] == [part.kmacs_per_px for part in alone]
    assert found[0].kmacs_per_px == found[2].kmacs_per_px > found[1].kmacs_per_px > 0


@pytest.mark.parametrize(
    ("part", "told"),
    [
        ("slices.0.networks", "'slices.0.networks' does not run"),
        ("h_s", "'h_s' returns list, not a tensor"),
        ("entropy_bottleneck", "'entropy_bottleneck' returns tuple, not a tensor"),
        ("slices.0", r"'slices.0' turns list into \(1, 16, 4, 4\)"),
    ],
)
def test_a_part_that_cannot_be_removed_is_refused(part: str, told: str) -> None:
    codec = tcm_lab.build("tcm-nano").eval()
    with pytest.raises(LabError, match=told):
        knock_out(codec, torch.rand(1, 3, 64, 64), WEIGHT, parts={part: [part]})
