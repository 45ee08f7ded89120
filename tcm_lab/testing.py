"""Checks for layers of your own: those that our tests run on every layer of the package."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from itertools import product
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from safetensors.torch import load, save
from torch import Tensor, nn

from tcm_lab._utils.yaml import parse_yaml, to_yaml
from tcm_lab.blocks import (
    ATTENTIONS,
    BLOCKS,
    RESAMPLERS,
    AttentionConfig,
    BlockConfig,
    Cost,
    Kind,
    LayerConfig,
    LayerRegistry,
    ResampleDirection,
    ResamplerConfig,
)
from tcm_lab.codec import (
    ENTROPY_MODELS,
    Coder,
    EntropyModelConfig,
    Places,
    VariantConfig,
    build,
    decode_image,
    encode_image,
    load_checkpoint,
    save_checkpoint,
)
from tcm_lab.codec.seeds import random_state
from tcm_lab.complexity import measure_complexity
from tcm_lab.errors import LabError

_REGISTRIES: tuple[LayerRegistry[Any], ...] = (BLOCKS, ATTENTIONS, RESAMPLERS, ENTROPY_MODELS)
_SIZES = ((1, 1), (7, 5), (8, 8), (17, 9))
_COUNTED_SIZE = (70, 130)
#: Kinds whose products torch's counter sees; it does not count a normalisation.
_COUNTED = (Kind.CONVOLUTION, Kind.LINEAR, Kind.ATTENTION, Kind.GDN)


class LayerError(LabError):
    """A layer that a codec cannot rely on; the message names what is wrong."""


def check_layer(
    layer: str | LayerConfig,
    *,
    kind: str | None = None,
    channels: int = 32,
    direction: ResampleDirection | None = None,
) -> None:
    """Check that a registered layer has what codecs, training and counting rely on.

    Its options come back from YAML, and its weights from a safetensors file. It takes maps of any
    size, from 1x1, and gradients reach every parameter. It computes in float64 on float64, as
    portable streams need. Its closed formula, if it has one, gives its number of parameters, and
    the MACs that torch's ``FlopCounterMode`` counts when a codec with it runs. An entropy model
    also codes every element of the latent once, and its real bytes, portable or not, can be
    decoded with the weights in a file.

    Args:
        layer: a registered name, with the default options, or a configuration.
        kind: ``block``, ``attention``, ``resampler`` or ``entropy model``; needed only if a name is
            used for several.
        channels: number of input channels to check with (M for an entropy model); a resampler
            halves them.
        direction: the only direction to check a resampler in; both if not given.

    Raises:
        LayerError: the message names the layer and what is wrong.
        ConfigError: no layer has that name, or it cannot have that many channels.
    """
    registry = _registry_of(layer, kind)
    config = registry.parse(layer)
    with _named(f"{registry.kind} '{config.type}': "), random_state(0):
        _check_options(registry, config)
        if isinstance(config, EntropyModelConfig):
            _check_entropy_model(config, channels)
            _check_formula(config, channels)
            return
        directions: tuple[ResampleDirection | None, ...] = (None,)
        if isinstance(config, ResamplerConfig):
            directions = ("down", "up") if direction is None else (direction,)
        for each in directions:
            _check_modules(config, channels, each)
        if direction is None:
            _check_formula(config, channels)


@contextmanager
def _named(what: str) -> Iterator[None]:
    """Put ``what`` before the message of a `LayerError`."""
    try:
        yield
    except LayerError as error:
        raise LayerError(f"{what}{error}") from error.__cause__


@contextmanager
def _refusing(what: str) -> Iterator[None]:
    """Refuse the layer, with a message that begins with ``what``, if the block fails.

    A `LabError` passes as it is.
    """
    try:
        yield
    except LabError:
        raise
    except Exception as error:  # a user's layer raises whatever it likes
        first_line = f"{type(error).__name__}: {error}".splitlines()[0]
        raise LayerError(f"{what} {first_line}") from error


def _registry_of(layer: str | LayerConfig, kind: str | None) -> LayerRegistry[Any]:
    fits = [
        registry
        for registry in _REGISTRIES
        if kind in (None, registry.kind)
        and (layer in registry if isinstance(layer, str) else isinstance(layer, registry.base))
    ]
    if len(fits) == 1:
        return fits[0]
    kinds = [registry.kind for registry in (fits or _REGISTRIES)]
    what = "several layers have" if fits else "no registered layer has"
    raise LayerError(f"{what} the name '{layer}'; give kind, one of {', '.join(kinds)}")


def _check_options(registry: LayerRegistry[Any], config: LayerConfig) -> None:
    text = to_yaml(config.model_dump(mode="json"))
    if registry.parse(parse_yaml(text, "its options")) != config:
        raise LayerError(f"its options change when written to YAML and read back: {text.strip()}")


def _check_modules(config: LayerConfig, channels: int, direction: ResampleDirection | None) -> None:
    """Check every module that a codec builds from the layer, each against a second copy."""
    c_out = channels
    if isinstance(config, ResamplerConfig) and config.factor > 1:
        c_out = max(channels // 2, 1)
    with _refusing("build() fails with"):
        modules, others = (_build(config, channels, c_out, direction) for _ in range(2))
    for module, other in zip(modules, others, strict=True):
        x = torch.zeros(0)
        for size in _SIZES:
            x = torch.randn(2, channels, *size)
            after = size
            if isinstance(config, ResamplerConfig) and direction is not None:
                after = config.size_after(direction, *size)
            shape = (2, c_out, *after)
            actual = tuple(_run(module, x).shape)
            if actual != shape:
                where = f" ({direction})" if direction else ""
                raise LayerError(f"gives {actual}{where} on {tuple(x.shape)} instead of {shape}")
        # With a single position, attention has nothing to choose from; use the last size.
        _check_gradients(module, x.requires_grad_())
        _check_file(module, other, x.detach())
        _check_precision(x.shape, partial(_run, module.double()))


def _build(
    config: LayerConfig, channels: int, c_out: int, direction: ResampleDirection | None
) -> list[nn.Module]:
    """Build the layer in every way in which a codec builds it."""
    if isinstance(config, BlockConfig):
        config.check(channels)
        return [config.build(channels, index) for index in (0, 1)]
    if isinstance(config, AttentionConfig):
        config.check(channels)
        return [config.build(channels)]
    assert isinstance(config, ResamplerConfig)
    assert direction is not None
    config.check(channels, c_out)
    return [config.build(channels, c_out, direction)]


def _run(module: Callable[..., Any], *x: Tensor) -> Tensor:
    with _refusing(f"forward() fails on {tuple(x[0].shape)} with"):
        out = module(*x)
    if not isinstance(out, Tensor):
        raise LayerError(f"forward() returns {type(out).__name__}, not a tensor")
    return out


def _check_gradients(module: nn.Module, x: Tensor) -> None:
    out = _run(module, x)
    if out.requires_grad:
        (out * torch.randn_like(out)).sum().backward()
    reached = {"its input": x.grad, **{name: p.grad for name, p in module.named_parameters()}}
    for name, gradient in reached.items():
        if gradient is None or not gradient.abs().max() > 0:
            raise LayerError(f"no gradient reaches {name}")
        if not torch.isfinite(gradient).all():
            raise LayerError(f"the gradient of {name} is not finite")


def _check_file(module: nn.Module, other: nn.Module, x: Tensor) -> None:
    _check_weights_return(module, other, lambda each: _run(each, x))


def _check_weights_return(
    module: nn.Module, other: nn.Module, run: Callable[[nn.Module], Tensor]
) -> None:
    try:
        other.load_state_dict(load(save(module.state_dict())))
    except (RuntimeError, ValueError) as error:
        raise LayerError(f"its weights do not survive a safetensors file: {error}") from error
    with torch.no_grad():
        if not torch.equal(run(module.eval()), run(other.eval())):
            raise LayerError(
                "computes something else after its weights are saved and loaded; register its "
                "state as parameters and buffers, and use no random numbers in evaluation"
            )


def _check_precision(shape: Sequence[int], run: Callable[[Tensor], Tensor]) -> None:
    """Refuse a layer that computes in float32 on float64: no portable stream can rely on it."""
    x, direction = torch.randn(2, *shape, dtype=torch.float64)
    step = 1e-7 * direction
    with torch.no_grad():
        before, here, after = (run(at) for at in (x - step, x, x + step))
    # The second difference of a smooth function is some 1e-14, and its rounding errors 1e-15;
    # in float32 these are 1e-7. It is larger at the kink of a ReLU, which is rare.
    if here.dtype != torch.float64 or (after - 2 * here + before).abs().mean() > 1e-11:
        raise LayerError(
            "computes in less than float64 on float64 input; let it compute in its input's dtype"
        )


class _Mean:
    """Returns every mean as ŷ, so that nothing is rounded, and counts what is coded."""

    def __init__(self, latent: Tensor) -> None:
        self.coded = torch.zeros_like(latent)
        self.scales: list[Tensor] = []

    def __call__(self, places: Places, mean: Tensor, scale: Tensor) -> Tensor:
        places.put(self.coded, torch.ones_like(mean).detach())
        self.scales.append(scale.sum())
        return places.masked(mean)


def _check_entropy_model(config: EntropyModelConfig, channels: int) -> None:
    """Check a model by itself, with means as ŷ, and in a codec, on real bytes."""
    config.check(channels)
    with _refusing("build() fails with"):
        module, other = (config.build(channels) for _ in range(2))

    def predict(model: nn.Module, inputs: list[Tensor]) -> tuple[Tensor, _Mean]:
        b, _, h, w = inputs[0].shape
        coder = _Mean(inputs[0].new_zeros(b, channels, h, w))
        return _run(lambda *features: model(list(features), Coder(coder)), *inputs), coder

    for size in _SIZES:
        h, w = (-(-side // config.stride) * config.stride for side in size)
        features = [torch.randn(2, c, h, w) for c in config.hyper_outputs(channels).values()]
        y_hat, coder = predict(module, features)
        if y_hat.shape != coder.coded.shape:
            shape = tuple(coder.coded.shape)
            raise LayerError(f"gives {tuple(y_hat.shape)} instead of {shape}")
        never, often = int((coder.coded == 0).sum()), int((coder.coded > 1).sum())
        if never or often:
            raise LayerError(
                f"codes {never} elements of a latent of {h}x{w} never, and {often} more than once"
            )
    total = torch.stack([(y_hat * torch.randn_like(y_hat)).sum(), *coder.scales]).sum()
    if total.requires_grad:  # a model without weights uses h_s's output
        total.backward()
    for name, parameter in module.named_parameters():
        if parameter.grad is None or not parameter.grad.abs().max() > 0:
            raise LayerError(f"no gradient reaches {name}")
    _check_weights_return(module, other, lambda model: predict(model, features)[0])
    module.double()
    others = [each.double() for each in features[1:]]
    _check_precision(features[0].shape, lambda x: predict(module, [x, *others])[0])
    _check_bytes(config, channels)


def _check_bytes(config: EntropyModelConfig, channels: int) -> None:
    """Code with a codec, and decode with the one that is loaded from its file."""
    codec = build(_codec_of(config, channels)).eval()
    with TemporaryDirectory() as folder:
        save_checkpoint(codec, Path(folder) / "weights.safetensors")
        loaded = load_checkpoint(Path(folder) / "weights.safetensors")
    for portable in (False, True):
        for batch, size in ((1, (1, 1)), (2, (33, 50))):
            with _refusing(f"a codec with it does not code images of {size[0]}x{size[1]}:"):
                x = torch.rand(batch, 3, *size)
                loaded.decompress(**codec.compress(x, portable=portable))
                decode_image(loaded, encode_image(codec, x[0], portable=portable))


def _check_formula(config: LayerConfig, channels: int) -> None:
    codec = _codec_of(config, channels)
    with _refusing("cannot be counted without data:"), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # uncounted operators are named below
        counted = measure_complexity(codec, _COUNTED_SIZE, counter="torch")
        formula = measure_complexity(codec, _COUNTED_SIZE)
    if formula.counter == "torch":
        return  # it has no formula
    if counted.unknown_operators:
        raise LayerError(f"its operators {', '.join(counted.unknown_operators)} cannot be counted")
    compared = [("parameters", kind) for kind in Kind] + [("macs", kind) for kind in _COUNTED]
    for (what, kind), part in product(compared, formula.parts):
        costs = (record.parts.get(part, Cost()) for record in (formula, counted))
        ours, torchs = (getattr(cost, what).get(kind, 0) for cost in costs)
        if ours != torchs:
            unit = "MACs" if what == "macs" else what
            size = "x".join(map(str, _COUNTED_SIZE))
            raise LayerError(
                f"cost() gives {ours:,} {unit} of kind {kind} where torch counts {torchs:,} "
                f"(in {part} of a codec with it, at {size} and {channels} channels)"
            )


def _codec_of(config: LayerConfig, channels: int) -> VariantConfig:
    """Return a configuration with the layer in every place where it fits."""
    attention = config if isinstance(config, AttentionConfig) else "none"
    entropy_model: object = {"slices": 1, "support": 0, "hidden": [], "attention": attention}
    if isinstance(config, EntropyModelConfig):
        entropy_model = config
    stage = {"resample": "conv", "width": channels, "attention": attention}
    if isinstance(config, BlockConfig):
        stage |= {"depth": 2, "block": config}
    if isinstance(config, ResamplerConfig):
        stage["resample"] = config
    first, last = {"resample": "conv", "width": channels}, {"resample": "conv"}
    return VariantConfig.parse(
        {
            "name": config.type,
            "latent_channels": channels,
            "hyper_channels": channels,
            "g_a": {"stages": [first, stage, last]},
            "g_s": {"stages": [first, stage, last]},
            "h_a": {"stages": [last]},
            "h_s": {"stages": [last]},
            "entropy_model": entropy_model,
        }
    )
