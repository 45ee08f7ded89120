import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

import tcm_lab
from tcm_lab.analysis import (
    AttentionRecord,
    GateRecord,
    attention_map,
    gate_maps,
    latent_maps,
    measure_attention,
)
from tcm_lab.analysis._probe import attention_inputs, attention_modules
from tcm_lab.analysis.attention import LayerAttention, spread_over_map
from tcm_lab.blocks import WindowAttention
from tcm_lab.blocks.attention import SwinGatedAttention
from tcm_lab.codec import Codec
from tcm_lab.errors import LabError
from tcm_lab.reporting import attention_table
from tcm_lab.reporting.plots import attention_plot


@pytest.fixture(scope="module")
def codec() -> Codec:
    codec = tcm_lab.build("tcm-nano").eval()
    with torch.no_grad():
        for module in attention_modules(codec).values():  # far from uniform
            module.qkv.weight.mul_(6)
            module.relative_position_bias.mul_(30)
    return codec


@pytest.mark.parametrize("backend", [SDPBackend.MATH, SDPBackend.FLASH_ATTENTION])
@pytest.mark.parametrize("size", [(16, 16), (13, 19)])
@pytest.mark.parametrize("shifted", [False, True])
@torch.no_grad()
def test_the_layers_output_can_be_built_from_its_weights_whichever_kernel_attends(
    backend: SDPBackend, size: tuple[int, int], shifted: bool
) -> None:
    layer = WindowAttention(24, 8, 8, shifted=shifted)
    layer.relative_position_bias.mul_(30)
    x = 3 * torch.randn(2, *size, 24)
    with sdpa_kernel(backend):
        expected = layer(x)
    weights, plan = layer.weights(x)
    values = layer.qkv(plan.cut(x))[..., 48:].unflatten(-1, (3, 8)).transpose(1, 2)
    rebuilt = plan.join(layer.proj((weights @ values).transpose(1, 2).flatten(2)), size)
    assert torch.allclose(rebuilt, expected, atol=1e-5)
    assert torch.allclose(weights.sum(-1), torch.ones_like(weights[..., 0]), atol=1e-6)
    for group in plan.groups:
        if group.allowed is not None:
            masked = weights[group.start : group.stop][:, :, ~group.allowed]
            assert masked.numel()
            assert not masked.any()


@torch.no_grad()
def test_metrics_are_means_over_every_query(codec: Codec) -> None:
    image = torch.rand(3, 64, 64)
    record = measure_attention(codec, [image])
    layer = next(
        found for found in record.layers if found.layer.startswith("g_a.stages.2.blocks.1")
    )
    assert layer.pitch_px == 8
    assert layer.shifted
    distances, entropies, near = [], [], []
    for row in range(8):
        for column in range(8):
            seen = attention_map(codec, image, layer.layer, (8 * row, 8 * column)).weights[1]
            y, x = np.mgrid[:8, :8]
            distances.append((seen * np.hypot(y - row, x - column)).sum() * 8)
            positive = seen[seen > 0].astype(float)
            entropies.append(-(positive * np.log2(positive)).sum())
            close = np.maximum(abs(y - row), abs(x - column)) <= 1
            near.append(seen[close].sum())
    assert layer.learned.distance_px[0][1] == pytest.approx(np.mean(distances), rel=1e-4)
    assert layer.learned.entropy_bits[0][1] == pytest.approx(np.mean(entropies), rel=1e-4)
    assert layer.learned.near_share[0][1] == pytest.approx(np.mean(near), rel=1e-4)


