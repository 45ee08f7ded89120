import copy
import pickle
import struct
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from arithmetics import ARITHMETICS, noise
from portable_codecs import SMALL, fill, image, small_codec
from safetensors.torch import load_file
from torch import Tensor, nn

import tcm_lab
from tcm_lab.blocks import ATTENTIONS, BLOCKS, RESAMPLERS
from tcm_lab.codec import (
    PortableReference,
    decode_image,
    encode_image,
    portable,
    read_header,
    save_checkpoint,
)
from tcm_lab.errors import LabError

FILES = Path(__file__).parent / "files"
REFERENCES = ("bmshj2018-factorized", "bmshj2018-hyperprior", "mbt2018-mean", "elic2022-official")


@pytest.fixture(scope="module")
def codecs() -> dict[str, Any]:
    return {name: small_codec(name) for name in SMALL}


def _rate(codec: Any) -> dict[str, float]:
    return {"rate": 0.75} if codec.config.rate_levels else {}


@pytest.mark.parametrize("arithmetic", ARITHMETICS)
@pytest.mark.parametrize("name", SMALL)
def test_a_stream_decodes_under_another_arithmetic(
    codecs: dict[str, Any], name: str, arithmetic: str
) -> None:
    codec = codecs[name]
    coded = codec.compress(image(90, 70)[None], **_rate(codec), portable=True)
    with ARITHMETICS[arithmetic](codec):
        decoded = codec.decompress(**coded)["x_hat"]  # the checksum is compared
        again = codec.compress(image(90, 70)[None], **_rate(codec), portable=True)
    codec.decompress(**again)
    torch.testing.assert_close(decoded, codec.decompress(**coded)["x_hat"], rtol=0, atol=1e-4)


@pytest.mark.parametrize("name", ["rates", "windows"])
def test_bfloat16_transforms_on_either_side_change_no_symbol(
    codecs: dict[str, Any], name: str
) -> None:
    codec, x = codecs[name], image(40, 60)[None]
    for writes, reads in ((True, False), (False, True)):
        with torch.autocast("cpu", torch.bfloat16, enabled=writes):
            coded = codec.compress(x, **_rate(codec), portable=True)
        with torch.autocast("cpu", torch.bfloat16, enabled=reads):
            codec.decompress(**coded)  # the checksum is compared


