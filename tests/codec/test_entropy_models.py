"""An entropy model of the user's own: built, counted, coded, portable, trained, checked."""

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import tcm_lab
from tcm_lab.analysis.latents import trace_latent
from tcm_lab.blocks import Cost, conv_cost
from tcm_lab.codec import ENTROPY_MODELS, Channels, Coder, Elements, EntropyModelConfig
from tcm_lab.codec.entropy_models.slices import SlicesConfig
from tcm_lab.complexity.measure import UncountedWarning
from tcm_lab.errors import ConfigError, LabError
from tcm_lab.testing import LayerError, check_layer


class Rows(nn.Module):
    """Codes the even rows, then the odd ones, each element by itself; refines what it coded."""

    def __init__(self, channels: int, kernel: int = 3) -> None:
        super().__init__()
        self.channels = channels
        self.first = nn.Conv2d(2 * channels, 2 * channels, 1)
        self.second = nn.Conv2d(3 * channels, 2 * channels, kernel, padding=kernel // 2)
        self.lrp = nn.Conv2d(2 * channels, channels, 1)

    def forward(self, features: Sequence[Tensor], code: Coder) -> Tensor:
        (hyper,) = features
        b, _, h, w = hyper.shape
        y_hat = hyper.new_zeros(b, self.channels, h, w)
        index = torch.arange(self.channels * h * w).flip(0)  # in any order
        places_of = (index // (h * w), index // w % h, index % w)
        for odd, network in enumerate((self.first, self.second)):
            mine = places_of[1] % 2 == odd
            places = Elements(*(each[mine].to(hyper.device) for each in places_of))
            seen = (hyper,) if odd == 0 else (hyper, y_hat)
            mean, scale = network(torch.cat(seen, 1)).chunk(2, 1)
            coded = code(places, places.of(mean), places.of(scale) + 0.5)
            correction = self.lrp(torch.cat((mean, scale), 1))
            places.put(y_hat, code.refine(places, coded, places.of(correction)))
        return y_hat


class _PlainConfig(EntropyModelConfig):
    """The hyper output as it is, on a latent of even sides.

    Attributes:
        offset: what every mean is moved by.
    """

    offset: float = 0.0

    @property
    def stride(self) -> int:
        return 6

    def check(self, channels: int) -> None:
        if channels % 2:
            raise ConfigError(f"offset = {self.offset} wants an even latent_channels")

    def build(self, channels: int) -> nn.Module:
        return Plain(channels, self.offset)

    def cost(self, channels: int, height: int, width: int) -> dict[str, Cost]:
        return {"head": conv_cost(2 * channels, 2 * channels, 1, height, width)}

    def part_of(self, path: str) -> str:
        return "head"


class Plain(nn.Module):
    """One 1x1 convolution."""

    def __init__(self, channels: int, offset: float) -> None:
        super().__init__()
        self.offset, self.channels = offset, channels
        self.head = nn.Conv2d(2 * channels, 2 * channels, 1)

    def forward(self, features: Sequence[Tensor], code: Coder) -> Tensor:
        mean, scale = self.head(features[0]).chunk(2, 1)
        return code(Channels(0, self.channels), mean + self.offset, scale)

    def start_at(self, mean: Tensor, scale: Tensor, h_s: nn.Module) -> None:
        with torch.no_grad():
            self.head.bias.copy_(torch.cat((mean, scale)))  # type: ignore[union-attr]


@pytest.fixture
def _registered(own_layers: None) -> None:
    tcm_lab.register_entropy_model("rows")(Rows)
    tcm_lab.register_entropy_model("plain")(_PlainConfig)


def _codec(model: dict[str, Any]) -> Any:
    changes = {"?_?.depth": 0, "rate_levels": 2, "entropy_model": model}
    codec = tcm_lab.build("tcm-nano", changes).eval()
    with torch.no_grad():
        for parameter in codec.g_a.stages[-1].resample.parameters():
            parameter.mul_(20)
    return codec


MODELS: list[dict[str, Any]] = [
    {"type": "rows", "kernel": 5},
    {"type": "rows", "normalised": True, "scale_table": "compressai"},
    {"type": "plain", "offset": 0.25},
]


@pytest.mark.usefixtures("_registered")
@pytest.mark.parametrize("model", MODELS, ids=lambda model: "-".join(map(str, model.values())))
@pytest.mark.parametrize("portable", [False, True])
def test_it_codes_real_bytes(model: dict[str, Any], portable: bool) -> None:
    codec = _codec(model)
    if codec.y_unit is not None:
        codec.y_unit.copy_(torch.linspace(0.3, 3, len(codec.y_unit)))
    for batch, size in ((1, (1, 1)), (3, (65, 129))):
        x = torch.rand(batch, 3, *size)
        with torch.no_grad():
            shown = codec(x, rate=0.5)["x_hat"].clamp(0, 1)
        coded = codec.compress(x, rate=0.5, portable=portable)
        decoded = codec.decompress(**coded)["x_hat"]
        assert decoded.shape == x.shape
        if not portable:  # on the grid ŷ is another
            torch.testing.assert_close(decoded, shown, rtol=0, atol=1e-4)


@pytest.mark.usefixtures("_registered")
def test_it_is_counted_by_its_formula_or_by_torch() -> None:
    size = (70, 130)
    formula = tcm_lab.measure_complexity(_codec(MODELS[2]), size)
    torchs = tcm_lab.measure_complexity(_codec(MODELS[2]), size, counter="torch")
    assert formula.counter == "formula"
    assert formula.parts["head"].macs == torchs.parts["head"].macs
    assert formula.total_parameters == torchs.total_parameters
    with pytest.warns(UncountedWarning, match="entropy model 'rows' has no closed formula"):
        counted = tcm_lab.measure_complexity(_codec(MODELS[0]), size)
    assert counted.counter == "torch"
    assert counted.parts["context_model"].total_macs > 0


@pytest.mark.usefixtures("_registered")
def test_the_latent_has_the_sides_that_it_wants() -> None:
    codec = _codec(MODELS[2])
    assert codec.config.padding == 16 * 12  # 6 positions of y, and whole positions of z
    shapes = []
    codec.g_a.register_forward_hook(lambda m, i, y: shapes.append(tuple(y.shape[-2:])))
    with torch.no_grad():
        codec(torch.rand(1, 3, 200, 7), rate=0.0)
    assert shapes == [(24, 12)]


@pytest.mark.usefixtures("own_layers")
def test_a_model_derived_from_slices_has_a_fingerprint_of_its_own() -> None:
    @tcm_lab.register_entropy_model("derived")
    class Derived(SlicesConfig):
        pass

    base = tcm_lab.load_config("tcm-nano")
    own = base.override({"entropy_model.type": "derived"})
    assert own.entropy_model.type == "derived"
    assert own.fingerprint != base.fingerprint


@pytest.mark.usefixtures("_registered")
def test_its_options_have_defaults_checks_and_a_fingerprint() -> None:
    base = tcm_lab.load_config("tcm-nano")
    assert base.entropy_model.type == "slices"
    config = base.override({"entropy_model": "rows"})
    assert config.override({"entropy_model.kernel": 5}).fingerprint != config.fingerprint
    assert tcm_lab.codec.VariantConfig.parse(config.model_dump(mode="json")) == config
    with pytest.raises(ConfigError, match=r"entropy_model.offset = 0.0 wants an even"):
        base.override({"latent_channels": 63, "entropy_model": "plain"})
    with pytest.raises(ConfigError, match=r"entropy_model: unknown field 'kernal'.*kernel"):
        base.override({"entropy_model": {"type": "rows", "kernal": 1}})
    with pytest.raises(ConfigError, match=r"'slice'.*slices"):
        base.override({"entropy_model": "slice"})
    with pytest.raises(ConfigError, match=r"entropy_model.kernel = 'x': must be an integer"):
        base.override({"entropy_model": {"type": "rows", "kernel": "x"}})


@pytest.mark.usefixtures("_registered")
def test_its_weights_survive_a_file(tmp_path: Any) -> None:
    codec = _codec(MODELS[0])
    assert "context_model.first.weight" in codec.state_dict()
    tcm_lab.save_checkpoint(codec, tmp_path / "codec.safetensors")
    again = tcm_lab.load_checkpoint(tmp_path / "codec.safetensors")
    x = torch.rand(1, 3, 30, 40)
    coded = codec.compress(x, rate=1.0)
    assert again.compress(x, rate=1.0) == coded


@pytest.mark.usefixtures("_registered")
def test_a_trace_shows_what_the_decoder_receives_in_steps() -> None:
    codec = _codec(MODELS[1])
    codec.y_unit.copy_(torch.linspace(0.3, 3, len(codec.y_unit)))
    given: list[Tensor] = []
    with codec.g_s.register_forward_pre_hook(lambda m, inputs: given.append(inputs[0])):
        trace = trace_latent(codec, torch.rand(1, 3, 64, 64))
    gain, unit = codec.y_gains.inverse(torch.zeros(1)), codec.y_unit[:, None, None]
    torch.testing.assert_close(trace.y_hat * gain / unit, given[0])
    assert (trace.y_hat - trace.coded).abs().max() <= 0.5
    assert trace.widths == (64,)


@pytest.mark.usefixtures("_registered")
def test_every_weight_gets_a_gradient_and_slices_keep_their_names() -> None:
    codec = _codec(MODELS[0]).train()
    codec(torch.rand(1, 3, 64, 64), rate=0.0)["x_hat"].sum().backward()
    assert all(p.grad is not None for p in codec.context_model.parameters())
    slices = tcm_lab.build("tcm-nano")
    assert slices.entropy_model is slices.slices


#: Options at which a registered model is checked, where its defaults are large or missing.
SMALL: dict[str, dict[str, Any]] = {
    "slices": {"slices": 2, "support": 1, "hidden": [8], "checkerboard": True},
    "hierarchical": {"coarse": [1, 1], "fine": [1, 1], "window_size": [2, 2, 2], "head_dim": 8},
    "multi-context": {"slices": 2},
    "dictionary": {"slices": 2, "hidden": [8], "entries": 5, "width": 32, "layers": 2},
}


@pytest.mark.parametrize("name", ENTROPY_MODELS)
def test_a_registered_entropy_model_keeps_what_codecs_rely_on(name: str) -> None:
    channels = 64 if name == "multi-context" else 16  # whose heads are 32 wide
    check_layer(ENTROPY_MODELS.parse({"type": name, **SMALL.get(name, {})}), channels=channels)


class Careless(nn.Module):
    """Codes the same channels twice and others never, or whatever ``fault`` says."""

    def __init__(self, channels: int, fault: str = "twice") -> None:
        super().__init__()
        self.head = nn.Conv2d(2 * channels, 2 * channels, 1)
        self.spare = nn.Parameter(torch.ones(1))
        self.half, self.fault = channels // 2, fault

    def forward(self, features: Sequence[Tensor], code: Coder) -> Tensor:
        mean, scale = self.head(features[0]).chunk(2, 1)
        if self.fault == "narrow":
            return code(Channels(0, self.half), mean[:, : self.half], scale[:, : self.half])
        if self.fault == "float32":
            mean = mean.float().to(mean.dtype)
        if self.fault == "twice":
            first = code(Channels(0, self.half), mean[:, : self.half], scale[:, : self.half])
            return torch.cat((first, first), 1)
        y_hat = code(Channels(0, 2 * self.half), mean, scale)
        return y_hat if self.fault == "spare" else y_hat * self.spare


@pytest.mark.usefixtures("own_layers")
@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("narrow", r"gives \(2, 4, 1, 1\) instead of \(2, 8, 1, 1\)"),
        ("twice", "codes 8 elements of a latent of 1x1 never, and 0 more than once"),
        ("spare", "no gradient reaches spare"),
        ("float32", "less than float64"),
    ],
)
def test_a_careless_one_is_refused(fault: str, message: str) -> None:
    tcm_lab.register_entropy_model("careless")(Careless)
    with pytest.raises(LayerError, match=rf"entropy model 'careless': .*{message}"):
        check_layer(ENTROPY_MODELS.parse({"type": "careless", "fault": fault}), channels=8)


