"""A stopwatch, and a codec prepared for it: stages hooked, options set, all undone afterwards."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from itertools import pairwise
from typing import Any, NamedTuple
from unittest.mock import patch

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tcm_lab._utils.devices import arithmetic
from tcm_lab._utils.sections import listening
from tcm_lab.codec import CodecAdapter, PortableReference
from tcm_lab.codec.adapter import decompress, evaluating
from tcm_lab.complexity.timing_record import TimingOptions

_GRAPHS = 256  # for one forward(), which many slices share; more would run uncompiled
ENTROPY_CODING = "entropy_coding"
OTHER = "other"


class Sample(NamedTuple):
    """One encoding or decoding: its wall time, synchronised before and after, and its stages'."""

    wall_ms: float
    stages_ms: dict[str, float]


class Run(NamedTuple):
    """An encoding and the decoding of its bytes, with the peak memory of a GPU."""

    encode: Sample
    decode: Sample
    peak_bytes: int | None = None


class _ClockEvent:
    """A moment by the wall clock, with the interface of CUDA's events."""

    def record(self) -> None:
        self._at = time.perf_counter()

    def elapsed_time(self, later: _ClockEvent) -> float:
        return 1e3 * (later._at - self._at)


class Stopwatch:
    """Times one run after another; every moment of a run belongs to exactly one named stage.

    Stages nest; time inside an inner stage does not count for the outer one. So the stages of a
    run, with ``other`` for the rest, add up to the run. On a GPU the marks are CUDA events in the
    stream of work, so a stage is charged for its kernels whenever they run, not for their launch.

    Args:
        device: where the work runs; ``cpu`` or ``cuda``.
    """

    def __init__(self, device: torch.device) -> None:
        self._on_gpu = device.type == "cuda"
        self._device = device
        self._stack = [OTHER]
        self._marks: list[tuple[str, Any]] = []  # a stage, and where it ended

    @contextmanager
    def running(self) -> Iterator[None]:
        """Time the ``with`` block as one run, synchronised before and after."""
        self._synchronise()
        self._stack, self._marks = [OTHER], []
        self._began = time.perf_counter()
        self._mark()
        try:
            yield
        finally:
            self._mark()
            self._synchronise()
            self._ended = time.perf_counter()

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Charge the ``with`` block to stage ``name``."""
        self.enter(name)
        try:
            yield
        finally:
            self.leave()

    def enter(self, name: str, *_: object) -> None:
        """Charge the time from now on to stage ``name``, until `leave`; also a module's hook."""
        self._mark()
        self._stack.append(name)

    def leave(self, *_: object) -> None:
        """Charge the time from now on to the enclosing stage."""
        self._mark()
        self._stack.pop()

    def sample(self) -> Sample:
        """Return the last run's times, its stages in the order of their first entry."""
        spent: dict[str, float] = defaultdict(float)
        for (_, before), (stage, after) in pairwise(self._marks):
            spent[stage] += before.elapsed_time(after)
        other = spent.pop(OTHER, 0.0)
        return Sample(1e3 * (self._ended - self._began), {**spent, OTHER: other})

    def _mark(self) -> None:
        mark: Any = _ClockEvent()
        if self._on_gpu:
            mark = torch.cuda.Event(enable_timing=True)
            mark.record(torch.cuda.current_stream(self._device))  # not that of another GPU
        else:
            mark.record()
        self._marks.append((self._stack[-1], mark))

    def _synchronise(self) -> None:
        if self._on_gpu:
            torch.cuda.synchronize(self._device)


@contextmanager
def timed_codec(
    adapter: CodecAdapter, size: tuple[int, int], options: TimingOptions
) -> Iterator[Callable[[], Run]]:
    """Yield a function that encodes one image and decodes its bytes, timed stage by stage.

    Inside the ``with`` block the codec's stages are hooked and, if requested, compiled.

    Args:
        adapter: the codec, on its device.
        size: (height, width) of the image.
        options: the conditions.
    """
    model, device = adapter.module, adapter.device
    watch, on_gpu = Stopwatch(device), device.type == "cuda"
    layout = torch.channels_last if options.channels_last else torch.contiguous_format
    image = adapter.pad(sample_image(size, options.batch).to(device, adapter.dtype))
    image = image.contiguous(memory_format=layout)
    coder, arguments = _coder(adapter, portable=options.portable)
    own_bytes = sum(each.nbytes for each in (*model.parameters(), *model.buffers(), image))

    def once() -> Run:
        # Memory of other models that take turns with this one does not count.
        others_bytes = torch.cuda.memory_allocated(device) - own_bytes if on_gpu else 0
        if on_gpu:
            torch.cuda.reset_peak_memory_stats(device)
        with torch.no_grad(), arithmetic(options.precision, device), listening(watch.stage):
            with watch.running():
                coded = coder.compress(image, **arguments)
            encoded = watch.sample()
            with watch.running():
                decompress(coder, coded)
            decoded = watch.sample()
        peak = torch.cuda.max_memory_allocated(device) - others_bytes if on_gpu else None
        return Run(encoded, decoded, peak)

    with _in_layout(model, layout), evaluating(model), _buffers_kept(adapter):
        adapter.make_tables()
        with _hooked(model, watch, options):
            yield once


