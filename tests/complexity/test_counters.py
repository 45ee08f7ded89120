"""Four counters, four mechanisms, one count."""

from __future__ import annotations

import inspect
import warnings
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import HealthCheck, given, reject, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn.modules import activation
from torch.utils._pytree import tree_leaves
from torch.utils.checkpoint import checkpoint

from tcm_lab.blocks import BlockConfig, register_block
from tcm_lab.blocks.cost import Cost, Kind
from tcm_lab.codec import VariantConfig, load_config
from tcm_lab.complexity import UncountedWarning, check, measure_complexity
from tcm_lab.complexity.counters.meta import FunctionMode, meta_pass
from tcm_lab.complexity.counters.torch import counts_nothing
from tcm_lab.complexity.cross_check import CheckReport, CounterCheck
from tcm_lab.complexity.record import ComplexityRecord
from tcm_lab.errors import ConfigError, LabError

COUNTED = (Kind.CONVOLUTION, Kind.LINEAR, Kind.ATTENTION, Kind.GDN, Kind.NORMALISATION)
# The smallest codec that has one of everything.
TINY = load_config("tcm-nano").override(
    {"?_?.depth": 1, "g_a.depth": [2, 1, 1], "entropy_model.slices": 2}
)
#: Nothing but resamplers and the first block.
BARE = TINY.override(
    {
        "?_?.depth": 0, "g_a.stages.0.depth": 1, "entropy_model.attention": "none",
        "entropy_model.slices": 1, "shortcut": "none", "entropy_model.normalised": False,
    }
)  # fmt: skip
SIZES = st.sampled_from([(64, 64), (1, 1), (70, 130), (128, 192)])
SHARES = st.sampled_from([0.0, 0.25, 0.5, 0.75, 1.0])


def counts(record: ComplexityRecord) -> dict[tuple[str, str], int]:
    return {
        (part, kind): macs
        for part, cost in record.parts.items()
        for kind, macs in cost.macs.items()
        if kind in COUNTED
    }


def parameters(record: ComplexityRecord) -> dict[tuple[str, str], int]:
    return {
        (part, kind): n
        for part, cost in record.parts.items()
        for kind, n in cost.parameters.items()
    }


def activations(record: ComplexityRecord) -> dict[str, int]:
    return {part: cost.activations for part, cost in record.parts.items() if cost.activations}


@st.composite
def variants(draw: st.DrawFn) -> VariantConfig:
    """Draw a small codec over all axes."""
    latent = draw(st.sampled_from([32, 48, 64]))
    changes = {
        "latent_channels": latent,
        "hyper_channels": draw(st.sampled_from([16, 24])),
        "rate_levels": draw(st.sampled_from([0, 3])),
        "shortcut": draw(st.sampled_from(["none", "patch", "staged"])),
        "g_a.split": draw(SHARES),
        "g_s.split": draw(SHARES),
        "h_*.split": draw(SHARES),
        "g_*.window_size": draw(st.sampled_from([2, 4, 7, 8])),
        "h_*.window_size": draw(st.sampled_from([2, 4])),
        "g_a.depth": [draw(st.integers(0, 2)) for _ in range(3)],
        "g_s.width": [draw(st.sampled_from([32, 64])) for _ in range(3)],
        "entropy_model.slices": draw(st.sampled_from([1, 2, 4, 8]) | st.just([8, latent - 24, 16])),
        "entropy_model.support": draw(st.integers(0, 8)),
        "entropy_model.attention": draw(
            st.sampled_from(["none", "residual-attention", "window-attention"])
            | st.builds(
                lambda squeeze, window: {
                    "type": "swatten",
                    "squeeze": squeeze,
                    "window_size": window,
                    "head_dim": 8,
                },
                st.sampled_from([8, 24, 0.5, "none"]),
                st.sampled_from([4, 8]),
            )
        ),
        "entropy_model.paths": draw(st.sampled_from(["apart", "shared"])),
        "entropy_model.lrp": draw(st.sampled_from(["none", "before-attention", "after-attention"])),
        "entropy_model.checkerboard": draw(st.booleans()),
    }
    try:
        return TINY.override(changes)
    except ConfigError:
        reject()


@settings(max_examples=10, suppress_health_check=[HealthCheck.too_slow])  # it goes by the clock
@given(config=variants(), size=SIZES)
def test_formula_and_torch_agree_on_any_variant(
    config: VariantConfig, size: tuple[int, int]
) -> None:
    formula = measure_complexity(config, size)
    by_torch = measure_complexity(config, size, counter="torch")
    assert counts(formula) == counts(by_torch)
    assert parameters(formula) == parameters(by_torch)
    assert activations(formula) == activations(by_torch)
    assert by_torch.unknown_operators == ()