@pytest.mark.usefixtures("_registered")
def test_the_toys_keep_what_codecs_rely_on() -> None:
    check_layer("rows", channels=8)
    check_layer("plain", channels=8)


def test_a_model_without_weights_is_checked_as_any_other() -> None:
    alone = {"slices": 1, "support": 0, "hidden": "none", "lrp": "none"}
    assert not [*ENTROPY_MODELS.parse(alone).build(8).parameters()]
    check_layer(ENTROPY_MODELS.parse(alone), channels=8)


@pytest.mark.usefixtures("own_layers")
@pytest.mark.parametrize("name", ["scale_table", "normalised", "stride", "type"])
def test_an_argument_that_every_entropy_model_has_as_an_option_is_refused(name: str) -> None:
    scope: dict[str, Any] = {"nn": nn}
    lines = f"""
class Mine(nn.Module):
    def __init__(self, channels: int, {name}: int = 64) -> None:
        super().__init__()
"""
    exec(lines, scope)
    words = f"Mine's argument '{name}' cannot be an option, since EntropyModelConfig uses this name"
    with pytest.raises(ConfigError, match=words):
        tcm_lab.register_entropy_model("mine")(scope["Mine"])
    assert "mine" not in ENTROPY_MODELS


class PerChannel(nn.Module):
    """Predicts the ``constants`` by one number per channel, and the others by the hyperprior."""

    def __init__(self, channels: int, constants: tuple[str, ...] = ()) -> None:
        super().__init__()
        self.channels, self.constants = channels, constants
        self.head = nn.Conv2d(2 * channels, channels, 1)
        self.numbers = nn.Parameter(torch.rand(1, channels, 1, 1) + 0.5)

    def forward(self, features: Sequence[Tensor], code: Coder) -> Tensor:
        mean, scale = (
            self.numbers if kind in self.constants else self.head(features[0])
            for kind in ("mean", "scale")
        )
        return code(Channels(0, self.channels), mean, scale)