@torch.no_grad()
def test_equal_weights_reach_the_mean_distance_within_the_window() -> None:
    codec = tcm_lab.build("tcm-nano-transformer-only").eval()
    for module in attention_modules(codec).values():
        module.qkv.weight.zero_()
        module.qkv.bias.zero_()
        module.relative_position_bias.zero_()
    record = measure_attention(codec, [torch.rand(3, 128, 128), torch.rand(3, 64, 192)])
    y, x = np.mgrid[:8, :8].reshape(2, -1)
    mean = np.hypot(y[:, None] - y, x[:, None] - x).mean()
    close = (np.maximum(abs(y[:, None] - y), abs(x[:, None] - x)) <= 1).mean()
    for layer in record.layers:
        if not layer.layer.startswith("g_a"):
            continue
        # A shifted layer's border windows are cut in parts, of which `uniform` knows.
        assert layer.learned.distance_px[0][0] == pytest.approx(
            layer.uniform.distance_px[0][0], rel=1e-5
        )
        if not layer.shifted:
            assert layer.pitch_px == 2 * 2 ** int(layer.stage[-1])
            assert layer.uniform.distance_px[0][0] == pytest.approx(mean * layer.pitch_px)
            assert layer.uniform.entropy_bits[0][0] == pytest.approx(6)
            assert layer.uniform.near_share[0][0] == pytest.approx(close)
            assert layer.interval("distance_px").value == pytest.approx(mean * layer.pitch_px)


@torch.no_grad()
def test_attention_only_to_itself_has_no_distance_and_the_bias_alone_causes_it(
    codec: Codec,
) -> None:
    layer = "g_a.stages.0.blocks.0.swin.attention"
    module = attention_modules(codec)[layer]
    saved = module.relative_position_bias.clone()
    module.relative_position_bias.zero_()
    module.relative_position_bias[:, 7, 7] = 1e4
    record = measure_attention(codec, [torch.rand(3, 64, 64)])
    module.relative_position_bias.copy_(saved)
    (found,) = (each for each in record.layers if each.layer == layer)
    assert found.interval("distance_px").value == 0
    assert found.interval("entropy_bits").value == 0
    assert found.interval("near_share").value == 1
    assert found.interval("distance_px", with_bias=False).value > 1


def test_every_layer_that_runs_is_measured_and_the_record_reads_back(codec: Codec) -> None:
    calls = []
    images = torch.rand(2, 3, 64, 64)
    record = measure_attention(codec, images, on_image=lambda *done: calls.append(done))
    assert calls == [(1, 2), (2, 2)]
    assert {layer.layer for layer in record.layers} == set(attention_modules(codec))
    assert AttentionRecord.model_validate_json(record.model_dump_json()) == record
    mean = np.mean(
        [layer.learned.distance_px for layer in record.layers if layer.layer.startswith("g_a")]
    )
    assert record.mean_distance_px("g_a").value == pytest.approx(mean)
    slices = [layer for layer in record.layers if layer.stage == "slices.3"]
    assert [layer.shifted for layer in slices] == [False, True] * 2


@torch.no_grad()
def test_a_query_sees_its_own_window_on_the_map_even_at_the_padded_border(codec: Codec) -> None:
    layer = "slices.0.attention.0.swin.1.attention"
    image = torch.rand(3, 190, 150)  # padded to 192x192: 12x12 latents, windows of 8
    found = attention_map(codec, image, layer, (189, 149))
    assert found.weights.shape == (2, 12, 12)
    assert found.query == (11, 9)
    assert found.pitch_px == 16
    np.testing.assert_allclose(found.weights.sum((1, 2)), 1, rtol=1e-5)
    expected = np.zeros((12, 12), dtype=bool)
    expected[4:12, 4:12] = True  # the shifted window that begins at token 4
    np.testing.assert_array_equal(found.weights[0] > 0, expected)

    seen: list[Tensor] = []

    def keep(name: str, module: WindowAttention, x: Tensor) -> None:
        if name == layer:
            weights, plan = module.weights(x)
            seen.append(spread_over_map(weights, plan, (12, 12), (11, 9)))

    with attention_inputs(codec, keep):
        codec(image[None])
    np.testing.assert_allclose(found.weights, seen[0], atol=1e-6)


