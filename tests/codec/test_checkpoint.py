"""Weights in files: ours, and the TCM authors' layout however it is wrapped."""

import copy
import pickle
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning_fabric import Fabric
from safetensors.torch import save_file
from torch import Tensor
from torch.optim.swa_utils import AveragedModel

import tcm_lab
from tcm_lab._compat.onednn import safe_strided_convolutions
from tcm_lab.codec import (
    LAYOUTS,
    CodecAdapter,
    export_checkpoint,
    export_state,
    load_weights,
    part_costs,
    read_extra,
    save_checkpoint,
    save_weights,
)
from tcm_lab.codec.container import weights_fingerprint
from tcm_lab.errors import LabError
from tcm_lab.training import Recipe, SuperNet, train
from tcm_lab.training.start import warm_start

State = dict[str, Tensor]
#: Names of the coding tables of CompressAI's entropy models.
TABLES = ("_quantized_cdf", "_offset", "_cdf_length", "scale_table")
#: The paper's architecture, narrow: M = 40 in 5 slices, one block in each stage.
NARROW = {
    "?_?.width": 16,
    "?_?.head_dim": 4,
    "?_?.window_size": 4,
    "latent_channels": 40,
    "hyper_channels": 12,
    "entropy_model.scale_table": "compressai",
    "entropy_model.hidden": [12, 8],
    "entropy_model.attention.squeeze": 16,
    "entropy_model.attention.head_dim": 4,
    "entropy_model.attention.window_size": 4,
}


class Engine(torch.nn.Module):
    """As DeepSpeed's: it keeps the model as its module, and answers for nothing."""

    def __init__(self, module: torch.nn.Module) -> None:
        super().__init__()
        self.module = module


class Lit(torch.nn.Module):
    """A user's own training module: a codec and more."""

    def __init__(self, codec: torch.nn.Module) -> None:
        super().__init__()
        self.codec, self.post = codec, torch.nn.Conv2d(3, 3, 3)


@pytest.fixture(scope="module")
def codec() -> Any:
    return tcm_lab.build("tcm-small", NARROW).eval()


@pytest.fixture(scope="module")
def theirs(codec: Any) -> State:
    return export_state(codec)


def _weights(codec: Any) -> State:
    return {name: value.detach() for name, value in codec.named_parameters()}


def _assert_equal(a: State, b: State) -> None:
    assert a.keys() == b.keys()
    assert not [name for name in a if not torch.equal(a[name], b[name])]


def _below(prefix: str, state: State) -> State:
    return {f"{prefix}{name}": value for name, value in state.items()}


def _cyclic(tree: dict[str, Any]) -> dict[str, Any]:
    """Let a checkpoint hold itself, as an object's ``__dict__`` may."""
    tree["self"] = tree
    return tree


def _as_it_is(state: State) -> Any:
    return state


def _inside(state: State) -> Any:
    return {"epoch": 49, "state_dict": state, "loss": 0.5, "lr": [1e-4]}


def _parallel(state: State) -> Any:
    return {"state_dict": {f"module.{name}": value for name, value in state.items()}}


def _renamed(state: State) -> Any:
    new = {"_matrix": "matrices.", "_bias": "biases.", "_factor": "factors."}

    def rename(name: str) -> str:
        for old, list_name in new.items():
            name = name.replace(f"entropy_bottleneck.{old}", f"entropy_bottleneck.{list_name}")
        return name

    renamed = {rename(name): value for name, value in state.items()}
    assert "entropy_bottleneck.matrices.0" in renamed
    return renamed


def _coded_once(state: State) -> Any:
    """As a file that was saved after update(): its derived tables are filled."""
    tables = {"_quantized_cdf": (64, 3133), "_offset": (64,), "_cdf_length": (64,)}
    return {
        name: torch.zeros(tables[name.rpartition(".")[2]], dtype=torch.int32)
        if name.rpartition(".")[2] in tables
        else value
        for name, value in state.items()
    }


@pytest.mark.parametrize("wrap", [_as_it_is, _inside, _parallel, _renamed, _coded_once])
@pytest.mark.parametrize("in_file", [True, False], ids=["file", "state"])
def test_the_authors_layout_is_recognised_however_it_is_wrapped(
    codec: Any, theirs: State, wrap: Callable[[State], Any], in_file: bool, tmp_path: Path
) -> None:
    source: Any = wrap(theirs)
    if in_file:
        torch.save(source, tmp_path / "theirs.pth.tar")
        source = tmp_path / "theirs.pth.tar"
    loaded = tcm_lab.load_checkpoint(source)
    assert not loaded.training
    assert loaded.config.fingerprint == codec.config.fingerprint
    _assert_equal(_weights(loaded), _weights(codec))