@pytest.mark.usefixtures("own_layers")
@pytest.mark.parametrize("constant", ["mean", "scale"])
def test_one_mean_or_scale_per_channel_is_coded_as_the_same_number_everywhere(
    constant: str,
) -> None:
    tcm_lab.register_entropy_model("per-channel")(PerChannel)
    config = ENTROPY_MODELS.parse({"type": "per-channel", "constants": [constant]})
    check_layer(config, channels=8)
    module, others = config.build(8), []

    def code(places: Any, mean: Tensor, scale: Tensor) -> Tensor:
        others.append((mean, scale)[constant == "scale"])
        return torch.zeros_like(mean)

    module([torch.randn(2, 16, 3, 5)], Coder(code))
    assert torch.equal(others[0], module.numbers.expand(2, 8, 3, 5))  # type: ignore[operator]  # a parameter


@pytest.mark.usefixtures("own_layers")
def test_means_and_scales_that_do_not_fit_the_places_are_refused_from_the_first_estimate() -> None:
    tcm_lab.register_entropy_model("per-channel")(PerChannel)
    model = {"type": "per-channel", "constants": ["mean", "scale"]}
    codec = tcm_lab.build("tcm-nano", {"?_?.depth": 0, "entropy_model": model})
    words = r"means and scales \(1, 64, 1, 1\) for places of shape \(2, 64, 8, 4\)"
    for use in (codec, codec.eval(), codec.compress):
        with pytest.raises(LabError, match=words):
            use(torch.rand(2, 3, 128, 64))
    mean, scale = torch.zeros(2, 3, 1, 1), torch.ones(2, 4, 1, 1)
    with pytest.raises(LabError, match=r"means \(2, 3, 1, 1\) and scales \(2, 4, 1, 1\)"):
        Coder(lambda *_: torch.zeros(0))(Channels(0, 3), mean, scale)
