"""Real bytes: any size, any batch, the same every time."""

import copy
import itertools
import math
from typing import Any

import pytest
import torch

import tcm_lab
from tcm_lab.codec import save_checkpoint
from tcm_lab.errors import LabError


@pytest.fixture(scope="module")
def codec() -> Any:
    """A codec whose symbols are spread, and whose means and scales suit them, as if trained."""
    plain = {"shortcut": "none", "entropy_model.normalised": False}
    codec = tcm_lab.build("tcm-nano", {"?_?.depth": 1, **plain}).eval()
    with torch.no_grad():
        for parameter in codec.g_a.stages[-1].resample.parameters():
            parameter.mul_(300)
        for parameter in codec.h_a.stages[-1].resample.parameters():
            parameter.mul_(0.1)  # into the prior's quantiles
        y = codec.g_a(torch.rand(4, 3, 128, 128))
        for i, part in enumerate(y.split(codec.slice_widths, 1)):
            mean, scale = codec.slices[i].networks
            mean[-1].bias.copy_(part.mean((0, 2, 3)))
            scale[-1].bias.copy_(part.std((0, 2, 3)))
    return codec


@torch.no_grad()
def _forward(codec: Any, x: torch.Tensor) -> tuple[torch.Tensor, float]:
    out = codec(x)
    bits = sum(-value.log2().sum().item() for value in out["likelihoods"].values())
    return out["x_hat"].clamp(0, 1), bits


