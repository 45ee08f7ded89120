"""One interface to every codec: assembled here, CompressAI's, or a user's own module.

Their differences (configuration, padding, rate levels, the part that a parameter belongs to) are
handled here and nowhere else.
"""

from __future__ import annotations

import copy
import inspect
import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from threading import Lock
from typing import Any

import torch
from torch import Tensor, nn

from tcm_lab._compat.torchvision import import_compressai
from tcm_lab._utils.digests import digest
from tcm_lab.codec.config import VariantConfig
from tcm_lab.codec.inputs import InputError, padded
from tcm_lab.codec.overrides import TRANSFORMS
from tcm_lab.errors import LabError, one_of

_FOREIGN_STRIDE = 64
_FOREIGN_LATENT_STRIDE = 16
_FOREIGN_LATENT_CHANNELS = 320
#: Packages whose wrappers do what their ``module`` does.
_WRAPPING = (
    *("torch", "lightning", "lightning_fabric", "pytorch_lightning"),
    *("accelerate", "apex", "colossalai", "deepspeed", "fairscale", "horovod", "torch_xla"),
)
_TOP_PARTS = {
    "entropy_bottleneck": "prior",
    "gaussian_conditional": "prior",
    "y_gains": "gain",
    "z_gains": "gain",
}
#: The modes in which `evaluating` found each module, by its identity: one for each open block.
_MODES: dict[int, list[bool]] = {}
_SWITCHING = Lock()