AXES = {
    "g_a.split": [0.0, 1.0],
    "g_s.window_size": [2, 4],
    "entropy_model.attention.squeeze": [8, 32, "none"],
    "entropy_model.slices": [1, 8],
    "g_*.width": [16, 64],
    "latent_channels": [32, 96],
    "g_*.depth": [[0, 1, 2], 2],
}


@pytest.mark.parametrize("axis", AXES)
def test_every_ablated_axis_moves_the_count_and_as_the_formula_says(axis: str) -> None:
    for value in AXES[axis]:
        config = TINY.override({axis: value})
        formula = measure_complexity(config, (64, 64))
        assert formula.total_macs() != measure_complexity(TINY, (64, 64)).total_macs()
        assert counts(formula) == counts(measure_complexity(config, (64, 64), counter="torch"))


def test_window_size_is_not_free_whichever_way_attention_is_computed() -> None:
    def spelled_out(q: Tensor, k: Tensor, v: Tensor, attn_mask: Tensor | None = None) -> Tensor:
        scores = torch.einsum("bhqd,bhkd->bhqk", q, k)
        if attn_mask is not None:
            scores = scores + attn_mask
        return torch.einsum("bhqk,bhkd->bhqd", scores.softmax(-1), v)

    products = []
    for window in (4, 8):
        config = TINY.override({"?_?.window_size": window})
        fused = measure_complexity(config, (64, 96), counter="torch")
        with FunctionMode({F.scaled_dot_product_attention: spelled_out}):
            assert counts(measure_complexity(config, (64, 96), counter="torch")) == counts(fused)
        traced = measure_complexity(config, (64, 96), counter="fvcore")
        theirs, ours = (
            {place: macs for place, macs in counts(r).items() if place[1] != Kind.NORMALISATION}
            for r in (traced, fused)
        )  # of which fvcore says 5 per element
        assert theirs == ours
        products.append(fused.parts["g_a"].macs[Kind.ATTENTION])
    # Each token of a window sees window² others: four times as many.
    assert products[1] == 4 * products[0]


@pytest.mark.parametrize("model", ["tcm-nano", "tcm-checkerboard", "wacnn"])
def test_every_difference_between_four_counters_has_a_name(model: str) -> None:
    report = check(model, (70, 130), strict=True)
    assert report.agrees
    assert [c.counter for c in report.counters] == [
        "formula",
        "torch",
        "fvcore",
        "ptflops",
        "ptflops-aten",
    ]
    assert all(c.unexplained == 0 for c in report.counters)
    notes = {c.counter: c.note for c in report.counters}
    assert "of fused attention by a handler of ours" in notes["fvcore"]
    assert notes["ptflops"] == notes["ptflops-aten"]
    assert "spelled out as its two products" in notes["ptflops"]


@pytest.mark.parametrize(
    "model",
    [
        "compressai/bmshj2018-factorized",
        "compressai/bmshj2018-hyperprior",
        "compressai/mbt2018-mean",
        "compressai/mbt2018",
        "compressai/cheng2020-attn",
    ],
)
def test_counters_agree_on_models_that_are_not_ours(model: str) -> None:
    report = check(model, (64, 128), strict=True)
    assert report.reference == "torch"
    assert report.reference_macs > 0
    assert not any(c.note for c in report.counters)  # notes are about attention in windows


def test_fvcore_on_our_large_model_is_the_published_total_to_its_rounding() -> None:
    report = check("tcm-large", strict=True)
    totals = {c.counter: c.total / 1e9 for c in report.counters}
    # Measured on the published code at 512x768; the two attention products were einsum there.
    assert totals["fvcore"] == pytest.approx(726.754, abs=0.002)
    assert totals["ptflops-aten"] == pytest.approx(727.392, abs=0.001)
    assert report.padded_size == (512, 768)


def test_a_nested_latent_codec_is_counted_by_its_transforms() -> None:
    from tcm_lab._compat.torchvision import import_compressai

    import_compressai()
    from compressai.models import Elic2022Official

    model = Elic2022Official(N=16, M=48, groups=[8, 8, 32])
    record = measure_complexity(model, (64, 64))
    assert record.counter == "torch"
    assert {"g_a", "g_s", "h_a", "h_s", "latent_codec"} <= set(record.parts)
    assert record.total_parameters == sum(p.numel() for p in model.parameters())
    assert next(model.parameters()).device.type == "cpu"
    assert check(model, (64, 64)).agrees


