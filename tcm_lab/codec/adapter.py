"""One view of every codec: assembled here, CompressAI's, or a user's own module.

What differs between them (the configuration, the stride that images are padded to, rate levels,
which part a parameter belongs to) is asked here and nowhere else.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from tcm_lab._utils.digests import digest
from tcm_lab.codec.config import VariantConfig
from tcm_lab.codec.inputs import InputError, padded
from tcm_lab.codec.overrides import TRANSFORMS
from tcm_lab.errors import LabError, one_of

_FOREIGN_STRIDE = 64
_FOREIGN_LATENT_STRIDE = 16
_FOREIGN_LATENT_CHANNELS = 320
_TOP_PARTS = {
    "entropy_bottleneck": "prior",
    "gaussian_conditional": "prior",
    "y_gains": "gain",
    "z_gains": "gain",
}


@dataclass(frozen=True)
class CodecAdapter:
    """What the lab asks of any codec with CompressAI's interface.

    That is ``forward``, and for real bytes ``compress`` and ``decompress``. A foreign codec may say
    more of itself by attributes: ``name`` (what tables call it), ``downsampling_factor`` (what
    sides are padded to a multiple of; 1 for a codec that pads by itself), ``M`` (channels of y),
    ``rate_levels``, and ``parts``, a mapping from names of its modules to the parts to count them
    under. A part called g_a or h_a is the encoder's alone, one called g_s the decoder's.
    """

    module: nn.Module

    def __post_init__(self) -> None:
        """Look through wrappers; a compiled module answers for the one inside."""
        while (inner := _wrapped(self.module)) is not self.module:
            object.__setattr__(self, "module", inner)

    @property
    def config(self) -> VariantConfig | None:
        """The configuration it was assembled from, or ``None`` for a foreign codec."""
        config = getattr(self.module, "config", None)
        return config if isinstance(config, VariantConfig) else None

    @property
    def name(self) -> str:
        """What tables call it."""
        if self.config is not None:
            return self.config.name
        name = getattr(self.module, "name", None)
        return name if isinstance(name, str) else type(self.module).__name__

    @cached_property
    def fingerprint(self) -> str:
        """Twelve hex digits: of the configuration, or of a foreign codec's parameter shapes."""
        if self.config is not None:
            return self.config.fingerprint
        shapes = {name: list(p.shape) for name, p in self.module.named_parameters()}
        return digest(shapes, 12)

    @property
    def description(self) -> str | dict[str, Any]:
        """The whole configuration as plain values, or the name of a foreign codec's class."""
        if self.config is None:
            return type(self.module).__name__
        return self.config.model_dump(mode="json")

    @property
    def rate_levels(self) -> int:
        """Number of rates that one set of weights holds; 0 for a single rate."""
        return int(getattr(self.config or self.module, "rate_levels", 0))

    @property
    def latent_channels(self) -> int:
        """Channels of y; a foreign codec's attribute ``M``, as CompressAI's models have it."""
        if self.config is not None:
            return self.config.latent_channels
        channels = getattr(self.module, "M", None)
        return channels if isinstance(channels, int) else _FOREIGN_LATENT_CHANNELS

    @property
    def stride(self) -> int:
        """Number of pixels that both sides are padded to a multiple of."""
        if self.config is not None:
            return self.config.padding
        # In CompressAI's models: the stride of z, or of y where there is no z.
        return int(getattr(self.module, "downsampling_factor", _FOREIGN_STRIDE))

    @property
    def latent_stride(self) -> int:
        """Number of pixels per position of y."""
        if self.config is not None:
            return self.config.stride[0]
        return min(self.stride, _FOREIGN_LATENT_STRIDE)

    @property
    def device(self) -> torch.device:
        """Where it computes."""
        tensor = next(self.module.parameters(), None)
        return torch.device("cpu") if tensor is None else tensor.device

    def padded_size(self, size: tuple[int, int]) -> tuple[int, int]:
        """Return the (height, width) that an image of ``size`` is padded to."""
        return -(-size[0] // self.stride) * self.stride, -(-size[1] // self.stride) * self.stride

    def pad(self, x: Tensor) -> Tensor:
        """Pad a foreign codec's images (B, 3, H, W) by their last row and column.

        Codecs that are assembled here pad by themselves; theirs come back as they are.
        """
        if self.config is not None:
            return x
        return padded(x, self.padded_size((x.shape[-2], x.shape[-1])))

    def check_crop(self, side: int) -> None:
        """Refuse crops for training that a foreign codec would need padded, if it says so.

        Raises:
            LabError: the message names the nearest sides.
        """
        if self.config is not None or not hasattr(self.module, "downsampling_factor"):
            return
        if side % self.stride:
            below = side // self.stride * self.stride
            fitting = one_of(filter(None, (below, below + self.stride)))
            raise LabError(
                f"crop = {side}: {self.name} takes sides that are multiples of {self.stride}, its "
                f"downsampling_factor. Crop to {fitting}."
            )

    def check_rate(self, rate: float | None) -> None:
        """Refuse a rate that the codec does not have; None always passes.

        Raises:
            InputError: the message says which there are.
        """
        if rate is None or 0 <= rate <= self.rate_levels - 1:
            return
        has = f"levels 0 to {self.rate_levels - 1}" if self.rate_levels else "no rate levels"
        raise InputError(f"rate = {rate:g}: {self.name} has {has}")

    def forward(self, x: Tensor, rate: float | None = None) -> Mapping[str, Any]:
        """Run a forward pass; a codec with rate levels takes the lowest if none is given."""
        return self.module(x, **self._rate_option(rate))  # type: ignore[no-any-return]

    def likelihoods(self, x: Tensor, rate: float | None = None) -> Mapping[str, Tensor] | None:
        """Return what the bits are estimated by; ``None`` for a codec that has no likelihoods."""
        if self.config is None:
            return self.forward(x, rate).get("likelihoods")
        module: Any = self.module
        return module.likelihoods(x, **self._rate_option(rate))  # type: ignore[no-any-return]

    def _rate_option(self, rate: float | None) -> dict[str, float]:
        if rate is None:
            return {"rate": 0.0} if self.rate_levels else {}
        return {"rate": rate}

    @property
    def parts(self) -> Mapping[str, str]:
        """The parts of a foreign codec's modules, as far as it names them itself."""
        parts = getattr(self.module, "parts", None)
        return parts if self.config is None and isinstance(parts, Mapping) else {}

    def path_of(self, transform: str) -> str | None:
        """Return the dotted name of the module that is g_a or the like; ``None`` if it is unknown.

        A foreign codec's ``parts`` may give it another name.
        """
        named = [path for path, part in self.parts.items() if part == transform]
        if isinstance(getattr(self.module, transform, None), nn.Module):
            return transform
        return named[0] if len(named) == 1 else None

    @property
    def has_named_parts(self) -> bool:
        """Whether names tell which modules the encoder runs alone, and which the decoder."""
        steps = {step for name, _ in self.module.named_modules() for step in name.split(".")}
        return self.config is not None or {"g_a", "g_s"} <= steps | {*self.parts.values()}

    @property
    def can_code(self) -> bool:
        """Whether it codes to real bytes."""
        return hasattr(self.module, "compress") and hasattr(self.module, "decompress")

    def make_tables(self) -> None:
        """Make the entropy coder's tables, if it has none yet, to code images with.

        Raises:
            LabError: it cannot code, or it has entropy models and no ``update()``.
        """
        if not self.can_code:
            raise LabError(
                f"{self.name}: codes no image, since it lacks compress() or decompress(). Name a "
                "codec with CompressAI's interface; tcm-lab complexity counts any network."
            )
        buffers = self.module.named_buffers()
        if all(table.numel() for name, table in buffers if name.endswith("_quantized_cdf")):
            return
        if not hasattr(self.module, "update"):
            raise LabError(
                f"{self.name}: its entropy models have no tables. Call update() on them before, or "
                "give the codec an update() that does, as CompressAI's CompressionModel has."
            )
        self.update_tables()

    def update_tables(self) -> None:
        """Make the entropy coder's tables anew from the weights, if it has a way to."""
        update = getattr(self.module, "update", None)
        if update is not None:
            update(**_accepted(update, {"force": True}))

    def part_of(self, name: str) -> str:
        """Return the part that the module or parameter called ``name`` belongs to."""
        path = name.removeprefix("_orig_mod.").split(".")
        if self.config is not None:
            if path[0] == self.config.entropy_model.module_name:
                return self.config.entropy_model.part_of(".".join(path[1:]))
            return _TOP_PARTS.get(path[0], path[0])
        above = (".".join(path[:end]) for end in range(len(path), 0, -1))
        named = next((self.parts[each] for each in above if each in self.parts), None)
        if named is not None:
            return named
        # CompressAI's newer models keep h_a and h_s inside nested latent codecs.
        transform = next((step for step in path if step in TRANSFORMS), path[0])
        return _TOP_PARTS.get(transform, transform)


def decompress(coder: Any, coded: Mapping[str, Any]) -> Mapping[str, Any]:
    """Decode what a codec's ``compress`` returned.

    What a codec tells beside, such as times, and its ``decompress`` does not take is left out.

    Raises:
        LabError: ``decompress`` takes what ``compress`` does not return.
    """
    given = _accepted(coder.decompress, coded)
    try:
        inspect.signature(coder.decompress).bind(**given)
    except TypeError as error:
        raise LabError(
            f"{type(coder).__name__}: compress() returns {', '.join(coded)}, but decompress() has "
            f"{error}. Let it take by name what the other returns."
        ) from None
    return coder.decompress(**given)  # type: ignore[no-any-return]  # a user's method


def _accepted(function: Callable[..., Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """Return those arguments by name that a function takes."""
    parameters = inspect.signature(function).parameters.values()
    if any(each.kind is each.VAR_KEYWORD for each in parameters):
        return dict(given)
    names = {each.name for each in parameters}
    return {name: value for name, value in given.items() if name in names}


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Hold ``model`` in evaluation mode, and leave each of its modules in the mode it was in."""
    training = [module for module in model.modules() if module.training]
    model.eval()
    try:
        yield
    finally:
        for module in training:
            module.training = True


def unwrapped(model: nn.Module) -> nn.Module:
    """Return the module inside what ``torch.compile`` or any wrapper made of it."""
    inner = getattr(model, "_orig_mod", model)
    inner = inner if inner is not model else _wrapped(model)
    return unwrapped(inner) if inner is not model else model


def _wrapped(model: nn.Module) -> nn.Module:
    """Return what one wrapper without parameters of its own keeps as its ``module``, or ``model``.

    Such wrappers are those of data parallelism (DataParallel, DDP, FSDP, DeepSpeed, Fabric) and
    averages of weights (AveragedModel).
    """
    inner = getattr(model, "module", None)
    if not isinstance(inner, nn.Module) or hasattr(type(model), "decompress"):
        return model
    own = {id(parameter) for parameter in model.parameters()}
    return inner if own == {id(parameter) for parameter in inner.parameters()} else model


def bits(likelihoods: Mapping[str, Tensor], dtype: torch.dtype = torch.float32) -> Tensor:
    """Return the bits of every image by its likelihoods, summed in ``dtype``: (B,)."""
    parts = [part.to(dtype).log().flatten(1).sum(1) for part in likelihoods.values()]
    return torch.stack([part / -math.log(2) for part in parts]).sum(0)