def _coder(adapter: CodecAdapter, *, portable: bool) -> tuple[Any, dict[str, Any]]:
    """Return the object that codes, and the arguments of its ``compress``."""
    arguments: dict[str, Any] = {"rate": 0.0} if adapter.rate_levels else {}
    if portable and adapter.config is None:
        return PortableReference(adapter.module), arguments
    return adapter.module, arguments | ({"portable": True} if portable else {})


@contextmanager
def _in_layout(model: Any, layout: torch.memory_format) -> Iterator[None]:
    """Hold a model's weights in a memory format."""
    is_last = any(p.dim() == 4 and not p.is_contiguous() for p in model.parameters())
    before = torch.channels_last if is_last else torch.contiguous_format
    try:
        model.to(memory_format=layout)
        yield
    finally:
        model.to(memory_format=before)


@contextmanager
def _buffers_kept(adapter: CodecAdapter) -> Iterator[None]:
    """Restore a foreign codec's buffers, whose tables it would not renew after training.

    A codec that is assembled here renews its own.
    """
    modules = [] if adapter.config is not None else [*adapter.module.modules()]
    before = [dict(module.named_buffers(recurse=False)) for module in modules]
    try:
        yield
    finally:
        for module, buffers in zip(modules, before, strict=True):
            for name, buffer in buffers.items():
                setattr(module, name, buffer)


@contextmanager
def _hooked(model: nn.Module, watch: Stopwatch, options: TimingOptions) -> Iterator[None]:
    """Charge a model's stages and its entropy coding to a stopwatch, and compile as requested."""
    with ExitStack() as stack:
        if options.compile:
            from torch._dynamo import config  # takes long to import

            stack.enter_context(config.patch(recompile_limit=_GRAPHS))
        for name, stage in _stages(model):
            stack.enter_context(stage.register_forward_pre_hook(partial(watch.enter, name)))
            stack.enter_context(stage.register_forward_hook(watch.leave, always_call=True))
            if options.compile:  # the stage's computation, without its hooks
                compiled = torch.compile(stage.forward, backend=options.compile_backend)
                stack.enter_context(patch.object(stage, "forward", compiled))
        for entropy_model in _entropy_models(model):
            for method in ("compress", "decompress"):
                charged = watch.stage(ENTROPY_CODING)(getattr(entropy_model, method))
                stack.enter_context(patch.object(entropy_model, method, charged))
        yield


def sample_image(size: tuple[int, int], batch: int) -> Tensor:
    """Return images (B, 3, H, W) in [0, 1]: soft shapes and a little grain, always the same."""
    generator = torch.Generator().manual_seed(0)
    coarse = torch.rand(batch, 3, -(-size[0] // 16) + 1, -(-size[1] // 16) + 1, generator=generator)
    image = F.interpolate(coarse, size=size, mode="bicubic", align_corners=False)
    grain = 0.02 * torch.randn(image.shape, generator=generator)
    return (image + grain).clamp(0, 1)


def _stages(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """Yield the modules to be timed: the transforms, and each slice."""
    coders = _entropy_models(model)
    for name, child in model.named_children():
        if isinstance(child, nn.ModuleList | nn.ModuleDict):
            yield from ((f"{name}.{key}", module) for key, module in child.named_children())
        elif child not in coders and type(child).forward is not nn.Module.forward:
            # CompressAI's newer models keep h_a and h_s inside nested latent codecs.
            paths = ((path.rpartition(".")[2], inner) for path, inner in child.named_modules())
            yield from [each for each in paths if each[0] in ("h_a", "h_s")] or [(name, child)]


def _entropy_models(model: nn.Module) -> list[nn.Module]:
    """Return CompressAI's entropy models, whose methods do not run a module's hooks."""
    return [
        module
        for module in model.modules()
        if any(cls.__name__ == "EntropyModel" for cls in type(module).__mro__)
    ]