def test_encoding_leaves_out_synthesis_and_decoding_leaves_out_analysis() -> None:
    record = measure_complexity("tcm-nano")
    parts = record.macs_by_part()
    assert record.total_macs("whole") - record.total_macs("encode") == parts["g_s"]
    with pytest.raises(LabError, match="encoder"):
        record.total_macs("encoder")  # type: ignore[arg-type]  # the mistake
    assert record.total_macs("whole") - record.total_macs("decode") == parts["g_a"] + parts["h_a"]


class _Convolutions(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding="same")

    def forward(self, x: Tensor) -> Tensor:
        return F.gelu(self.conv(x))


@pytest.mark.usefixtures("own_layers")
def test_a_block_without_formula_is_counted_by_torch_and_says_so() -> None:
    register_block("test-plain")(_Convolutions)
    config = TINY.override({"g_a.stages.0.block": "test-plain"})
    with pytest.warns(UncountedWarning, match="test-plain"):
        record = measure_complexity(config, (64, 64))
    assert record.counter == "torch"
    without = measure_complexity(config.override({"g_a.stages.0.depth": 0}), (64, 64))
    convolutions = 2 * 32 * 32 * 9 * 32 * 32
    assert record.macs_by_part()["g_a"] - without.macs_by_part()["g_a"] == convolutions
    assert check(config, (64, 64)).reference == "torch"


@torch.library.custom_op("tcm_lab_test::mystery", mutates_args=())
def _mystery(x: Tensor) -> Tensor:
    return x.clone()


@_mystery.register_fake
def _(x: Tensor) -> Tensor:
    return torch.empty_like(x)


class _Mysterious(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.ones(channels))

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = torch.ops.tcm_lab_test.mystery(x) * self.gain[:, None, None]
        return out


@pytest.mark.usefixtures("own_layers")
def test_an_operator_that_nobody_can_count_is_named_and_refused_in_strict_mode() -> None:
    register_block("test-mystery")(_Mysterious)
    config = TINY.override({"g_a.stages.0.block": "test-mystery"})
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        record = measure_complexity(config, (64, 64))
    assert record.unknown_operators == ("tcm_lab_test::mystery",)
    assert any("tcm_lab_test::mystery" in str(w.message) for w in caught)
    with pytest.raises(LabError, match="tcm_lab_test::mystery"):
        check(config, (64, 64), strict=True)
    report = check(config, (64, 64))
    assert report.reference == "torch"
    named = [what for counter in report.counters for what in counter.differences]
    assert not [what for what in named if what.startswith("inside")]


class _Compiling(_Convolutions):
    """A block that compiles a function of its own and recomputes another."""

    def forward(self, x: Tensor) -> Tensor:
        double = torch.compile(lambda x: 2 * x, backend="eager")
        out: Tensor = checkpoint(super().forward, double(x), use_reentrant=False)
        return out


@pytest.mark.usefixtures("own_layers")
def test_a_block_that_compiles_and_checkpoints_is_counted_as_without() -> None:
    register_block("test-plain")(_Convolutions)
    register_block("test-compiling")(_Compiling)
    plain, compiling = (
        check(TINY.override({"g_a.stages.0.block": block}), (64, 64))
        for block in ("test-plain", "test-compiling")
    )
    totals = [{c.counter: c.total for c in r.counters} for r in (plain, compiling)]
    doubled = 2 * 32 * 32 * 32  # a product of each element with a number, which ptflops counts
    assert totals[0]["torch"] == totals[1]["torch"]
    assert totals[0]["fvcore"] == totals[1]["fvcore"]
    assert totals[1]["ptflops"] - totals[0]["ptflops"] in (0, doubled)


class _ToldConfig(BlockConfig):
    """A block whose operator no tool looks into, and whose formula says what it takes."""

    def build(self, channels: int, index: int) -> nn.Module:
        return _Mysterious(channels)

    def cost(self, channels: int, height: int, width: int) -> Cost:
        return Cost({Kind.LINEAR: 7 * channels * height * width}, {Kind.LINEAR: channels})


class _Item(_Convolutions):
    """Reads a value back, as a gate that may be closed does."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) * (1 + x.mean().item())


class _Branch(_Convolutions):
    """Computes more where values say so."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) if x.abs().max() > -1 else x


