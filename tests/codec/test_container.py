import copy
import math
import struct
import zlib
from collections.abc import Callable
from random import Random
from typing import Any

import numpy as np
import pytest
import torch
from fuzzing import fuzz, mutants, small_codec, written

import tcm_lab
from tcm_lab.codec import container, decode_image, encode_image, read_header
from tcm_lab.codec.container import weights_fingerprint
from tcm_lab.errors import LabError

MUTANTS = 1_500


@pytest.fixture(scope="module")
def codec() -> Any:
    return small_codec()


@pytest.mark.parametrize("size", [(1, 1), (7, 3), (65, 129), (500, 333)])
def test_a_file_decodes_to_what_the_codec_shows(codec: Any, size: tuple[int, int]) -> None:
    image = torch.rand(3, *size)
    data = encode_image(codec, image, 1.0)
    with torch.no_grad():
        shown = codec(image[None], 1.0)["x_hat"][0].clamp(0, 1)
    torch.testing.assert_close(decode_image(codec, data), shown, rtol=0, atol=1e-4)
    assert read_header(data).size == size


def test_a_file_is_the_same_on_a_second_run_and_with_reloaded_weights(
    codec: Any, tmp_path: Any
) -> None:
    image = torch.rand(3, 31, 44)
    data = encode_image(codec, image, 0.5)
    assert encode_image(codec, image, 0.5) == data
    tcm_lab.save_checkpoint(codec, tmp_path / "weights.safetensors")
    again = tcm_lab.load_checkpoint(tmp_path / "weights.safetensors")
    assert encode_image(again, image, 0.5) == data
    assert torch.equal(decode_image(again, data), decode_image(codec, data))


def test_a_file_is_its_streams_and_a_header_of_fixed_length(codec: Any) -> None:
    image = torch.rand(3, 40, 40)
    (y,), (z,) = codec.compress(image[None], 0.0)["strings"]
    assert len(encode_image(codec, image, 0.0)) == 53 + len(y) + len(z)


def test_a_wrapped_codec_writes_and_reads_the_files_of_the_codec_inside(codec: Any) -> None:
    image = torch.rand(3, 40, 56)
    data = encode_image(codec, image, 1.0)
    inside = copy.deepcopy(codec)
    inside.h_s = torch.compile(inside.h_s)
    for wrapped in (torch.compile(codec), torch.nn.DataParallel(codec)):
        assert encode_image(wrapped, image, 1.0) == data
        assert torch.equal(decode_image(wrapped, data), decode_image(codec, data))
    assert weights_fingerprint(inside, 2) == weights_fingerprint(codec, 2)
    with pytest.raises(LabError, match="Sequential was not assembled by tcm_lab"):
        encode_image(torch.nn.Sequential(), image)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_weights_of_any_type_code_to_a_file(codec: Any, dtype: torch.dtype) -> None:
    other, image = copy.deepcopy(codec).to(dtype), torch.rand(3, 40, 56, dtype=dtype)
    assert decode_image(other, encode_image(other, image, 1.0)).dtype == dtype
    assert weights_fingerprint(other, 2) != weights_fingerprint(codec, 2)


def test_other_weights_and_other_configurations_are_refused(codec: Any) -> None:
    data = encode_image(codec, torch.rand(3, 9, 9), 0.0)
    other = tcm_lab.build(codec.config, seed=5).eval()
    with pytest.raises(LabError, match="written with other weights of small"):
        decode_image(other, data)
    narrow = tcm_lab.build(codec.config, {"entropy_model.support": 0}).eval()
    with pytest.raises(LabError, match="codec with another configuration"):
        decode_image(narrow, data)


def test_a_file_of_a_trained_codec_names_it_to_another_one(codec: Any) -> None:
    trained = tcm_lab.load_checkpoint("tcm-nano-conv-only")
    data = encode_image(trained, torch.rand(3, 64, 64), 0.0)
    with pytest.raises(LabError, match=r"configuration than small; .* with tcm-nano-conv-only, a"):
        decode_image(codec, data)
    own = tcm_lab.build(trained.config, seed=1).eval()
    with pytest.raises(LabError, match=r"other weights of tcm.* with tcm-nano-conv-only, a tr"):
        decode_image(own, data)