@torch.no_grad()
def test_channels_lie_where_the_codec_was_moved_to(codec: Any) -> None:
    x = torch.rand(2, 3, 64, 64)
    latents = []
    for layout in (torch.channels_last, torch.contiguous_format):
        moved = copy.deepcopy(codec).to(memory_format=layout)
        seen: list[torch.Tensor] = []
        for part in (moved.g_a, moved.h_a):
            part.register_forward_pre_hook(lambda _, inputs, seen=seen: seen.append(inputs[0]))
        moved(x)
        assert [value.is_contiguous(memory_format=layout) for value in seen] == [True, True]
        latents.append(seen[1])
    torch.testing.assert_close(*latents, rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("size", [(1, 1), (7, 3), (65, 129)])
def test_any_size_and_batch_decodes_to_the_forward_pass_s_image(
    codec: Any, size: tuple[int, int], batch: int
) -> None:
    x = torch.rand(batch, 3, *size)
    coded = codec.compress(x)
    assert [len(strings) for strings in coded["strings"]] == [batch, batch]
    decoded = codec.decompress(**coded)["x_hat"]
    assert decoded.shape == x.shape
    torch.testing.assert_close(decoded, _forward(codec, x)[0], rtol=0, atol=1e-4)
    assert codec.compress(x) == coded


def test_a_large_image_takes_as_many_bytes_as_estimated(codec: Any) -> None:
    x = torch.rand(1, 3, 500, 333)
    coded = codec.compress(x)
    shown, bits = _forward(codec, x)
    torch.testing.assert_close(codec.decompress(**coded)["x_hat"], shown, rtol=0, atol=1e-4)
    written = 8 * sum(len(string) for strings in coded["strings"] for string in strings)
    assert bits > 10_000
    assert written == pytest.approx(bits, rel=0.01)


@pytest.mark.parametrize("name", ["tcm-nano", "tcm-nano-conv-only", "wacnn"])
def test_untrained_codecs_write_as_many_bytes_as_estimated(name: str) -> None:
    codec = tcm_lab.build(name).eval()
    x = torch.rand(1, 3, 256, 384)
    rate = {"rate": 0.0} if codec.config.rate_levels else {}
    coded = codec.compress(x, **rate)
    with torch.no_grad():
        likelihoods = codec(x, **rate)["likelihoods"]
    bits = sum(-value.log2().sum().item() for value in likelihoods.values())
    written = 8 * sum(len(string) for strings in coded["strings"] for string in strings)
    assert written == pytest.approx(bits, rel=0.01)


@torch.no_grad()
def test_scales_above_the_largest_table_take_as_many_bytes_as_estimated(codec: Any) -> None:
    unsure = copy.deepcopy(codec)
    for slice_codec in unsure.slices:
        slice_codec.networks[1][-1].bias.fill_(1000)
        slice_codec.networks[1][-1].weight.zero_()
    x = torch.rand(1, 3, 256, 384)
    bits = -unsure(x)["likelihoods"]["y"].log2().sum().item()
    assert 8 * len(unsure.compress(x)["strings"][0][0]) == pytest.approx(bits, rel=0.002)


@torch.no_grad()
def test_outliers_take_as_many_bytes_as_estimated(
    codec: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    overconfident = copy.deepcopy(codec)
    for slice_codec in overconfident.slices:
        slice_codec.networks[1][-1].bias.div_(4)
        slice_codec.networks[1][-1].weight.zero_()
    x = torch.rand(1, 3, 256, 384, generator=torch.Generator().manual_seed(0))
    likelihoods = overconfident(x)["likelihoods"]["y"]
    # Sixteen bits say that a symbol is beyond its table, four how many digits it has, four are one.
    beyond = likelihoods == 2.0**-24
    assert beyond.float().mean() > 0.05
    assert likelihoods[~beyond].min() >= 2.0**-16

    from compressai import ans

    spent: dict[bool, list[float]] = {False: [], True: []}  # bits, by whether beyond its table

    class Coder(ans.RansEncoder):
        """Accounts for every symbol as the format of the stream has it."""

        def encode_with_indexes(
            self, symbols: Any, indexes: Any, cdfs: Any, lengths: Any, offsets: Any
        ) -> bytes:
            for symbol, k in zip(symbols, indexes, strict=True):
                place, last = symbol - offsets[k], lengths[k] - 2
                inside = 0 <= place < last
                first, end = cdfs[k][place if inside else last :][:2]
                bits = 16 - math.log2(end - first)
                if not inside:
                    outside = 2 * (place - last) if place > 0 else -2 * place - 1
                    bits += 4 + 4 * math.ceil(outside.bit_length() / 4)
                spent[not inside].append(bits)
            written: bytes = super().encode_with_indexes(symbols, indexes, cdfs, lengths, offsets)
            return written

    monkeypatch.setattr(ans, "RansEncoder", Coder)
    strings = overconfident.compress(x)["strings"]
    written = 8 * sum(map(len, itertools.chain(*strings)))
    assert sum(map(sum, spent.values())) == pytest.approx(8 * len(strings[0][0]), rel=0.001)
    assert len(spent[True]) == pytest.approx(beyond.sum().item(), rel=0.02)
    assert sum(spent[True]) / len(spent[True]) == pytest.approx(24, abs=2)
    assert written == pytest.approx(_forward(overconfident, x)[1], rel=0.01)
    # With the 29.9 bits that CompressAI's floor counts for each it would not be.
    floored = _forward(overconfident, x)[1] + (-math.log2(1e-9) - 24) * beyond.sum().item()
    assert floored > 1.03 * written


def test_a_scale_takes_the_nearest_distribution_there_is(codec: Any) -> None:
    codec.compress(torch.rand(1, 3, 8, 8))
    scales = torch.rand(1000).mul(8).sub(2.5).exp()  # beyond both ends of the table, too
    table = codec.gaussian_conditional.scale_table
    distances = (scales[:, None].log() - table.log()).abs()
    chosen = codec._current_tables().indexes(scales).long()
    torch.testing.assert_close(
        distances.gather(1, chosen[:, None])[:, 0], distances.min(1).values, rtol=0, atol=1e-5
    )


def test_half_a_file_s_size_leaves_the_floors_where_they_are(codec: Any, tmp_path: Any) -> None:
    save_checkpoint(codec, tmp_path / "codec.safetensors", dtype=torch.float16)
    again = tcm_lab.load_checkpoint(tmp_path / "codec.safetensors")
    # In half precision 1e-9 would be nought, and the least likely symbols infinitely long.
    assert again.gaussian_conditional.likelihood_lower_bound.bound.item() == pytest.approx(1e-9)
    assert again.entropy_bottleneck.likelihood_lower_bound.bound.item() == pytest.approx(1e-9)


def test_each_image_of_a_batch_has_the_bytes_that_it_has_alone(codec: Any) -> None:
    x = torch.rand(3, 3, 40, 70)
    together = codec.compress(x)["strings"]
    for i in range(3):
        # Convolutions over a batch may round differently; the symbols hardly ever do.
        y, z = (strings[0] for strings in codec.compress(x[i : i + 1])["strings"])
        assert len(together[0][i]) == pytest.approx(len(y), rel=0.01)
        assert len(together[1][i]) == pytest.approx(len(z), rel=0.01)


def test_the_bytes_survive_saving_and_loading_the_weights(codec: Any, tmp_path: Any) -> None:
    x = torch.rand(1, 3, 40, 70)
    coded = codec.compress(x)
    save_checkpoint(codec, tmp_path / "codec.safetensors")
    again = tcm_lab.load_checkpoint(tmp_path / "codec.safetensors")
    assert again.compress(x) == coded
    assert torch.equal(again.decompress(**coded)["x_hat"], codec.decompress(**coded)["x_hat"])


def test_coding_follows_the_weights_when_they_change() -> None:
    a = tcm_lab.build("tcm-nano", {"?_?.depth": 1}).eval()
    b = tcm_lab.build("tcm-nano", {"?_?.depth": 1}, seed=1).eval()
    with torch.no_grad():
        b.entropy_bottleneck.quantiles.mul_(0.5)
    x = torch.rand(1, 3, 20, 20)
    a.compress(x)
    a.load_state_dict(b.state_dict())
    assert a.compress(x) == b.compress(x)
    with torch.no_grad():
        a.train().entropy_bottleneck.quantiles.mul_(3)
    a.eval()
    shown, _ = _forward(a, x)
    torch.testing.assert_close(a.decompress(**a.compress(x))["x_hat"], shown, rtol=0, atol=1e-4)


@pytest.mark.parametrize("built_there", [False, True])
def test_a_codec_that_coded_while_only_inferring_takes_weights_later(built_there: bool) -> None:
    config = tcm_lab.load_config("tcm-nano").override({"?_?.depth": 0})
    codec, x = tcm_lab.build(config).eval(), torch.rand(1, 3, 20, 20)
    with torch.inference_mode():
        if built_there:
            codec.update(force=True)
        coded = codec.compress(x)
    other = tcm_lab.build(config, seed=1).eval()
    codec.load_state_dict(other.state_dict())
    assert codec.compress(x) == other.compress(x) != coded


@pytest.mark.parametrize("training", [False, True])
def test_bytes_are_coded_by_the_weights_of_now(training: bool) -> None:
    codec = tcm_lab.build("tcm-nano", {"?_?.depth": 1}).train(training)
    x = torch.rand(1, 3, 40, 40)
    old = codec.compress(x)
    with torch.no_grad():
        for parameter in codec.entropy_bottleneck.parameters():
            parameter.data.add_(0.3)
    fresh = tcm_lab.build(codec.config).train(training)
    fresh.load_state_dict(codec.state_dict())
    assert codec.compress(x) == fresh.compress(x) != old


def test_without_a_size_the_whole_padded_image_comes_back(codec: Any) -> None:
    coded = codec.compress(torch.rand(1, 3, 40, 70))
    whole = codec.decompress(coded["strings"], coded["shape"])["x_hat"]
    stride = codec.config.stride[1]
    assert whole.shape[-2:] == (math.ceil(40 / stride) * stride, math.ceil(70 / stride) * stride)
    assert torch.equal(whole[..., :40, :70], codec.decompress(**coded)["x_hat"])


@pytest.mark.parametrize("string", [b"", b"abc", bytes(5), 4_000_000 * b"\xff"], ids=len)
def test_bytes_that_are_no_stream_are_refused(codec: Any, string: bytes) -> None:
    coded = codec.compress(torch.rand(1, 3, 20, 20))
    y, z = coded["strings"]
    for strings in ([[string], z], [y, [string]]):
        with pytest.raises(LabError, match="not a rANS stream"):
            codec.decompress(strings, coded["shape"], coded["size"])


def test_another_symbol_than_was_written_is_noticed(codec: Any) -> None:
    coded = codec.compress(torch.rand(1, 3, 40, 40))
    with pytest.raises(LabError, match="other symbols than the encoder wrote"):
        codec.decompress(**{**coded, "checksum": coded["checksum"] ^ 1})


@torch.no_grad()
def _with_latents(codec: Any, latent: str, value: float) -> Any:
    """Return a copy whose ``y`` or ``z`` holds ``value`` once, wherever its image is."""
    changed = copy.deepcopy(codec)
    part = changed.g_a if latent == "y" else changed.h_a

    def put(module: Any, inputs: Any, output: torch.Tensor) -> torch.Tensor:
        output = output.clone()
        output[0, 0, 0, 0] = value
        return output

    part.register_forward_hook(put)
    return changed


@pytest.mark.parametrize("latent", ["y", "z"])
@pytest.mark.parametrize("value", [1.4e8, -1.4e8, 2.0**28, -(2.0**30), 2.0**31, -4.3e9])
def test_symbols_too_large_for_the_coder_are_refused(codec: Any, latent: str, value: float) -> None:
    # The coder would shift a 32-bit word by 32 bits and never end.
    broken = _with_latents(codec, latent, value)
    with pytest.raises(LabError, match=rf"{latent} holds a symbol of magnitude .*below 134217728"):
        broken.compress(torch.rand(1, 3, 64, 64))


@pytest.mark.parametrize("portable", [False, True], ids=["plain", "portable"])
@pytest.mark.parametrize("name", ["tcm-nano", "dcae-nano", "hpcm-nano", "mlicpp-nano", "stf"])
@pytest.mark.parametrize("part", ["g_a", "h_a"])
def test_weights_that_make_symbols_too_large_are_refused_by_every_entropy_model(
    name: str, part: str, portable: bool
) -> None:
    narrow = {"g_?.depth": 1} if name != "stf" else {"?_?.depth": 1}
    codec = tcm_lab.build(name, narrow).eval()
    with torch.no_grad():
        *_, last = (m for m in getattr(codec, part).modules() if hasattr(m, "weight"))
        last.weight.mul_(1e12)
    rate = 0.0 if codec.config.rate_levels else None
    with pytest.raises(LabError, match=r"holds a symbol of magnitude|is not finite"):
        codec.compress(torch.rand(1, 3, 64, 64), rate, portable=portable)


@pytest.mark.parametrize("latent", ["y", "z"])
@pytest.mark.parametrize("value", [1e4, 1e6, 2.0**26, 1.3e8, -1.3e8])
def test_the_largest_symbols_that_the_coder_writes_come_back(
    codec: Any, latent: str, value: float
) -> None:
    if latent == "z":  # whose features would be as large: only the bytes are compared
        codec.update()
        prior = codec.entropy_bottleneck
        z_string = prior.compress(torch.full((1, prior.channels, 1, 1), value))
        z_hat = prior.decompress(z_string, (1, 1))
        assert torch.allclose(z_hat, torch.tensor(value), rtol=1e-6)
        return
    broken = _with_latents(codec, latent, value)
    coded = broken.compress(torch.rand(1, 3, 64, 64))
    assert broken.decompress(**coded)["x_hat"].shape == (1, 3, 64, 64)


@pytest.mark.parametrize(
    ("name", "weight", "value"),
    [
        *(("tcm-nano", "quantiles", value) for value in (math.inf, math.nan, 3e8, 7e4, 65_534)),
        ("tcm-nano", "matrices.0", math.nan),
        ("hpcm-nano", "scales", math.nan),
        ("hpcm-nano", "scales", math.inf),
    ],
)
def test_a_prior_without_tables_is_refused_before_they_are_made(
    name: str, weight: str, value: float
) -> None:
    codec, x = tcm_lab.build(name).eval(), torch.rand(1, 3, 64, 64)
    prior: Any = codec.entropy_bottleneck
    prior.get_parameter(weight).data.view(-1)[-1] = value
    for portable in (False, True):
        with pytest.raises(LabError, match="the prior of z asks for a table of"):
            codec.compress(x, portable=portable)