class _Numpy(_Convolutions):
    """Asks numpy."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) + torch.from_numpy(x.numpy().mean(axis=(2, 3), keepdims=True))


class _Listed(_Convolutions):
    """Makes numbers of Python's of a tensor."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) + sum(x[0, 0, 0, :2].tolist())


class _Chosen(_Convolutions):
    """Takes as many elements as are larger than none."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) + x[x > x.amin() - 1].view_as(x)


class _Drawn(_Convolutions):
    """Draws numbers on the CPU, whatever its input lies on."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) + torch.rand(1)


class _Fourier(_Convolutions):
    """Goes through frequencies, as global filters do."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.fft.irfft2(torch.fft.rfft2(super().forward(x)), s=x.shape[-2:])


class _Mapped(_Convolutions):
    """Runs over its batch by vmap."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.func.vmap(lambda one: 2 * one)(super().forward(x))


@pytest.mark.usefixtures("own_layers")
@pytest.mark.filterwarnings("ignore::tcm_lab.complexity.directions.UncountedWarning")
@pytest.mark.parametrize(
    "layer", [_Item, _Branch, _Numpy, _Listed, _Chosen, _Drawn, _Fourier, _Mapped]
)
def test_a_block_that_looks_at_its_values_is_counted_as_one_that_does_not(
    layer: type[_Convolutions],
) -> None:
    register_block("test-plain")(_Convolutions)
    register_block("test-looking")(layer)
    plain, looking = (
        measure_complexity(BARE.override({"g_a.stages.0.block": block}), (64, 64))
        for block in ("test-plain", "test-looking")
    )
    assert looking.counter == "torch"
    assert looking.macs_by_part() == plain.macs_by_part()


class _Flex(_Convolutions):
    """Attention by a score function of its own."""

    def forward(self, x: Tensor) -> Tensor:
        from torch.nn.attention.flex_attention import flex_attention

        tokens = x.flatten(2).transpose(1, 2)[:, None]
        return x + flex_attention(tokens, tokens, tokens)[:, 0].transpose(1, 2).view_as(x)


