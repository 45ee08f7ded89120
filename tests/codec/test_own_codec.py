"""A codec of the user's own: named on a command line, counted, timed, trained, coded, analysed."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

import tcm_lab
from tcm_lab._compat.torchvision import import_compressai
from tcm_lab.analysis import decoder_erf_maps, erf_maps, erf_options, measure_latents
from tcm_lab.cli import main
from tcm_lab.cli.models import entries
from tcm_lab.codec import (
    CheckpointError,
    build,
    load_foreign,
    load_weights,
    read_state,
    save_checkpoint,
    save_weights,
)
from tcm_lab.codec.adapter import evaluating
from tcm_lab.complexity import UncountedWarning, check, measure_complexity
from tcm_lab.data import open_images
from tcm_lab.errors import LabError
from tcm_lab.evaluation import evaluate
from tcm_lab.training import read_recipe

FILE = Path(__file__).with_name("own_codec.py")
OWN = f"{FILE}:Own"
SIZE = (70, 100)
PADDED = (128, 128)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Holds an image whose sides no stride divides, and weights of two trainings."""
    folder = tmp_path_factory.mktemp("own")
    rows, columns = np.mgrid[0:133, 0:140]
    waves = np.stack([rows, columns, (rows + columns) // 2], axis=-1)
    (folder / "images").mkdir()
    Image.fromarray(waves.astype(np.uint8)).save(folder / "images" / "waves.png")
    for seed in (0, 1):
        state = build(OWN, seed=seed).state_dict()
        wrapped = {f"module.{name}": value for name, value in state.items()}
        torch.save({"state_dict": wrapped, "epoch": 3}, folder / f"{seed}.pth")
    return folder


def counted_in(codec: nn.Module, x: Tensor) -> tuple[int, int]:
    """Return the MACs that torch sees while the codec really codes an image."""
    codec.eval().update()  # type: ignore[operator]
    with torch.no_grad():
        with FlopCounterMode(display=False) as encoding:
            coded = codec.compress(x)  # type: ignore[operator]
        with FlopCounterMode(display=False) as decoding:
            codec.decompress(**coded)  # type: ignore[operator]
    return encoding.get_total_flops() // 2, decoding.get_total_flops() // 2


@pytest.mark.parametrize("factory", ["Own", "Named"])
def test_what_only_the_encoder_runs_is_not_charged_to_the_decoder(factory: str) -> None:
    codec = build(f"{FILE}:{factory}")
    record = measure_complexity(codec, SIZE)
    assert record.padded_size == PADDED
    encoded, decoded = counted_in(codec, torch.rand(1, 3, *PADDED))
    loose = 12 * 12 * PADDED[0] * PADDED[1] // 16**2  # a product outside of every layer
    assert record.total_macs("encode") == encoded
    assert record.total_macs("decode") == decoded + loose
    assert (
        record.total_macs()
        == encoded + record.macs_by_part()["g_s" if factory == "Named" else "decoder"]
    )
    hyper = {"h_a", "h_s"} if factory == "Named" else {"hyper", "hyper (encode only)"}
    assert hyper <= record.parts.keys()


def test_a_layer_with_a_parametrised_weight_is_charged_where_it_runs() -> None:
    codec, plain = build(OWN), measure_complexity(OWN, SIZE)
    for layer in codec.hyper["down"]:
        if isinstance(layer, nn.Conv2d):
            nn.utils.parametrizations.weight_norm(layer)
    record = measure_complexity(codec, SIZE)
    for scope in ("whole", "encode", "decode"):
        assert record.total_macs(scope) == plain.total_macs(scope)


def test_a_codec_that_cannot_code_is_counted_with_a_warning() -> None:
    with pytest.warns(UncountedWarning, match="every part is charged .* attribute parts"):
        record = measure_complexity(f"{FILE}:Mute", (64, 64))
    assert record.encode_kmacs_per_px == record.decode_kmacs_per_px == pytest.approx(0.009)


@pytest.mark.filterwarnings("default:features.*is counted as a network")
def test_what_takes_no_image_is_one_error(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("complexity", f"{FILE}:features", "--size", "64x64") == 2
    told = "error: features: a forward pass on an image of 64x64 fails: RuntimeError: mat1 and mat2"
    assert told in capsys.readouterr().err


@pytest.mark.filterwarnings("default:network.*is counted as a network")
def test_a_network_that_is_no_codec_is_counted_as_such_and_codes_nothing(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    network = f"{FILE}:network"
    assert run("complexity", network, "--size", "64x64", "--format", "json") == 0
    out, err = capsys.readouterr()
    (counted,) = json.loads(out)
    assert counted["encode_kmacs_per_px"] == counted["decode_kmacs_per_px"] == 0.216  # 2·3·4·3²
    assert "warning: network: is counted as a network, not as a codec" in err
    assert run("complexity", f"{FILE}:Named", "--size", "64x64") == 0
    assert capsys.readouterr().err == ""
    for command in (("time", network), ("evaluate", network, "--data", folder / "images")):
        assert run(*command) == 2
        assert "network: cannot code images, since it lacks compress()" in capsys.readouterr().err


def test_the_verdict_of_a_check_is_torchs_and_other_tools_blind_spots_are_notes() -> None:
    report = check(OWN, (64, 64))
    assert report.agrees
    (note,) = report.notes
    assert re.match(r"ptflops differs by -[\d,]+ MACs .* it uses @ or matmul, ELU", note)


def test_weights_are_found_in_what_a_training_loop_saves(folder: Path, tmp_path: Path) -> None:
    codec = load_foreign(f"{FILE}:make", folder / "1.pth")
    for name, value in build(OWN, seed=1).named_parameters():
        assert torch.equal(codec.get_parameter(name), value), name
    save_weights(codec, tmp_path / "own.safetensors", {"recipe": {"steps": 2}})
    again = load_weights(build(OWN), tmp_path / "own.safetensors")
    assert torch.equal(again.get_parameter("mixing"), codec.get_parameter("mixing"))
    recipe = read_recipe(tmp_path / "own.safetensors")
    assert recipe is not None
    assert recipe.steps == 2


def test_tables_that_a_codec_has_follow_the_weights_that_it_is_given(folder: Path) -> None:
    trained = build("compressai/bmshj2018-factorized", {"quality": 1})
    with torch.no_grad():
        trained.g_a[-1].weight.mul_(100)
        trained.entropy_bottleneck.quantiles.mul_(5)
        trained.entropy_bottleneck.matrices[0].sub_(2)
    images = open_images(folder / "images", "eval")
    points = []
    for has_tables in (False, True):
        codec = build("compressai/bmshj2018-factorized", {"quality": 1})
        if has_tables:  # of the random weights
            codec.update()
        points += evaluate(load_weights(codec, trained.state_dict()), images).points
    assert points[0].bpp == points[1].bpp


def test_a_recipe_that_cannot_be_read_is_warned_of(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "model.safetensors"
    save_checkpoint(build("tcm-nano"), path, {"recipe": {"steps": -1}})
    assert read_recipe(path) is None
    assert f"{path}: its recipe cannot be read: steps = -1" in caplog.text


def test_weights_need_not_hold_what_every_codec_computes_itself(tmp_path: Path) -> None:
    theirs = build("compressai/mbt2018-mean", {"quality": 1})
    derived = ("target", "bound", "pedestal", "scale_bound")
    old = {n: v for n, v in theirs.state_dict().items() if n.rpartition(".")[2] not in derived}
    assert len(old) < len(theirs.state_dict())
    again = load_weights(build("compressai/mbt2018-mean", {"quality": 1}, seed=1), old)
    for name, value in theirs.named_parameters():
        assert torch.equal(again.get_parameter(name), value)
    ours = build("tcm-nano", seed=2)
    save_checkpoint(ours, tmp_path / "ours.safetensors")
    loaded = load_weights(build("tcm-nano"), tmp_path / "ours.safetensors")
    for name, value in ours.named_parameters():
        assert torch.equal(loaded.get_parameter(name), value)


@pytest.mark.parametrize("lost", [2, 3, 4, 7])
def test_weights_that_do_not_fit_name_three_faults_and_count_all(lost: int) -> None:
    codec = build("compressai/mbt2018-mean", {"quality": 1})
    names = [name for name, _ in codec.named_parameters()][-lost:]
    state = {name: value for name, value in codec.state_dict().items() if name not in names}
    with pytest.raises(CheckpointError) as caught:
        load_weights(build("compressai/mbt2018-mean", {"quality": 1}), state)
    listed = ", ".join(names) if lost <= 3 else f"{', '.join(names[:3])}, …"
    assert str(caught.value).endswith(f": {lost} missing ({listed})")


def test_tables_follow_weights_that_change_between_evaluations(folder: Path) -> None:
    images = open_images(folder / "images", "eval")
    used, fresh = (build("compressai/bmshj2018-factorized", {"quality": 1}) for _ in range(2))
    evaluate(used, images)
    for codec in (used, fresh):
        with torch.no_grad():
            codec.entropy_bottleneck.quantiles.mul_(5)
            codec.entropy_bottleneck.matrices[0].sub_(2)
    rates = [evaluate(codec, images).points[0].bpp for codec in (used, fresh)]
    assert rates[0] == rates[1]


def test_a_class_finds_its_widths_in_the_weights_as_compressais_models_do(tmp_path: Path) -> None:
    import_compressai()
    wide = build("compressai/mbt2018-mean", {"quality": 8})
    torch.save(wide.state_dict(), tmp_path / "wide.pth")
    codec = load_foreign("compressai/mbt2018-mean", tmp_path / "wide.pth")
    assert codec.M == wide.M != build("compressai/mbt2018-mean").M


def test_a_class_without_default_widths_finds_them_in_the_weights(
    folder: Path, tmp_path: Path
) -> None:
    narrow = build(f"{FILE}:Unsized", {"width": 4, "latent": 6})
    wrapped = {f"module.{name}": value for name, value in narrow.state_dict().items()}
    torch.save({"state_dict": wrapped, "epoch": 3}, tmp_path / "narrow.pth")
    codec = load_foreign(f"{FILE}:Unsized", tmp_path / "narrow.pth")
    assert torch.equal(codec.encoder[4].weight, narrow.encoder[4].weight)
    assert measure_complexity(codec, (64, 64)).model == "Unsized"
    with pytest.raises(CheckpointError, match=r"none\.pth: cannot be read"):
        load_foreign(f"{FILE}:Unsized", tmp_path / "none.pth")
    torch.save({"encoder": torch.eye(2)}, tmp_path / "other.pth")
    with pytest.raises(LabError, match="missing a required argument: 'width'"):
        load_foreign(f"{FILE}:Unsized", tmp_path / "other.pth")


def test_what_takes_weights_takes_the_arguments_that_they_were_made_with(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make, weights = f"{FILE}:make", tmp_path / "wide.pth"
    torch.save(build(make, {"width": 16}).state_dict(), weights)
    given = ("--checkpoint", weights, "--set", "width=16", "--data", folder / "images")
    assert run("evaluate", make, "tcm-nano", *given, "--format", "csv") == 0
    rows = capsys.readouterr().out.splitlines()[1:]
    assert [row.split(",")[0] for row in rows] == ["make width=16", *["tcm-nano"] * 4]
    erf = ("--layer", "encoder", "--probes", "2", "--side", "64", "--out", tmp_path / "erf")
    assert run("analyze", "erf", make, *given, *erf) == 0
    capsys.readouterr()
    assert run("evaluate", "tcm-nano", "--set", "width=16") == 2
    assert "--set width=16: applies only to a codec of your own" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("none.py:make", "none.py: no such file"),
        ("no_such_module.models:make", "no_such_module.models: no such module"),
        (f"{FILE}:mak", "has no 'mak'. Did you mean make"),
        (f"{FILE}:no_codec", "returns str"),
        (f"{FILE}:NUMBER", "NUMBER is neither a function nor a class"),
    ],
)
def test_a_name_that_means_no_codec_is_refused(name: str, words: str) -> None:
    with pytest.raises(LabError, match=re.escape(words)) as refused:
        build(name)
    assert "--import" not in str(refused.value)
    with pytest.raises(LabError, match=r"called with N: .* it takes \(width: 'int' = 8\)"):
        build(f"{FILE}:make", {"N": 3})


def test_a_weight_is_loaded_though_its_name_ends_as_a_table_s(tmp_path: Path) -> None:
    class Shifted(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.pixel_offset = nn.Parameter(torch.zeros(3, 1, 1))
            for table in ("_offset", "_cdf_length", "_quantized_cdf"):
                self.register_buffer(table, torch.zeros(0, dtype=torch.int32))

    trained, fresh = Shifted(), Shifted()
    with torch.no_grad():
        trained.pixel_offset.fill_(0.25)
    trained.register_buffer("_offset", torch.ones(7, dtype=torch.int32))  # a table, made to code
    save_weights(trained, tmp_path / "weights.safetensors", {})
    load_weights(fresh, tmp_path / "weights.safetensors")
    assert (fresh.pixel_offset == 0.25).all()
    assert fresh.get_buffer("_offset").numel() == 0


def test_evaluating_leaves_each_module_in_its_own_mode() -> None:
    codec = nn.Sequential(nn.Dropout(), nn.BatchNorm2d(3))
    codec.train()
    codec[1].eval()  # as one freezes statistics
    with evaluating(codec):
        assert not any(module.training for module in codec.modules())
    assert [module.training for module in codec.modules()] == [True, True, False]


def test_of_those_who_evaluate_at_once_the_last_restores_the_modes() -> None:
    codec = nn.Sequential(nn.Dropout(), nn.Dropout().eval())
    before = [module.training for module in codec.modules()]
    first, second = evaluating(nn.Sequential(codec)), evaluating(codec)
    for block in (first, second):
        block.__enter__()
    first.__exit__(None, None, None)  # as a thread may that came first
    assert not any(module.training for module in codec.modules())
    second.__exit__(None, None, None)
    assert [module.training for module in codec.modules()] == before


def test_weights_that_do_not_fit_are_named(folder: Path) -> None:
    state = build(OWN).state_dict()
    state["mixing"] = torch.eye(3)
    state["more"] = state.pop("encoder.0.weight")
    with pytest.raises(CheckpointError) as refused:
        load_weights(build(OWN), state)
    for words in (
        "1 missing (encoder.0.weight)",
        "1 unknown (more)",
        "1 of another shape (mixing is (3, 3), not (12, 12))",
    ):
        assert words in str(refused.value)


def run(*arguments: object) -> int:
    return main([str(argument) for argument in arguments])


def test_every_command_takes_it_with_its_weights(
    folder: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    weights = ("--checkpoint", folder / "0.pth")
    images = ("--data", folder / "images")
    assert run("complexity", OWN, "--size", "64x64", "--check") == 0
    assert run("complexity", f"{FILE}:make", "--set", "width=16", "--size", "64x64") == 0
    assert "make width=16" in capsys.readouterr().out
    quick = ("--size", "40x50", "--repeats", "2", "--seconds", "0", "--warm-up", "0")
    assert run("time", OWN, *weights, *quick, "--stages") == 0
    assert "hyper.up" in capsys.readouterr().out
    records = tmp_path / "rd.json"
    both = (*weights, folder / "1.pth")
    assert run("evaluate", OWN, *both, *images, "--format", "json", "--out", records) == 0
    assert [len(each["bpp"]) for each in json.loads(records.read_text())] == [1, 1]
    out = ("--out", tmp_path / "analysis")
    assert run("analyze", "erf", OWN, *weights, *images, *out) == 2
    assert "map it to g_a in an attribute parts" in capsys.readouterr().err
    erf = ("--layer", "encoder", "--probes", "2", "--side", "64")
    assert run("analyze", "erf", OWN, *weights, *images, *out, *erf) == 0


def test_analyses_pad_for_it_and_find_its_modules(folder: Path) -> None:
    images = open_images(folder / "images", "eval")
    for factory, layer in (("Own", "encoder"), ("Named", None)):
        codec = load_foreign(f"{FILE}:{factory}", folder / "0.pth")
        (field,) = erf_maps(codec, images, erf_options(layer=layer, probes=2, side=64))
        assert field.position == (2, 2)
        latents = measure_latents(codec, images)
        assert latents.model == factory.replace("N", "n")
    with pytest.raises(LabError, match=r"\(--layer\), encoder, decoder, .* or"):
        erf_maps(load_foreign(f"{FILE}:Own", folder / "0.pth"), images)
    image = images[0][None, :, :128, :128] / 255
    assert decoder_erf_maps(codec, image, erf_options(probes=2))[0].wrt == "y_hat"


def test_it_is_trained_and_its_weights_say_how(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    quick = ("--steps", "1", "--batch", "1", "--crop", "64", "--lambdas", "0.01")
    images = ("--data", folder / "images")
    assert (
        run(
            "train",
            OWN,
            "--out",
            tmp_path,
            *images,
            "--eval-data",
            images[1],
            "--recipe",
            "scratch",
            *quick,
        )
        == 0
    )
    weights = tmp_path / "model.safetensors"
    assert run("evaluate", OWN, "--checkpoint", weights, *images, "--format", "csv") == 0
    row = capsys.readouterr().out.splitlines()[-1]
    assert row.startswith("Own,0.01,")


def test_what_a_codec_tells_beside_its_bytes_and_an_update_without_options_are_taken(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    images = open_images(folder / "images", "eval")
    plain, wordy = (evaluate(build(f"{FILE}:{each}"), images) for each in ("Own", "Wordy"))
    told, expected = (record.points[0].images[0] for record in (wordy, plain))
    assert (told.bits, told.payload_bits) == (expected.bits, expected.payload_bits)
    assert told.psnr_db == expected.psnr_db
    quick = ("--size", "64x64", "--repeats", "1", "--seconds", "0", "--warm-up", "0")
    assert run("time", f"{FILE}:Wordy", *quick) == 0
    parts = [set(measure_complexity(f"{FILE}:{each}", (64, 64)).parts) for each in ("Own", "Wordy")]
    assert parts[0] == parts[1]
    how = ("--recipe", "scratch", "--lambdas", "0.01", "--steps", "1", "--batch", "1")
    where = ("--data", folder / "images", "--out", tmp_path / "out", "--skip-evaluation")
    assert run("train", f"{FILE}:Wordy", *how, *where) == 0
    capsys.readouterr()
    assert run("train", f"{FILE}:Wordy", *how, "--crop", "100", *where[:3], tmp_path / "2") == 2
    refusal = "crop = 100: Wordy takes sides that are multiples of 64, its downsampling_factor."
    assert f"{refusal} Crop to 64 or 128." in capsys.readouterr().err


def test_a_decoder_that_takes_what_the_encoder_does_not_return_is_one_message(folder: Path) -> None:
    class Apart(nn.Module):
        def compress(self, x: Tensor) -> dict[str, Any]:
            return {"strings": [[b"x"]], "shape": x.shape}

        def decompress(self, strings: Any, size: Any) -> dict[str, Tensor]:
            raise AssertionError

    with pytest.raises(LabError, match=r"Apart: compress\(\) returns strings, shape, .*'size'"):
        evaluate(Apart(), open_images(folder / "images", "eval"))


def test_what_cannot_be_evaluated_is_said_before_it_is_trained(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "uncoded.py").write_text(
        "from torch import nn\n"
        "class Plain(nn.Module):\n"
        "    def __init__(self):\n"
        "        super().__init__()\n"
        "        self.net = nn.Conv2d(3, 3, 1)\n"
        "    def forward(self, x):\n"
        "        return {'x_hat': self.net(x), 'likelihoods': {'y': self.net(x).sigmoid()}}\n"
    )
    how = ("--recipe", "scratch", "--lambdas", "0.01", "--steps", "1", "--batch", "1")
    where = ("--data", folder / "images", "--out", tmp_path / "out")
    assert run("train", f"{tmp_path / 'uncoded.py'}:Plain", *how, *where) == 2
    assert "Plain: cannot be evaluated, since it lacks compress()" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
    assert run("train", f"{tmp_path / 'uncoded.py'}:Plain", *how, *where, "--skip-evaluation") == 0


def test_one_with_rate_levels_is_trained_at_the_recipes_lambdas_spread_over_them(
    folder: Path, tmp_path: Path
) -> None:
    tiny = f"{Path(__file__).parents[1] / 'training' / 'stand_in.py'}:TinyCodec"
    quick = ("--steps", "1", "--batch", "1", "--crop", "64", "--skip-evaluation")
    images = ("--data", folder / "images", "--out", tmp_path)
    assert run("train", tiny, "--set", "levels=2", "--recipe", "published", *images, *quick) == 0
    recipe = read_recipe(tmp_path / "model.safetensors")
    assert recipe is not None
    assert recipe.lambdas == pytest.approx((0.0025, 0.05))


def test_each_of_several_models_gets_its_own_weights_in_order() -> None:
    first, second = Path("first.pth"), Path("second.pth")
    for models in ((OWN, OWN), (OWN, f"{FILE}:make"), ("tcm-nano", OWN, OWN)):
        found = [each.weights for each in entries(models, (first, second))]
        assert found == [*([None] if models[0] == "tcm-nano" else []), first, second]
    both = entries((OWN, "tcm-nano"), (first, second), ("width=16",))
    assert [each.weights for each in both] == [first, second, None]
    assert [each.arguments for each in both] == [("width=16",), ("width=16",), ()]


def test_weights_that_belong_to_no_model_are_refused(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("complexity", "tcm-nano", "--checkpoint", folder / "0.pth") == 2
    assert "my_codec.py:factory" in capsys.readouterr().err
    three = [folder / "0.pth"] * 3
    assert run("time", OWN, f"{FILE}:make", "--checkpoint", *three) == 2
    assert "3 files for 2 models" in capsys.readouterr().err
    assert run("evaluate", folder / "0.pth") == 2
    assert f"my_codec.py:factory --checkpoint {folder / '0.pth'} on" in capsys.readouterr().err


def test_python_takes_it_by_name_too() -> None:
    assert tcm_lab.measure_complexity(OWN, SIZE) == measure_complexity(build(OWN), SIZE)


def test_a_models_tensors_are_found_beside_those_of_a_larger_one() -> None:
    own = build(OWN).state_dict()
    other = {f"layers.{i}.weight": torch.zeros(3) for i in range(2 * len(own))}
    tree = {"codec": {f"module.{name}": v for name, v in own.items()}, "critic": other, "epoch": 3}
    assert read_state(tree, own.keys()).keys() == own.keys()
    assert own.keys().isdisjoint(read_state({"critic": other}, own.keys()))