@pytest.mark.parametrize("name", SMALL)
def test_a_decoder_may_be_off_by_nearly_the_margin_and_never_decodes_wrongly(
    codecs: dict[str, Any], name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    codec = codecs[name]
    monkeypatch.setattr(portable, "MARGIN", 2.0**-12)  # so that a small image has some to decide
    coded = codec.compress(image(128, 192)[None], **_rate(codec), portable=True)
    assert len(coded["strings"][2][0]) > 0
    expected = codec.decompress(**coded)["x_hat"]
    with noise(0.9):
        assert torch.equal(codec.decompress(**coded)["x_hat"], expected)
    with noise(10), pytest.raises(LabError, match="with larger errors in float64 than"):
        codec.decompress(**coded)


@pytest.mark.parametrize("name", SMALL)
def test_a_portable_stream_is_as_long_and_shows_the_same(codecs: dict[str, Any], name: str) -> None:
    codec, x = codecs[name], image(128, 192)[None]
    ordinary, other = (codec.compress(x, **_rate(codec), portable=way) for way in (False, True))
    lengths = [sum(len(s[0]) for s in coded["strings"]) for coded in (ordinary, other)]
    assert lengths[1] == pytest.approx(lengths[0], rel=2e-3)
    shown = [codec.decompress(**coded)["x_hat"] for coded in (ordinary, other)]
    assert (shown[0] - shown[1]).abs().mean() < 1e-3


def test_images_of_a_batch_decode_alone_and_in_any_size(codecs: dict[str, Any]) -> None:
    codec = codecs["windows"]
    x = torch.stack([image(33, 70), image(33, 70).flip(2)])
    coded = codec.compress(x, portable=True)
    together = codec.decompress(**coded)["x_hat"]
    for i in range(2):
        strings = [[streams[i]] for streams in coded["strings"]]
        alone = codec.decompress(strings, coded["shape"], coded["size"])["x_hat"]
        torch.testing.assert_close(alone[0], together[i], rtol=0, atol=1e-5)
    for size in ((1, 1), (7, 100)):
        codec.decompress(**codec.compress(image(*size)[None], portable=True))


@pytest.mark.parametrize("name", SMALL)
def test_where_tensors_are_made_by_default_is_of_no_matter(
    codecs: dict[str, Any], name: str
) -> None:
    codec, x = codecs[name], image(40, 60)[None]
    codec.compress(x, **_rate(codec))  # makes CompressAI's tables, which do ask for the default
    portable.portable_cdfs.cache_clear()
    with torch.no_grad():
        expected, coded = codec(x, **_rate(codec)), codec.compress(x, **_rate(codec), portable=True)
        portable.portable_cdfs.cache_clear()
        with torch.device("meta"):  # as a GPU would be, where what is on the CPU has no place
            assert torch.equal(codec(x, **_rate(codec))["x_hat"], expected["x_hat"])
            assert codec.compress(x, **_rate(codec), portable=True) == coded
            decoded = codec.decompress(**coded)["x_hat"]
    assert torch.equal(decoded, codec.decompress(**coded)["x_hat"])


def test_coding_leaves_weights_and_ordinary_streams_as_they_were(codecs: dict[str, Any]) -> None:
    codec, x = codecs["rates"], image(40, 40)[None]
    before = {name: (value.data_ptr(), value.clone()) for name, value in codec.state_dict().items()}
    ordinary = codec.compress(x, 0.5)
    codec.decompress(**codec.compress(x, 0.5, portable=True))
    assert codec.compress(x, 0.5) == ordinary
    after = codec.state_dict()
    for name in dict(codec.named_parameters()):
        assert after[name].data_ptr() == before[name][0]
        assert torch.equal(after[name], before[name][1])


def test_threads_code_as_one_does_and_leave_the_weights_as_they_were() -> None:
    codec, images = small_codec("rates"), [image(40 + 8 * i, 40)[None] for i in range(4)]
    codec.compress(images[0], 0.5)
    expected = {
        way: [codec.compress(x, 0.5, portable=way) for x in images] for way in (True, False)
    }
    shown = [codec.decompress(**coded)["x_hat"] for coded in expected[True]]
    before = {name: value.clone() for name, value in codec.named_parameters()}

    def code(turn: int) -> bool:
        i, portable = turn % len(images), turn % 3 != 0
        coded = codec.compress(images[i], 0.5, portable=portable)
        decoded = codec.decompress(**expected[True][i])["x_hat"]
        return coded == expected[portable][i] and torch.equal(decoded, shown[i])

    with ThreadPoolExecutor(4) as threads:
        assert all(threads.map(code, range(24)))
    for name, value in codec.named_parameters():
        assert torch.equal(value, before[name])
    assert copy.deepcopy(codec).compress(images[0], 0.5, portable=True) == expected[True][0]
    assert pickle.loads(pickle.dumps(codec)).compress(images[0], 0.5) == expected[False][0]


def test_whoever_reads_the_weights_waits_until_they_are_as_they_were(tmp_path: Path) -> None:
    codec, x = small_codec("rates"), image(40, 40)
    file = tmp_path / "codec.safetensors"

    def saved() -> list[object]:
        save_checkpoint(codec, file)
        return [(value.dtype, value.tolist()) for _, value in sorted(load_file(file).items())]

    uses: list[Callable[[], object]] = [
        lambda: codec(x[None], 0.5)["x_hat"].tolist(),
        lambda: encode_image(codec, x, 0.5),
        lambda: [value.tolist() for value in copy.deepcopy(codec).state_dict().values()],
        lambda: codec.aux_loss().item(),
        saved,
    ]
    expected = [use() for use in uses]
    begun = list[Future[object]]()

    def meanwhile(*_: object) -> None:
        hook.remove()
        begun.extend(map(threads.submit, uses))
        wait(begun, 0.2)

    hook = codec.entropy_model.register_forward_pre_hook(meanwhile)
    with ThreadPoolExecutor(len(uses)) as threads:
        codec.compress(x[None], 0.5, portable=True)
    assert [each.result() for each in begun] == expected


def test_files_that_threads_write_at_once_are_those_of_one() -> None:
    codec, x = small_codec("rates").train(), image(40, 40)
    expected = encode_image(codec, x, 0.5, portable=True)
    with ThreadPoolExecutor(3) as threads:
        files = threads.map(lambda _: encode_image(codec, x, 0.5, portable=True), range(9))
    assert {*files} == {expected}


def test_a_training_step_while_a_portable_stream_is_coded_is_not_lost_without_a_word() -> None:
    codec, x = small_codec("rates"), image(40, 40)[None]
    optimizer = torch.optim.SGD(codec.parameters(), lr=1e-3)
    before = {name: value.clone() for name, value in codec.state_dict().items()}
    for parameter in codec.parameters():
        parameter.grad = torch.ones_like(parameter)

    def meanwhile(*_: object) -> None:
        hook.remove()
        threads.submit(optimizer.step).result()

    hook = codec.entropy_model.register_forward_pre_hook(meanwhile)
    with ThreadPoolExecutor(1) as threads, pytest.raises(LabError, match="that change is lost"):
        codec.compress(x, 0.5, portable=True)
    kept = codec.state_dict()
    assert all(torch.equal(kept[name], before[name]) for name in kept if name.startswith("h_s."))
    optimizer.step()  # alone, it counts
    codec.compress(x, 0.5, portable=True)


def test_a_layer_in_float32_is_refused_and_named_for_what_it_is(own_layers: None) -> None:
    @tcm_lab.register_attention("single")
    class Single(nn.Module):
        def __init__(self, channels: int) -> None:
            super().__init__()
            self.scale = nn.Parameter(torch.ones(()))

        def forward(self, x: Tensor) -> Tensor:
            return (x.float() * self.scale.float()).to(x.dtype)

    with pytest.raises(LabError, match="attention 'single': computes in less than float64"):
        tcm_lab.testing.check_layer("single")


@pytest.mark.parametrize(
    "changes",
    [
        *({"entropy_model.attention": name} for name in ATTENTIONS),
        *({"h_s.width": 32, "h_s.depth": 1, "h_s.block": name} for name in BLOCKS),
        *({"h_s.resample": name} for name in RESAMPLERS if name != "none"),
    ],
    ids=lambda changes: [*changes.values()][-1],
)
def test_every_registered_layer_can_stand_in_the_entropy_path(changes: dict[str, Any]) -> None:
    codec = tcm_lab.build("tcm-nano", {"latent_channels": 64, "entropy_model.slices": 2, **changes})
    codec.eval()
    coded = codec.compress(image(64, 64)[None], portable=True)
    with ARITHMETICS["channels-first"](codec):
        codec.decompress(**coded)


@pytest.mark.parametrize("name", REFERENCES)
def test_reference_models_code_portably(name: str) -> None:
    model = tcm_lab.codec.build_reference_model(name).eval()
    fill(model)
    model.update()
    x = image(64, 64)[None]
    with torch.no_grad():
        plain = model.decompress(**model.compress(x))["x_hat"]
    before = {name: value.clone() for name, value in model.state_dict().items()}
    coder = PortableReference(model)
    coded = coder.compress(x)
    expected = coder.decompress(**coded)["x_hat"]
    assert (plain - expected).abs().mean() < 1e-3
    with ARITHMETICS["without-onednn"](model), noise(0.9):
        decoded = coder.decompress(**coded)["x_hat"]
    torch.testing.assert_close(decoded, expected, rtol=0, atol=1e-4)
    with pytest.raises(LabError, match="other symbols than the encoder wrote"):
        coder.decompress(**{**coded, "checksum": coded["checksum"] ^ 1})
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_two_coders_of_one_model_take_turns() -> None:
    model = tcm_lab.codec.build_reference_model("bmshj2018-hyperprior").eval()
    fill(model)
    coders, x = [PortableReference(model) for _ in range(2)], image(64, 64)[None]
    expected = coders[0].compress(x)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with ThreadPoolExecutor(2) as threads:
        coded = [*threads.map(lambda turn: coders[turn % 2].compress(x), range(8))]
    assert all(each == expected for each in coded)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_a_serial_context_is_refused_in_one_sentence() -> None:
    with pytest.raises(LabError, match="one position after another"):
        PortableReference(tcm_lab.build("compressai/mbt2018"))


# -- files ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", SMALL)
def test_committed_files_decode_for_ever(codecs: dict[str, Any], name: str) -> None:
    codec = codecs[name]
    with np.load(FILES / "images.npz") as images:
        expected = torch.from_numpy(images[name]).float()
    for arithmetic in ARITHMETICS.values():
        with arithmetic(codec):
            decoded = decode_image(codec, (FILES / f"{name}.tcm").read_bytes()).mul(255).round()
        assert (decoded - expected).abs().max() <= 1


def test_a_portable_file_says_so_and_an_ordinary_one_is_as_before(codecs: dict[str, Any]) -> None:
    codec = codecs["plain"]
    coded = codec.compress(image(60, 90)[None], portable=True)
    data = encode_image(codec, image(60, 90), portable=True)
    streams = b"".join(streams[0] for streams in coded["strings"])
    assert len(data) == 57 + len(streams)
    assert data[53:-4] == streams
    header = read_header(data)
    assert header.decision_bytes == len(coded["strings"][2][0])
    ordinary = encode_image(codec, image(60, 90))
    assert ordinary[4] == 2
    assert read_header(ordinary).decision_bytes is None
    assert struct.unpack_from("<II", ordinary, 37)[0] == len(
        codec.compress(image(60, 90)[None])["strings"][0][0]
    )


# -- a GPU ---------------------------------------------------------------------------------------


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("precision", ["highest", "high"])
@pytest.mark.parametrize("transforms", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name", SMALL)
def test_files_of_the_cpu_decode_on_the_gpu_and_the_other_way_round(
    name: str, transforms: torch.dtype, precision: str
) -> None:
    here, there = small_codec(name), small_codec(name).cuda()
    x = image(256, 384)[None]
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision(precision)
    try:
        with torch.autocast("cuda", transforms, enabled=transforms != torch.float32):
            there.decompress(**here.compress(x, **_rate(here), portable=True))
            coded = there.compress(x.cuda(), **_rate(here), portable=True)
    finally:
        torch.set_float32_matmul_precision(before)
    here.decompress(**coded)


def test_weights_that_were_made_for_inference_code_portably() -> None:
    with torch.inference_mode():
        codec = small_codec("rates")
    coded = codec.compress(image(40, 40)[None], 0.5, portable=True)
    assert codec.decompress(**coded)["x_hat"].shape == (1, 3, 40, 40)