class _Broken(_Convolutions):
    """Has a mistake of its own."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x).view(3, 5)


@pytest.mark.usefixtures("own_layers")
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("layer", "words"),
    [
        (_Flex, r"fails: .*flex_attention.* give its layers a cost\(\)"),
        (_Broken, "a forward pass on an image of .* fails: RuntimeError: shape"),
    ],
)
def test_a_block_that_nothing_can_run_or_follow_is_answered_in_one_line(
    layer: type[nn.Module], words: str
) -> None:
    register_block("test-odd")(layer)
    config = BARE.override({"g_a.stages.0.block": "test-odd"})
    for ask in (measure_complexity, check):
        with pytest.raises(LabError, match=words) as refused:
            ask(config, (64, 64))
        assert "\n" not in str(refused.value)


@pytest.mark.usefixtures("own_layers")
def test_what_a_formula_says_of_an_operator_that_nobody_can_count_is_named_to_the_mac() -> None:
    register_block("test-told")(_ToldConfig)
    report = check(TINY.override({"g_a.stages.0.block": "test-told"}), (64, 64), strict=True)
    assert report.reference == "formula"
    inside = -2 * 7 * 32 * 32 * 32  # two blocks of 32 channels at 32x32
    for counter in report.counters:
        if counter.counter != "formula":
            assert counter.differences["inside tcm_lab_test::mystery"] == inside


class _WrongConfig(BlockConfig):
    """A convolution, of which the formula has a quarter, and a linear layer that is not there."""

    def build(self, channels: int, index: int) -> nn.Module:
        return _Convolutions(channels)

    def cost(self, channels: int, height: int, width: int) -> Cost:
        macs, parameters = 9 * channels * channels * height * width, channels * (9 * channels + 1)
        return Cost(
            {Kind.CONVOLUTION: macs // 4, Kind.LINEAR: 2 * macs}, {Kind.CONVOLUTION: parameters}
        )


@pytest.mark.usefixtures("own_layers")
def test_a_wrong_formula_is_found_and_told_by_part_and_kind() -> None:
    register_block("test-wrong")(_WrongConfig)
    config = TINY.override({"g_a.stages.0.block": "test-wrong"})
    right = measure_complexity(config, (64, 64), counter="torch").parts["g_a"].macs
    report = check(config, (64, 64))
    assert not report.agrees
    products = 2 * 9 * 32 * 32 * 32 * 32  # two blocks of 32 channels at 32x32
    convolution, linear = right[Kind.CONVOLUTION], right.get(Kind.LINEAR, 0)
    assert report.disagreements == (
        f"g_a, convolution: formula {convolution - 3 * products // 4}, torch {convolution}",
        f"g_a, linear: formula {linear + 2 * products}, torch {linear}",
    )
    by_name = {counter.counter: counter.unexplained for counter in report.counters}
    assert by_name["torch"] == 3 * products // 4 - 2 * products
    with pytest.raises(LabError, match=r"g_a, convolution: formula \d+, torch \d+"):
        check(config, (64, 64), strict=True)


def test_only_operators_known_to_be_free_are_counted_as_nothing() -> None:
    aten, prim = torch.ops.aten, torch.ops.prim
    for free in (prim.device.default, aten.add.Tensor, aten.view.default, aten.cat.default):
        assert counts_nothing(free)
    for product in (aten.mm.default, aten.convolution.default, torch.ops.tcm_lab_test.mystery):
        assert not counts_nothing(getattr(product, "default", product))


@pytest.mark.parametrize("in_place", [False, True])
def test_no_activation_of_torch_is_taken_for_a_product(in_place: bool) -> None:
    tried = 0
    for name in activation.__all__:
        kind = getattr(activation, name)
        takes = inspect.signature(kind).parameters
        arguments = {"dim": 1, "threshold": 0.1, "value": 1.0, "inplace": in_place}
        if name == "MultiheadAttention" or in_place > ("inplace" in takes):
            continue
        own = {key: each for key, each in arguments.items() if key in takes}
        record = measure_complexity(
            nn.Sequential(nn.Conv2d(3, 4, 1), kind(**own)), (64, 64), counter="torch"
        )
        assert (record.unknown_operators, record.total_macs()) == ((), 3 * 4 * 64 * 64), name
        tried += 1
    assert tried > 10


class _Attention(nn.Module):
    """Attention of 12 queries to 4 keys in 3 groups of 4 heads, which share keys and values."""

    def __init__(self) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.ones(1))

    def forward(self, x: Tensor) -> Tensor:
        query, key = x.new_empty(1, 12, 12, 5), x.new_empty(1, 3, 4, 5)
        value = x.new_empty(1, 3, 4, 7)
        out = F.scaled_dot_product_attention(query, key, value, enable_gqa=True)
        return self.gain * out


def test_fused_attention_writes_its_scores_and_its_values() -> None:
    record = measure_complexity(_Attention(), (64, 64), counter="torch")
    assert record.unknown_operators == ()
    assert record.whole.activations == 12 * 12 * (4 + 7)
    assert record.macs_by_kind == {Kind.ATTENTION: 12 * 12 * 4 * (5 + 7)}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(
    "compute",
    [
        lambda x: torch.addmm(x[0, 0], x[0], x[0].T),
        lambda x: torch.ops.aten.native_layer_norm(x, [3, 3], None, None, 1e-5),
        lambda x: torch.ops.aten._safe_softmax(x, -1),
        lambda x: torch.ops.aten._safe_softmax(x, -1, dtype=torch.float64),
    ],
)
def test_a_pass_without_data_gives_the_shapes_that_torch_gives(
    compute: Any, dtype: torch.dtype
) -> None:
    x = torch.empty(2, 3, 3, device="meta", dtype=dtype)
    with meta_pass(nn.Identity()):
        quick = compute(x)
    for found, expected in zip(tree_leaves(quick), tree_leaves(compute(x)), strict=True):
        assert (found.shape, found.dtype, found.device) == (
            expected.shape,
            expected.dtype,
            expected.device,
        )


@pytest.mark.parametrize(
    ("unexplained", "disagreements", "questions"),
    [
        (0, (), ()),
        (5, (), ("torch differs by +5 MACs without a known reason",)),
        (5, ("g_a: 7 and 2 MACs",), ("g_a: 7 and 2 MACs",)),  # the whole is no further question
    ],
)
def test_what_torch_counts_otherwise_is_asked_once(
    unexplained: int, disagreements: tuple[str, ...], questions: tuple[str, ...]
) -> None:
    torch_check = CounterCheck(counter="torch", total=7, differences={}, unexplained=unexplained)
    report = CheckReport(
        model="m", fingerprint="f", size=(1, 1), padded_size=(1, 1), reference="formula",
        reference_macs=2, counters=(torch_check,), disagreements=disagreements,
        unknown_operators=(), versions={},
    )  # fmt: skip
    assert report.open_questions == questions
    assert report.agrees == (not questions)