def test_exporting_what_was_loaded_changes_nothing(
    codec: Any, theirs: State, tmp_path: Path
) -> None:
    loaded = tcm_lab.load_checkpoint(theirs)
    _assert_equal(export_state(loaded), theirs)
    export_checkpoint(loaded, tmp_path / "export.pth.tar")
    again = tcm_lab.load_checkpoint(tmp_path / "export.pth.tar")
    _assert_equal(_weights(again), _weights(codec))
    x = torch.rand(1, 3, 40, 40)
    assert again.compress(x) == codec.compress(x)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"?_?.width": 24},
        {"latent_channels": 60, "entropy_model.slices": 10},
        {"entropy_model.slices": 10, "entropy_model.support": 7},
        {"entropy_model.slices": 1},
        {"hyper_channels": 8, "?_?.window_size": 2},
        {"g_a.depth": [1, 2, 3], "g_a.head_dim": [2, 4, 8], "h_s.depth": 1},
        {"entropy_model.attention": "none"},
        {"entropy_model.attention.squeeze": 8, "entropy_model.attention.window_size": 8},
        {"entropy_model.hidden": [6, 20]},
    ],
)
def test_the_architecture_is_read_off_the_shapes(changes: dict[str, Any]) -> None:
    config = tcm_lab.load_config("tcm-small").override({**NARROW, **changes})
    loaded = tcm_lab.load_checkpoint(export_state(tcm_lab.build(config)))
    assert loaded.config.fingerprint == config.fingerprint


@pytest.mark.parametrize("name", ["tcm-small", "tcm-medium", "tcm-large"])
def test_a_size_of_the_paper_gets_its_preset_s_name(name: str) -> None:
    state = export_state(tcm_lab.build(name, device="meta"))
    inferred = LAYOUTS["lic_tcm"].infer_config(state)
    assert inferred.name == name
    assert inferred.entropy_model.scale_table == "compressai"  # as theirs codes
    fine = inferred.override({"entropy_model.scale_table": "fine"})
    assert fine.fingerprint == tcm_lab.load_config(name).fingerprint != inferred.fingerprint


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"g_a.split": 0.25}, r"g_a\.stages\.0\.block\.split would be 0\.5 instead of 0\.25"),
        ({"rate_levels": 3}, "rate_levels would be 0 instead of 3"),
        ({"entropy_model.checkerboard": True}, "entropy_model"),
        ({"entropy_model.lrp": "before-attention"}, "would be 'after-attention' instead"),
        ({"g_a.block": "swin"}, "not of that family"),
        ({"g_?.stages.0.resample": "patch"}, "not of that family"),
        ({"g_a.alternate_shift": False}, "alternate_shift would be True instead of False"),
    ],
)
def test_a_codec_that_a_layout_cannot_hold_is_not_exported(
    changes: dict[str, Any], message: str, tmp_path: Path
) -> None:
    codec = tcm_lab.build("tcm-small", {**NARROW, **changes})
    with pytest.raises(LabError, match=f"cannot be written in the layout lic_tcm: .*({message})"):
        export_checkpoint(codec, tmp_path / "other.pth.tar")
    assert not any(tmp_path.iterdir())


HELD = {
    ("tcm-small", "lic_tcm"), ("tcm-auxt", "lic_tcm"), ("dcae", "dcae"),
    ("hpcm-base", "hpcm"), ("mlicpp", "mlicpp"),
}  # fmt: skip


@pytest.mark.parametrize(
    "name",
    [
        *("tcm-small", "tcm-nano", "tcm-one-window", "tcm-auxt", "stf", "dcae", "dcae-nano"),
        *("hpcm-base", "hpcm-nano", "mlicpp", "mlicpp-nano"),
    ],
)
def test_a_layout_holds_the_whole_architecture_or_refuses_it(name: str) -> None:
    codec = tcm_lab.build(name, device="meta")
    for layout, known in LAYOUTS.items():
        if (name, layout) not in HELD:
            with pytest.raises(LabError, match=f"{name} cannot be written in the layout {layout}:"):
                export_state(codec, layout)
            continue
        read = known.infer_config(export_state(codec, layout))
        table = {"entropy_model.scale_table": codec.config.entropy_model.scale_table}
        assert read.override(table).fingerprint == codec.config.fingerprint


def test_an_unknown_layout_is_answered_with_the_known(codec: Any) -> None:
    with pytest.raises(LabError, match=r"no layout is called 'lic-tcm'\. Did you mean lic_tcm\?"):
        export_state(codec, "lic-tcm")


def test_a_codec_is_pickled_with_its_weights(codec: Any) -> None:
    again = pickle.loads(pickle.dumps(codec))
    assert again.config == codec.config
    _assert_equal(_weights(again), _weights(codec))