@torch.no_grad()
def test_gates_are_what_the_attention_multiplies_by(codec: Codec) -> None:
    image = torch.rand(3, 64, 128)
    record = gate_maps(codec, image, name="noise")
    assert [(gate.slice_index, gate.path) for gate in record.gates] == [
        (i, path) for i in range(4) for path in ("mean", "scale")
    ]
    module = codec.slices[2].attention[1]
    assert isinstance(module, SwinGatedAttention)
    given: list[Tensor] = []
    with torch.no_grad():
        handle = module.squeeze.register_forward_hook(lambda m, args, out: given.append(out))
        codec(image[None])
        handle.remove()
        expected = module.gate(given[0])[0]
    gate = record.gates[5]
    np.testing.assert_allclose(gate.gate, expected.mean(0), atol=1e-6)
    assert gate.mean == pytest.approx(float(expected.mean()))
    assert GateRecord.model_validate_json(record.model_dump_json()) == record


def test_mistakes_are_named(codec: Codec) -> None:
    image = torch.rand(3, 64, 64)
    bare = tcm_lab.build("tcm-nano", {"?_?.split": 0, "entropy_model.attention": "none"})
    with pytest.raises(LabError, match="no window attention to analyse"):
        measure_attention(bare, [image])
    with pytest.raises(LabError, match="no SWAtten"):
        gate_maps(bare, image)
    with pytest.raises(LabError, match="is not a window attention"):
        attention_map(codec, image, "g_a.stages.0", (0, 0))
    with pytest.raises(LabError, match="64x64 pixels"):
        attention_map(codec, image, "g_a.stages.0.blocks.0.swin.attention", (64, 0))
    with pytest.raises(LabError, match="no images to analyse"):
        measure_attention(codec, [])
    assert math.isfinite(measure_attention(codec, [image]).mean_distance_px("g_s").value)


@pytest.mark.parametrize(
    ("layer", "label"),
    [
        ("g_a.stages.1.blocks.0.swin.attention", "1 W"),
        ("h_s.mean.stages.1.blocks.0.swin.attention", "mean 1 W"),
        ("slices.2.attention.1.attention", "2 scale W"),
        ("g_a.3.attention", "3.attention W"),
        ("attention", "attention W"),
    ],
)
def test_a_layer_of_a_codec_of_ones_own_has_a_label_too(layer: str, label: str) -> None:
    made = LayerAttention.model_construct(layer=layer, shifted=False)
    assert made.label == label


def test_a_path_of_mean_and_scale_is_not_called_the_mean_s() -> None:
    changes = {"?_?.split": 0, "entropy_model.slices": 2, "entropy_model.support": 0}
    image = torch.rand(3, 64, 64)
    apart, shared = (
        measure_attention(
            tcm_lab.build("tcm-nano", {**changes, "entropy_model.paths": paths}), [image]
        )
        for paths in ("apart", "shared")
    )
    cells = [row.values["layer"] for row in attention_table({"": shared}, transform="slices").rows]
    assert cells == ["0 W", "0 SW", "1 W", "1 SW"]
    cells = [row.values["layer"] for row in attention_table({"": apart}, transform="slices").rows]
    assert cells[:4] == ["0 mean W", "0 mean SW", "0 scale W", "0 scale SW"]
    axes = attention_plot({"shared": shared, "apart": apart}, transform="slices").axes[0]
    shown = [label.get_text() for label in axes.get_xticklabels()]
    assert shown == ["0 W", "0 SW", "1 W", "1 SW", *cells]


@pytest.mark.parametrize("wrap", [torch.compile, nn.DataParallel, lambda codec: codec.bfloat16()])
def test_a_codec_is_analysed_inside_its_wrapper_and_in_its_own_type(wrap: Any) -> None:
    codec = wrap(tcm_lab.build("tcm-nano"))
    image = torch.rand(3, 64, 64)
    assert len(gate_maps(codec, image).gates) == 8
    assert latent_maps(codec, image).bits.shape == (4, 4, 4)
    weights = attention_map(codec, image, "g_a.stages.0.blocks.0.swin.attention", (3, 3)).weights
    np.testing.assert_allclose(weights.sum((1, 2)), 1, rtol=1e-2)