@pytest.mark.usefixtures("own_layers")
@pytest.mark.parametrize("portable", [False, True])
def test_other_statistics_of_a_layer_of_the_user_s_are_other_weights(portable: bool) -> None:
    @tcm_lab.register_block("normalised")
    class Normalised(torch.nn.Module):
        def __init__(self, channels: int) -> None:
            super().__init__()
            self.norm = torch.nn.BatchNorm2d(channels)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            normal: torch.Tensor = self.norm(x)
            return normal

    tree = small_codec(0).config.model_dump(mode="json")
    plain = tcm_lab.codec.VariantConfig.parse(tree)
    codec = tcm_lab.build(plain, {"g_s.stages.0": _stage("normalised")}).eval()
    other = copy.deepcopy(codec)
    other.g_s.stages[0].blocks[0].norm.running_mean += 0.1
    image = torch.rand(3, 16, 16)
    data = encode_image(codec, image, portable=portable)
    assert torch.equal(decode_image(copy.deepcopy(codec), data), decode_image(codec, data))
    with pytest.raises(LabError, match="written with other weights of small"):
        decode_image(other, data)


@pytest.mark.usefixtures("own_layers")
@pytest.mark.parametrize("portable", [False, True])
def test_a_codec_in_training_mode_writes_and_reads_what_it_would_in_evaluation_mode(
    portable: bool,
) -> None:
    @tcm_lab.register_block("dropping")
    class Dropping(torch.nn.Module):
        def __init__(self, channels: int) -> None:
            super().__init__()
            self.drop = torch.nn.Dropout(0.5)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            dropped: torch.Tensor = self.drop(x)
            return dropped

    config = small_codec(0).config.override({"h_s.stages.0": _stage("dropping")})
    codec, image = tcm_lab.build(config).train(), torch.rand(3, 48, 40)
    data = encode_image(codec, image, portable=portable)
    assert codec.training
    assert data == encode_image(codec.eval(), image, portable=portable)
    expected = decode_image(codec, data)
    assert torch.equal(decode_image(codec.train(), data), expected)


def _stage(block: str) -> dict[str, Any]:
    return {"resample": "conv", "width": 8, "depth": 1, "block": block}


@pytest.mark.parametrize("version", [2, 3])
def test_what_is_no_weight_leaves_the_fingerprint_as_it_was(version: int) -> None:
    codec = small_codec()
    before = weights_fingerprint(codec, version)
    codec.update(force=True)  # makes the coding tables
    codec.g_a.register_buffer("total_ops", torch.ones(1))  # as thop does
    assert weights_fingerprint(codec, version) == before