@dataclass(frozen=True)
class CodecAdapter:
    """The lab's view of any codec with CompressAI's interface.

    The interface is ``forward``, and for real bytes ``compress`` and ``decompress``. A foreign
    codec may describe itself by attributes: ``name`` (its name in tables), ``downsampling_factor``
    (sides are padded to a multiple of it; 1 for a codec that pads its own input), ``M`` (channels
    of y), ``rate_levels``, and ``parts``, a mapping from names of its modules to the parts that
    they are counted under. Parts called g_a and h_a belong to the encoder alone, g_s to the
    decoder.
    """

    module: nn.Module

    def __post_init__(self) -> None:
        """Unwrap the module; a compiled one stays, since it passes attributes through."""
        while (inner := _wrapped(self.module)) is not self.module:
            object.__setattr__(self, "module", inner)

    @property
    def config(self) -> VariantConfig | None:
        """The configuration it was assembled from, or ``None`` for a foreign codec."""
        config = getattr(self.module, "config", None)
        return config if isinstance(config, VariantConfig) else None

    @property
    def name(self) -> str:
        """Name in tables."""
        if self.config is not None:
            return self.config.name
        name = getattr(self.module, "name", None)
        return name if isinstance(name, str) else type(self.module).__name__

    @cached_property
    def fingerprint(self) -> str:
        """Hash of the configuration, or of a foreign codec's parameter shapes: 12 hex digits."""
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
        """Channels of y; for a foreign codec its attribute ``M``, as in CompressAI's models."""
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
        """Device of the parameters."""
        tensor = next(self.module.parameters(), None)
        return torch.device("cpu") if tensor is None else tensor.device

    @property
    def dtype(self) -> torch.dtype:
        """Type of the parameters, in which images are given."""
        tensor = next(self.module.parameters(), None)
        return torch.float32 if tensor is None else tensor.dtype

    def padded_size(self, size: tuple[int, int]) -> tuple[int, int]:
        """Return the (height, width) that an image of ``size`` is padded to."""
        return -(-size[0] // self.stride) * self.stride, -(-size[1] // self.stride) * self.stride

    def pad(self, x: Tensor) -> Tensor:
        """Pad images (B, 3, H, W) for a foreign codec by repeating the last row and column.

        Codecs that are assembled here pad their own input: their images are returned unchanged.
        """
        if self.config is not None:
            return x
        return padded(x, self.padded_size((x.shape[-2], x.shape[-1])))

    def check_crop(self, side: int) -> None:
        """Refuse training crops that are not multiples of a foreign ``downsampling_factor``.

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
            InputError: the message lists the valid rates.
        """
        if rate is None or 0 <= rate <= self.rate_levels - 1:
            return
        has = f"levels 0 to {self.rate_levels - 1}" if self.rate_levels else "no rate levels"
        raise InputError(f"rate = {rate:g}: {self.name} has {has}")

    def forward(self, x: Tensor, rate: float | None = None) -> Mapping[str, Any]:
        """Run a forward pass; without ``rate``, a codec with rate levels uses the lowest."""
        output: Mapping[str, Any] = self.module(x, **self._rate_option(rate))
        return output

    def likelihoods(self, x: Tensor, rate: float | None = None) -> Mapping[str, Tensor] | None:
        """Return the likelihoods of the latents, or ``None`` for a codec without likelihoods."""
        if self.config is None:
            return self.forward(x, rate).get("likelihoods")
        module: Any = self.module
        likelihoods: Mapping[str, Tensor] = module.likelihoods(x, **self._rate_option(rate))
        return likelihoods

    def _rate_option(self, rate: float | None) -> dict[str, float]:
        if rate is None:
            return {"rate": 0.0} if self.rate_levels else {}
        return {"rate": rate}

    @property
    def parts(self) -> Mapping[str, str]:
        """Parts of a foreign codec by module name; empty if it declares none."""
        parts = getattr(self.module, "parts", None)
        return parts if self.config is None and isinstance(parts, Mapping) else {}

    def path_of(self, transform: str) -> str | None:
        """Return the dotted name of a transform's module (g_a, say), or ``None`` if unknown.

        A foreign codec's ``parts`` may give it another name.
        """
        paths = [path for path, part in self.parts.items() if part == transform]
        if isinstance(getattr(self.module, transform, None), nn.Module):
            return transform
        return paths[0] if len(paths) == 1 else None

    @property
    def has_named_parts(self) -> bool:
        """Whether names show which modules belong to the encoder, and which to the decoder."""
        steps = {step for name, _ in self.module.named_modules() for step in name.split(".")}
        return self.config is not None or {"g_a", "g_s"} <= steps | {*self.parts.values()}

    @property
    def can_code(self) -> bool:
        """Whether it codes to real bytes."""
        return hasattr(self.module, "compress") and hasattr(self.module, "decompress")

    def make_tables(self) -> None:
        """Make the entropy coder's tables, or make them anew where the weights may have changed.

        Raises:
            LabError: the codec cannot code, or has entropy models but no ``update()``.
        """
        if not self.can_code:
            raise LabError(
                f"{self.name}: cannot code images, since it lacks compress() or decompress(). Name "
                "a codec with CompressAI's interface; tcm-lab complexity counts any network."
            )
        buffers = self.module.named_buffers()
        if all(table.numel() for name, table in buffers if name.endswith("_quantized_cdf")):
            if self.config is None:  # one assembled here notices changed weights itself
                self.renew_tables()
            return
        if not hasattr(self.module, "update"):
            raise LabError(
                f"{self.name}: its entropy models have no tables. Call update() on them first, or "
                "give the codec an update() that does so, as CompressAI's CompressionModel has."
            )
        self.update_tables()

    def renew_tables(self) -> None:
        """Rebuild the tables that follow from weights, where they exist."""
        kind = import_compressai().entropy_models.EntropyBottleneck
        plain = torch.autocast(self.device.type, enabled=False)
        with torch.inference_mode(False), torch.no_grad(), plain:
            for prior in self.module.modules():
                if isinstance(prior, kind) and prior._quantized_cdf.numel():
                    prior.update(force=True)

    def update_tables(self) -> None:
        """Rebuild the entropy coder's tables from the weights, if the codec has ``update()``."""
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
        prefixes = (".".join(path[:end]) for end in range(len(path), 0, -1))
        part = next((self.parts[prefix] for prefix in prefixes if prefix in self.parts), None)
        if part is not None:
            return part
        # CompressAI's newer models keep h_a and h_s inside nested latent codecs.
        transform = next((step for step in path if step in TRANSFORMS), path[0])
        return _TOP_PARTS.get(transform, transform)


def decompress(coder: Any, coded: Mapping[str, Any]) -> Mapping[str, Any]:
    """Decode the output of a codec's ``compress``.

    Entries that ``decompress`` does not accept, such as times, are dropped.

    Raises:
        LabError: ``decompress`` needs an argument that ``compress`` does not return.
    """
    arguments = _accepted(coder.decompress, coded)
    try:
        inspect.signature(coder.decompress).bind(**arguments)
    except TypeError as error:
        raise LabError(
            f"{type(coder).__name__}: compress() returns {', '.join(coded)}, but decompress() does "
            f"not fit: {error}. Name its parameters after what compress() returns."
        ) from None
    return coder.decompress(**arguments)  # type: ignore[no-any-return]  # a user's method


def _accepted(function: Callable[..., Any], arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Return the named arguments that a function accepts."""
    parameters = inspect.signature(function).parameters.values()
    if any(each.kind is each.VAR_KEYWORD for each in parameters):
        return dict(arguments)
    names = {each.name for each in parameters}
    return {name: value for name, value in arguments.items() if name in names}


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Switch ``model`` to evaluation mode, and restore the mode of each module afterwards.

    Of several threads that do so at once, the last one restores it.
    """
    modules = [*model.modules()]
    with _SWITCHING:
        for module in modules:
            _MODES.setdefault(id(module), []).append(module.training)
        model.eval()
    try:
        yield
    finally:
        with _SWITCHING:
            for module in modules:
                module.training = _MODES[id(module)].pop()
                if not _MODES[id(module)]:
                    del _MODES[id(module)]


def copied(model: nn.Module, *, bare: bool = False) -> nn.Module:
    """Return a copy of ``model``; a bare one is on the meta device, and no data is copied.

    A tensor of an earlier pass that a module keeps as an attribute is copied without its history.
    """
    memo: dict[int, Any] = {}
    for tensor in [*model.parameters(), *model.buffers()] if bare else ():
        memo[id(tensor)] = torch.empty_like(tensor, device="meta")
        if isinstance(tensor, nn.Parameter):
            memo[id(tensor)] = nn.Parameter(memo[id(tensor)], tensor.requires_grad)
    for value in (value for module in model.modules() for value in vars(module).values()):
        if isinstance(value, Tensor) and not value.is_leaf:
            memo[id(value)] = value.detach().to("meta") if bare else value.detach().clone()
    return copy.deepcopy(model, memo)


def unwrapped(model: nn.Module) -> nn.Module:
    """Return the module inside ``torch.compile`` and any other wrappers."""
    inner = getattr(model, "_orig_mod", model)
    inner = inner if inner is not model else _wrapped(model)
    return unwrapped(inner) if inner is not model else model


def _wrapped(model: nn.Module) -> nn.Module:
    """Return the ``module`` of a wrapper without parameters of its own, or ``model`` itself.

    Data parallelism (DataParallel, DDP, FSDP, DeepSpeed, Fabric) and weight averaging
    (AveragedModel) have such wrappers, with a library's ``forward``. A user's may do something.
    """
    inner = getattr(model, "module", None)
    if not isinstance(inner, nn.Module) or hasattr(type(model), "decompress"):
        return model
    if type(model).forward.__module__.partition(".")[0] not in _WRAPPING:
        return model
    own = {id(parameter) for parameter in model.parameters()}
    return inner if own == {id(parameter) for parameter in inner.parameters()} else model


def bits(likelihoods: Mapping[str, Tensor], dtype: torch.dtype = torch.float32) -> Tensor:
    """Return the estimated bits of each image from its likelihoods, summed in ``dtype``: (B,)."""
    parts = [part.to(dtype).log().flatten(1).sum(1) for part in likelihoods.values()]
    return torch.stack([part / -math.log(2) for part in parts]).sum(0)