def test_a_missing_tensor_is_named(theirs: State) -> None:
    state = {k: v for k, v in theirs.items() if k != "g_s.4.conv1_1.weight"}
    with pytest.raises(LabError, match=r"1 missing \(g_s\.4\.conv1_1\.weight\)"):
        tcm_lab.load_checkpoint(state)


def test_a_missing_tensor_that_says_the_architecture_is_named(theirs: State) -> None:
    state = {k: v for k, v in theirs.items() if k != "entropy_bottleneck.quantiles"}
    with pytest.raises(LabError, match=r"'entropy_bottleneck\.quantiles' is missing"):
        tcm_lab.load_checkpoint(state)


def test_a_tensor_of_a_wrong_shape_is_named_with_both_shapes(theirs: State) -> None:
    state = {**theirs, "lrp_transforms.2.0.bias": torch.zeros(7)}
    message = r"1 of another shape \(lrp_transforms\.2\.0\.bias is \(7,\), not \(12,\)\)"
    with pytest.raises(LabError, match=message):
        tcm_lab.load_checkpoint(state)


def test_an_unknown_tensor_is_named(theirs: State) -> None:
    with pytest.raises(LabError, match=r"1 unknown \(h_x\.weight\)"):
        tcm_lab.load_checkpoint({**theirs, "h_x.weight": torch.zeros(1)})


@pytest.mark.filterwarnings("ignore:torch.quantize_per_tensor")
@pytest.mark.parametrize(
    ("change", "kind"),
    [
        (lambda value: value.to(torch.int8), "int8"),
        (lambda value: value > 0, "bool"),
        (lambda value: value.to(torch.complex64), "complex64"),
        (lambda value: value.to("meta"), "meta"),
        (lambda value: value.to_sparse(), "sparse_coo"),
        (lambda value: torch.quantize_per_tensor(value, 0.1, 0, torch.qint8), "qint8"),
    ],
)
def test_a_tensor_of_other_numbers_is_named_with_its_kind(
    codec: Any, change: Callable[[Tensor], Tensor], kind: str
) -> None:
    state = codec.state_dict()
    name = "g_a.stages.0.resample.conv1.weight"
    state[name] = change(state[name])
    words = rf"1 not plain floating-point numbers \(g_a\.stages\.0\..*weight is {kind}\)"
    with pytest.raises(LabError, match=words):
        load_weights(copy.deepcopy(codec), state)