def test_a_fingerprint_is_made_once_and_again_after_any_change(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    codec, made = small_codec(), list[int]()
    fingerprint = container._fingerprint

    def counted(tensors: Any, version: int) -> bytes:
        made.append(version)
        return fingerprint(tensors, version)

    monkeypatch.setattr(container, "_fingerprint", counted)
    seen = {weights_fingerprint(codec, 3)}
    encode_image(codec, torch.rand(3, 9, 9), 0.0, portable=True)  # changes weights for a while
    assert made == [3]
    weight: Any = next(codec.h_s.parameters())

    def through(mode: Any) -> None:
        with mode:
            weight.mul_(1.5)

    changes: list[Callable[[], object]] = [
        lambda: through(torch.no_grad()),
        lambda: through(torch.inference_mode()),
        lambda: weight.data.mul_(1.5),
        lambda: setattr(weight, "data", weight.data * 1.5),
        lambda: np.multiply(weight.detach().numpy(), 1.5, out=weight.detach().numpy()),
    ]
    for change in changes:
        change()
        assert weights_fingerprint(codec, 3) == weights_fingerprint(copy.deepcopy(codec), 3)
        seen.add(weights_fingerprint(codec, 3))
    assert len(seen) == 1 + len(changes)


def test_a_decoder_that_computes_something_else_says_so(codec: Any) -> None:
    data = encode_image(codec, torch.rand(3, 64, 64), 0.0)
    with_other_arithmetic = small_codec()
    with_other_arithmetic.slices[1].networks[0].register_forward_hook(lambda m, i, out: out * 1.5)
    with pytest.raises(LabError, match="other symbols than the encoder wrote"):
        decode_image(with_other_arithmetic, data)


@pytest.mark.parametrize("rate", [None, -0.5, 2.5, float("nan"), [1.0], [], torch.ones(2), 1j])
def test_a_rate_that_the_codec_has_not_is_refused(codec: Any, rate: Any) -> None:
    with pytest.raises(LabError, match=r"needs one from 0 to 2"):
        encode_image(codec, torch.rand(3, 8, 8), rate)


def test_an_image_that_is_not_finite_is_refused(codec: Any) -> None:
    with pytest.raises(LabError, match="not finite"):
        encode_image(codec, torch.full((3, 8, 8), float("nan")), 0.0)


def _cut(data: bytes) -> bytes:
    return data[:-6]


def _flip(data: bytes) -> bytes:
    return data[:60] + bytes([data[60] ^ 1]) + data[61:]


def _claim_pixels(data: bytes) -> bytes:
    return _fix(data[:25] + struct.pack("<II", 1 << 16, 1 << 16) + data[33:])


def _claim_rate(rate: float) -> Callable[[bytes], bytes]:
    return lambda data: _fix(data[:33] + struct.pack("<f", rate) + data[37:])


def _newer(data: bytes) -> bytes:
    return _fix(data[:4] + b"\x04" + data[5:])


def _fix(data: bytes) -> bytes:
    return data[:-4] + struct.pack("<I", zlib.crc32(data[:-4]))


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda data: b"", "not a .tcm file"),
        (lambda data: b"\x89PNG" + data, "not a .tcm file"),
        (lambda data: data[:20], "cut off: 20 bytes"),
        (_cut, "cut off or padded"),
        (_flip, "damaged: its checksum does not match"),
        (_claim_pixels, "claims 65536x65536 pixels in"),
        (_claim_rate(math.nan), "claims a rate of nan"),
        (_claim_rate(math.inf), "claims a rate of inf"),
        (_claim_rate(-0.5), "claims a rate of -0.5"),
        (_newer, "container version 4; this program reads 2 and 3"),
    ],
)
def test_a_spoilt_file_is_refused_with_its_reason(
    codec: Any, spoil: Callable[[bytes], bytes], message: str
) -> None:
    data = encode_image(codec, torch.rand(3, 32, 32), 0.0)
    with pytest.raises(LabError, match=message):
        read_header(spoil(data))


def test_a_codec_of_one_rate_writes_files_without_one() -> None:
    codec = small_codec(rate_levels=0)
    image = torch.rand(3, 32, 32)
    data = encode_image(codec, image)
    assert read_header(data).rate is None
    assert decode_image(codec, data).shape == image.shape


def test_an_image_that_costs_next_to_nothing_is_decoded_too() -> None:
    codec = small_codec(rate_levels=0)
    with torch.no_grad():
        for module in (codec.g_a, codec.h_a, codec.slices):
            for parameter in module.parameters():
                parameter.zero_()  # every symbol is zero, as its distribution expects
        prior = codec.entropy_bottleneck
        prior.quantiles.copy_(torch.tensor([-1.0, 0.0, 1.0]).expand_as(prior.quantiles))
        prior.matrices[0].add_(200)
        for bias in prior.biases:
            bias.zero_()
    image = torch.zeros(3, 1536, 1536)
    streams = codec.compress(image[None])["strings"]
    assert sum(len(stream) for (stream,) in streams) < 30
    with torch.no_grad():
        shown = codec(image[None])["x_hat"][0].clamp(0, 1)
    for portable in (False, True):
        data = encode_image(codec, image, portable=portable)
        torch.testing.assert_close(decode_image(codec, data), shown)


@pytest.mark.parametrize("size", [(1, 65_537), (65_537, 1)])
def test_a_side_that_no_header_may_claim_is_refused_before_coding(
    codec: Any, size: tuple[int, int]
) -> None:
    with pytest.raises(LabError, match=f"image is {size[0]}x{size[1]}; a side is at most 65536"):
        encode_image(codec, torch.zeros(3, *size), 0.0)


def test_no_mutation_of_a_file_does_anything_but_decode_or_be_refused(codec: Any) -> None:
    decoded, refused = fuzz(codec, MUTANTS)
    assert decoded + sum(refused.values()) == MUTANTS
    # The mutations reach every check, and some leave a file that decodes.
    assert decoded > 0
    assert len(refused) >= 10


def test_mutations_are_the_same_every_time(codec: Any) -> None:
    files = written(codec)
    first, second = (mutants(files, Random(3)) for _ in range(2))
    assert [next(first) for _ in range(20)] == [next(second) for _ in range(20)]