class _Payload:
    """What a hostile file would run when it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> Any:
        return (Path.touch, (self.mark,))


@pytest.mark.parametrize("through_torch", [True, False], ids=["torch file", "bare pickle"])
def test_code_in_a_file_is_refused_and_not_executed(
    theirs: State, through_torch: bool, tmp_path: Path
) -> None:
    hostile = {"state_dict": theirs, "extra": _Payload(tmp_path / "executed")}
    path = tmp_path / "hostile.pth"
    if through_torch:
        torch.save(hostile, path)
    else:
        path.write_bytes(pickle.dumps(hostile["extra"]))
    with pytest.raises(LabError, match=r"hostile\.pth: .*never unpickled"):
        tcm_lab.load_checkpoint(path)
    assert not (tmp_path / "executed").exists()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "neither a safetensors nor a torch file"),
        (b"\x89PNG\r\n\x1a\n" + bytes(100), "never unpickled|neither a safetensors nor"),
        ((1 << 40).to_bytes(8, "little") + b"{}", "not a complete safetensors file"),
        (b"PK\x03\x04" + bytes(50), "neither a safetensors nor a torch file"),
    ],
)
def test_a_file_that_is_no_checkpoint_is_refused(
    content: bytes, message: str, tmp_path: Path
) -> None:
    path = tmp_path / "file.bin"
    path.write_bytes(content)
    with pytest.raises(LabError, match=message) as raised:
        tcm_lab.load_checkpoint(path)
    assert str(path) in str(raised.value)


@pytest.mark.parametrize(
    "damaged", ["", "{", "3", "null", '[{"a": 1}]', "[" * 100_000, "1" * 5_000]
)
@pytest.mark.parametrize("fields", [("config",), ("config", "imports"), ("imports", "extra")])
def test_damaged_metadata_end_in_one_error_or_do_not_matter(
    damaged: str, fields: tuple[str, ...], tmp_path: Path
) -> None:
    path = tmp_path / "model.safetensors"
    metadata = {
        "format": "tcm_lab.codec/1",
        "config": tcm_lab.load_config("tcm-nano").model_dump_json(),
        **dict.fromkeys(fields, damaged),
    }
    save_file({"mean": torch.zeros(1)}, path, metadata)
    message = "configuration cannot be read" if "config" in fields else "does not fit tcm-nano"
    with pytest.raises(LabError, match=message) as raised:
        tcm_lab.load_checkpoint(path)
    assert str(path) in str(raised.value)
    assert read_extra(path) == {}


def test_a_file_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(LabError, match="cannot be read"):
        tcm_lab.load_checkpoint(tmp_path / "nowhere.safetensors")


def test_a_trained_codec_of_the_package_loads_by_its_name_unless_a_file_has_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "tcm-nano").mkdir()  # a folder, such as a training's, is no checkpoint
    packaged = tcm_lab.load_checkpoint("tcm-nano")
    assert packaged.config.name == "tcm-nano"
    assert read_extra("tcm-nano")["recipe"]["steps"] > 1000
    (tmp_path / "tcm-nano").rmdir()
    config = tcm_lab.load_config("tcm-nano").override({"name": "mine"})
    save_checkpoint(tcm_lab.build(config), tmp_path / "tcm-nano")
    assert tcm_lab.load_checkpoint("tcm-nano").config.name == "mine"
    assert tcm_lab.load_checkpoint(Path("tcm-nano")).config.name == "mine"


@pytest.mark.parametrize("source", ["tcm-small", Path("tcm-small")])
def test_a_name_without_trained_weights_is_refused_with_those_that_have_some(
    source: str | Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    names = (
        r"tcm-small: .*Trained codecs of this package: tcm-nano, .* or tcm-nano-transformer-only"
    )
    with pytest.raises(LabError, match=names):
        tcm_lab.load_checkpoint(source)


def test_another_model_s_state_is_refused() -> None:
    with pytest.raises(LabError, match=r"nor in a layout that can be read .*lic_tcm"):
        tcm_lab.load_checkpoint(torch.nn.Linear(2, 2).state_dict())


def test_a_state_dict_that_holds_none_is_refused() -> None:
    with pytest.raises(LabError, match="neither a checkpoint of tcm_lab"):
        tcm_lab.load_checkpoint({"state_dict": [1, 2]})


def test_our_file_rebuilds_its_codec_and_keeps_what_was_put_beside(tmp_path: Path) -> None:
    codec = tcm_lab.build("tcm-nano", {"name": "mine", "g_a.split": 0.25, "rate_levels": 3}).eval()
    path = tmp_path / "mine.safetensors"
    save_checkpoint(codec, path, {"steps": 7, "lambda": [0.01]})
    loaded = tcm_lab.load_checkpoint(path)
    assert loaded.config == codec.config
    _assert_equal(_weights(loaded), _weights(codec))
    assert read_extra(path) == {"steps": 7, "lambda": [0.01]}
    x = torch.rand(1, 3, 30, 30)
    assert loaded.compress(x, 1.0) == codec.compress(x, 1.0)


def test_our_file_cut_off_is_refused(codec: Any, tmp_path: Path) -> None:
    path = tmp_path / "cut.safetensors"
    save_checkpoint(codec, path)
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(LabError, match=r"cut\.safetensors: not a complete safetensors file"):
        tcm_lab.load_checkpoint(path)


@pytest.mark.usefixtures("own_layers")
def test_a_layer_s_entries_are_kept_whatever_it_calls_them(tmp_path: Path) -> None:
    @tcm_lab.register_block("named")
    class Named(torch.nn.Module):
        def __init__(self, channels: int) -> None:
            super().__init__()
            self.pixel_offset = torch.nn.Parameter(torch.zeros(channels, 1, 1))
            self.target = torch.nn.Parameter(torch.ones(channels, 1, 1))
            self.register_buffer("upper_bound", torch.ones(channels, 1, 1))
            for name in ("bound", *TABLES):
                self.register_buffer(name, torch.ones(channels, 1, 1))

        def forward(self, x: Tensor) -> Tensor:
            lowest, highest = -self.get_buffer("bound"), self.get_buffer("upper_bound")
            shift = sum(self.get_buffer(name) for name in TABLES)
            return x.clamp(lowest, highest) * self.target + self.pixel_offset + shift

    changes = {"?_?.depth": 0, "g_a.depth": 1, "g_a.block": "named"}
    codec, again, warm = (tcm_lab.build("tcm-nano", changes, seed=seed) for seed in range(3))
    own = {
        name: torch.rand_like(value)
        for name, value in codec.state_dict().items()
        if name.startswith("g_a.") and ".blocks." in name
    }
    assert len(own) == 8 * sum(stage.depth for stage in codec.config.g_a.stages)
    before = {weights_fingerprint(codec, version) for version in (2, 3)}
    tables = {name: value for name, value in own.items() if name.endswith(TABLES)}
    codec.load_state_dict(tables, strict=False)
    assert before.isdisjoint(weights_fingerprint(codec, version) for version in (2, 3))
    codec.load_state_dict(own, strict=False)
    path = tmp_path / "weights.safetensors"
    save_checkpoint(codec, path)
    again.load_state_dict(codec.state_dict())
    warm_start(warm, path)
    for loaded in (codec, again, warm, tcm_lab.load_checkpoint(path)):
        _assert_equal({name: loaded.state_dict()[name] for name in own}, own)


@pytest.mark.usefixtures("own_layers")
def test_a_layer_that_saves_something_else_than_tensors_is_refused_with_what_works(
    tmp_path: Path,
) -> None:
    @tcm_lab.register_block("counting")
    class Counting(torch.nn.Module):
        def __init__(self, channels: int, tensor: bool = False) -> None:
            super().__init__()
            self.calls, self.tensor = 7, tensor
            self.gain = torch.nn.Parameter(torch.ones(channels, 1, 1))

        def forward(self, x: Tensor) -> Tensor:
            return x * self.gain

        def get_extra_state(self) -> Any:
            return torch.tensor(self.calls) if self.tensor else {"calls": self.calls}

        def set_extra_state(self, state: Any) -> None:
            self.calls = int(state)

    changes = {"?_?.depth": 0, "g_a.depth": 1, "g_a.block": "counting"}
    codec = tcm_lab.build("tcm-nano", changes)
    words = (
        r"g_a\.stages\.0\.blocks\.0: get_extra_state\(\) returns dict, but files of weights hold "
        r"only tensors\. Keep it in buffers"
    )
    path = tmp_path / "weights.safetensors"
    recipe = Recipe(lambdas=(0.01,), steps=1, batch=1, crop=64)
    with pytest.raises(LabError, match=words):
        save_checkpoint(codec, path)
    with pytest.raises(LabError, match=words):
        train(codec, recipe, None, directory=tmp_path / "run", accelerator="cpu")  # type: ignore[arg-type]  # no crop is asked for
    with pytest.raises(LabError, match=words):
        SuperNet([codec.config])
    assert list(tmp_path.iterdir()) == []
    kept = tcm_lab.build("tcm-nano", {**changes, "g_a.block": {"type": "counting", "tensor": True}})
    kept.g_a.stages[0].blocks[0].calls = 9
    save_checkpoint(kept, path)
    assert tcm_lab.load_checkpoint(path).g_a.stages[0].blocks[0].calls == 9


@pytest.mark.usefixtures("own_layers")
def test_a_weight_that_layers_share_is_saved(tmp_path: Path) -> None:
    @tcm_lab.register_block("tied")
    class Tied(torch.nn.Module):
        def __init__(self, channels: int) -> None:
            super().__init__()
            self.there = torch.nn.Linear(channels, channels)
            self.back = torch.nn.Linear(channels, channels)
            self.back.weight = self.there.weight

        def forward(self, x: Tensor) -> Tensor:
            return x + self.back(self.there(x.permute(0, 2, 3, 1))).permute(0, 3, 1, 2)

    codec = tcm_lab.build("tcm-nano", {"g_a.block": "tied"}).eval()
    save_checkpoint(codec, tmp_path / "tied.safetensors")
    loaded = tcm_lab.load_checkpoint(tmp_path / "tied.safetensors")
    x = torch.rand(1, 3, 30, 30)
    assert torch.equal(loaded(x)["x_hat"], codec(x)["x_hat"])
    block: Any = loaded.g_a.stages[0].blocks[0]
    assert block.back.weight is block.there.weight


def test_a_codec_that_has_coded_is_loaded_inside_another_module() -> None:
    trained, fresh = (Lit(tcm_lab.build("tcm-nano", {"?_?.depth": 0}, seed=s)) for s in (0, 1))
    x = torch.rand(1, 3, 30, 30)
    coded: Any = trained.eval().codec
    for tables in ({}, {"of": "another size"}):
        if tables:
            with torch.no_grad():
                coded.entropy_bottleneck.quantiles.mul_(2)
        expected = coded.compress(x)
        fresh.load_state_dict(trained.state_dict())
        loaded: Any = fresh.eval().codec
        assert loaded.compress(x) == expected


def test_far_more_weights_than_a_file_holds_are_refused_before_they_take_memory(
    tmp_path: Path,
) -> None:
    path = tmp_path / "small.safetensors"
    config = tcm_lab.load_config("tcm-nano").override({"?_?.width": 2**16, "?_?.depth": 0})
    metadata = {"format": "tcm_lab.codec/1", "config": config.model_dump_json()}
    save_file({"x": torch.zeros(3)}, path, metadata)
    needed = sum(cost.total_parameters for cost in part_costs(config, (64, 64)).values())
    message = rf"small\.safetensors: holds 3 numbers, but tcm-nano needs {needed:,}"
    with pytest.raises(LabError, match=message):
        tcm_lab.load_checkpoint(path)


@pytest.mark.parametrize(
    "wrap",
    [
        lambda codec: torch.compile(codec, backend="eager"),
        torch.nn.DataParallel,
        lambda codec: torch.nn.DataParallel(torch.compile(codec, backend="eager")),
        AveragedModel,
        lambda codec: AveragedModel(torch.compile(codec, backend="eager")),
        Engine,
        lambda codec: Engine(AveragedModel(codec)),
        lambda codec: Fabric(accelerator="cpu", devices=1).setup_module(codec),
    ],
    ids=[
        "compiled",
        "parallel",
        "both",
        "averaged",
        "averaged, compiled",
        "engine",
        "deep",
        "fabric",
    ],
)
def test_what_is_put_around_a_codec_is_not_saved(codec: Any, wrap: Any, tmp_path: Path) -> None:
    assert CodecAdapter(wrap(codec)).name == "tcm-small"
    save_checkpoint(wrap(codec), tmp_path / "weights.safetensors")
    _assert_equal(
        _weights(tcm_lab.load_checkpoint(tmp_path / "weights.safetensors")), _weights(codec)
    )
    assert export_state(wrap(codec)).keys() == export_state(codec).keys()


def test_weights_of_a_compiled_codec_are_a_checkpoint(codec: Any, tmp_path: Path) -> None:
    path = tmp_path / "weights.safetensors"
    save_weights(torch.compile(codec, backend="eager"), path, {})  # type: ignore[arg-type]  # a module
    _assert_equal(_weights(tcm_lab.load_checkpoint(path)), _weights(codec))


def test_a_user_s_wrapper_that_does_something_is_not_removed(codec: Any, tmp_path: Path) -> None:
    class Shift(Engine):
        def forward(self, x: Tensor) -> Any:
            output = self.module(x)
            return {**output, "x_hat": output["x_hat"] + 100}

    class Named(torch.nn.DataParallel):  # as CompressAI's training script has one
        pass

    x = torch.rand(1, 3, 64, 64)
    assert CodecAdapter(Shift(codec)).forward(x)["x_hat"].mean() > 50
    with pytest.raises(LabError, match=r"Shift was not assembled by tcm_lab.*pass its module"):
        save_checkpoint(Shift(codec), tmp_path / "x.safetensors")  # type: ignore[arg-type]  # the mistake
    assert CodecAdapter(Named(codec)).module is codec


@pytest.mark.usefixtures("one_process")
def test_a_codec_in_shards_is_saved_whole(codec: Any, tmp_path: Path) -> None:
    from torch.distributed.fsdp import fully_shard
    from torch.nn.parallel import DistributedDataParallel

    wanted = _weights(codec)
    save_checkpoint(DistributedDataParallel(codec), tmp_path / "ddp.safetensors")  # type: ignore[arg-type]
    sharded = fully_shard(copy.deepcopy(codec).to(memory_format=torch.contiguous_format))
    save_checkpoint(sharded, tmp_path / "fsdp.safetensors")
    for name in ("ddp", "fsdp"):
        _assert_equal(_weights(tcm_lab.load_checkpoint(tmp_path / f"{name}.safetensors")), wanted)


@pytest.mark.usefixtures("one_process")
def test_a_foreign_codec_in_shards_is_saved_whole(tmp_path: Path) -> None:
    from torch.distributed.fsdp import fully_shard

    own = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.Conv2d(4, 3, 3))
    sharded = fully_shard(copy.deepcopy(own))
    save_weights(sharded, tmp_path / "fsdp.safetensors", {})
    again = load_weights(
        torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.Conv2d(4, 3, 3)),
        tmp_path / "fsdp.safetensors",
    )
    _assert_equal(again.state_dict(), own.state_dict())


@pytest.fixture
def one_process(tmp_path: Path) -> Iterator[None]:
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{tmp_path}/rendezvous", rank=0, world_size=1
    )
    yield
    torch.distributed.destroy_process_group()


def test_a_codec_among_other_layers_is_not_taken_for_the_whole(codec: Any, tmp_path: Path) -> None:
    with pytest.raises(LabError, match=r"^Lit was not assembled by tcm_lab.*; pass its codec$"):
        save_checkpoint(Lit(codec), tmp_path / "x")  # type: ignore[arg-type]  # the mistake
    assert not list(tmp_path.iterdir())


def test_a_module_that_was_not_assembled_here_is_not_saved(tmp_path: Path) -> None:
    with pytest.raises(LabError, match=r"^Conv2d was not assembled by tcm_lab"):
        save_checkpoint(torch.nn.Conv2d(1, 1, 1), tmp_path / "x")  # type: ignore[arg-type]  # the mistake
    assert not (tmp_path / "x").exists()


def test_a_codec_that_was_altered_is_neither_saved_nor_counted(tmp_path: Path) -> None:
    codec = tcm_lab.build("tcm-nano")
    codec.g_s.stages[1].blocks = torch.nn.Sequential()
    refusal = r"tcm-nano was altered after it was built: g_s\.stages\.1\.blocks\..* is missing"
    with pytest.raises(LabError, match=refusal):
        save_checkpoint(codec, tmp_path / "x.safetensors")
    with pytest.raises(LabError, match=refusal):
        tcm_lab.measure_complexity(codec)
    assert list(tmp_path.iterdir()) == []
    more = tcm_lab.build("tcm-nano")
    more.g_a.extra = torch.nn.Linear(2, 3)
    with pytest.raises(LabError, match=r"g_a\.extra\.bias \(3\) is not in its configuration"):
        save_checkpoint(more, tmp_path / "x.safetensors")


def _narrow_mlp() -> torch.nn.Module:
    layers = torch.nn.Linear(8, 16), torch.nn.GELU(), torch.nn.Linear(16, 8)
    return torch.nn.Sequential(*layers)


@pytest.mark.parametrize(
    ("alter", "words"),
    [
        (
            lambda codec: codec.register_buffer("steps_done", torch.tensor(5)),
            r"steps_done \(one number\) is not in its configuration",
        ),
        (
            lambda codec: codec.g_a.stages[0].blocks[0].swin.mlp.__setitem__(1, torch.nn.ReLU()),
            r"g_a\.stages\.0\.blocks\.0\.swin\.mlp\.1 \(.*GELU\) is missing",
        ),
        (
            lambda codec: setattr(codec.g_a.stages[0].blocks[0].swin, "mlp", _narrow_mlp()),
            r"g_a\.stages\.0\.blocks\.0\.swin\.mlp\.0\.bias \(16\) is not in its configuration",
        ),
    ],
    ids=["buffer", "activation", "narrower"],
)
def test_no_file_is_written_of_what_it_could_not_describe(
    codec: Any, alter: Callable[[Any], object], words: str, tmp_path: Path
) -> None:
    altered = copy.deepcopy(codec)
    alter(altered)
    with pytest.raises(LabError, match=f"tcm-small was altered after it was built: {words}"):
        save_checkpoint(altered, tmp_path / "x.safetensors")
    with pytest.raises(LabError, match=words):
        export_checkpoint(altered, tmp_path / "x.pth")
    assert list(tmp_path.iterdir()) == []


def test_what_training_and_tools_do_to_parts_is_no_alteration(codec: Any, tmp_path: Path) -> None:
    treated = copy.deepcopy(codec)
    treated.g_a = torch.compile(treated.g_a, backend="eager")
    treated.g_s.register_buffer("total_ops", torch.zeros(1))
    with safe_strided_convolutions(treated):
        save_checkpoint(treated, tmp_path / "x.safetensors")
        export_checkpoint(treated, tmp_path / "x.pth")
    for name in ("x.safetensors", "x.pth"):
        _assert_equal(_weights(tcm_lab.load_checkpoint(tmp_path / name)), _weights(codec))


def test_weights_are_stored_in_no_type_of_integers(tmp_path: Path) -> None:
    with pytest.raises(LabError, match=r"dtype = torch\.int8: must be a floating-point type"):
        save_checkpoint(tcm_lab.build("tcm-nano"), tmp_path / "x.safetensors", dtype=torch.int8)


@pytest.mark.parametrize(
    "tree",
    [
        lambda state: {"model": state, "loss": torch.tensor(0.5)},
        lambda state: {"net": {"model_state_dict": state}},
        lambda state: {f"_orig_mod.module.{name}": value for name, value in state.items()},
        lambda state: {f"net.{name}": value for name, value in state.items()},
        lambda state: {**state, "total_ops": torch.zeros(1), "g_a.total_params": torch.zeros(1)},
        lambda state: {"n_averaged": torch.tensor(3), **_below("module.", state)},
        lambda state: {**_below("model.", state), "loss.lpips.0.weight": torch.zeros(3)},
        lambda state: {"ema": {"shadow": state, "decay": 0.999}, "step": 7},
        lambda state: {"params": state, "optimizer": {"state": {0: {"step": torch.zeros(1)}}}},
        lambda state: {
            "state_dict": _below("codec.", state) | {"criterion.weight": torch.zeros(3)},
            "optimizer_states": [{"state": {}}],
            "pytorch-lightning_version": "2.5",
        },
        lambda state: {"generator": _below("module.net.", state), "args": {"N": 128}},
        lambda state: _below("_fsdp_wrapped_module.", state),
        lambda state: {
            n.replace("g_a.", "g_a._checkpoint_wrapped_module."): v for n, v in state.items()
        },
        lambda state: {
            n: torch.nn.Parameter(v) if v.is_floating_point() else v for n, v in state.items()
        },
        lambda state: {n: v.double() if v.is_floating_point() else v for n, v in state.items()},
        lambda state: _cyclic({"model": state}),
        lambda state: {
            "discriminator": {f"net.{i}.weight": torch.zeros(3) for i in range(3)},
            "state_dict": _below("module.model.", state) | {"ema.decay": torch.tensor(0.9)},
        },
    ],
    ids=[
        "beside a tensor",
        "twice",
        "compiled and parallel",
        "inside a module",
        "thop",
        "averaged",
        "beside a loss",
        "shadow",
        "params",
        "lightning",
        "generator",
        "fsdp",
        "checkpointed",
        "parameters",
        "double",
        "in itself",
        "behind another model",
    ],
)
def test_weights_are_found_in_what_a_training_loop_saves(
    codec: Any, theirs: State, tree: Callable[[State], Any]
) -> None:
    _assert_equal(_weights(tcm_lab.load_checkpoint(tree(theirs))), _weights(codec))


@pytest.mark.parametrize(
    ("names", "words"),
    [
        (("model", "net"), "model and net"),
        (("state_dict", "state_dict_ema"), "state_dict and state_dict_ema"),
        (("params", "params_ema"), "params and params_ema"),
        (("teacher", "student"), "teacher and student"),
        (("ema", "anything at all"), "ema and anything at all"),
    ],
)
def test_two_models_in_one_file_are_not_chosen_between(
    theirs: State, names: tuple[str, str], words: str
) -> None:
    with pytest.raises(LabError, match=f"holds both {words}; save only one of them"):
        tcm_lab.load_checkpoint(dict.fromkeys(names, theirs) | {"epoch": 3})
    with pytest.raises(LabError, match="holds both a and b; save only one of them"):
        tcm_lab.load_checkpoint(_below("a.", theirs) | _below("b.", theirs))


def test_what_is_left_out_beside_a_model_is_said(
    theirs: State, caplog: pytest.LogCaptureFixture
) -> None:
    beside = {"loss.0.weight": torch.zeros(3), "loss.count": torch.tensor(1)}
    tcm_lab.load_checkpoint({"state_dict": _below("codec.", theirs) | beside})
    said = "left out 1 tensors that do not belong to state_dict.codec (loss.0.weight …)"
    assert caplog.messages == [f"the state dict: {said}"]


@pytest.mark.parametrize("source", [None, 3, b"x.pth", torch.nn.Linear(2, 2), [1]])
def test_what_is_neither_a_path_nor_a_state_is_named(source: Any) -> None:
    with pytest.raises(LabError, match="is neither a path nor a state dict"):
        tcm_lab.load_checkpoint(source)


@pytest.mark.parametrize("extra", ["{", "[]", "null", '"x"', "[1]"])
def test_odd_words_beside_a_configuration_are_no_words(
    codec: Any, tmp_path: Path, extra: str
) -> None:
    from safetensors.torch import save_file

    save_file({"a": torch.zeros(1)}, tmp_path / "x.safetensors", {"extra": extra})
    assert read_extra(tmp_path / "x.safetensors") == {}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "a Git LFS pointer"),
        (b"\n<!DOCTYPE html><title>404</title>", "a web page"),
        (b"<HTML><body>sign in</body>", "a web page"),
    ],
)
def test_what_is_downloaded_in_place_of_a_checkpoint_is_named(
    content: bytes, message: str, tmp_path: Path
) -> None:
    path = tmp_path / "weights.pth"
    path.write_bytes(content)
    with pytest.raises(LabError, match=f"{path.name}: {message} instead of the file"):
        tcm_lab.load_checkpoint(path)


@pytest.mark.parametrize("suffix", [".pth", ".pt", ".PTH", ".ckpt", ".tar", ".bin"])
def test_a_safetensors_file_is_not_written_under_a_name_of_torchs(
    codec: Any, tmp_path: Path, suffix: str
) -> None:
    path = tmp_path / f"small{suffix}"
    with pytest.raises(LabError, match=r"small\.\w+: the output is a safetensors file"):
        tcm_lab.save_checkpoint(codec, path)
    with pytest.raises(LabError, match=r"the output is torch's format; call it small\.pth"):
        tcm_lab.codec.export_checkpoint(codec, tmp_path / "small.safetensors")
    assert not list(tmp_path.iterdir())
