"""A stopwatch, and a codec made ready for it: stages hooked, options set, all undone after."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any, NamedTuple
from unittest.mock import patch

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tcm_lab._utils.sections import listening
from tcm_lab.codec import CodecAdapter
from tcm_lab.complexity.timing_record import TimingOptions

ENTROPY_CODING = "entropy_coding"
OTHER = "other"


class _ClockEvent:
    """A moment by the wall clock, with the interface of CUDA's events."""

    def record(self) -> None:
        self._at = time.perf_counter()

    def elapsed_time(self, later: _ClockEvent) -> float:
        return 1e3 * (later._at - self._at)


class Stopwatch:
    """Times one run after another; every moment of it belongs to exactly one named stage.

    Stages nest; time inside an inner stage is not the outer one's. So the stages of a run, with
    ``other`` for what no stage claims, add up to the run. On a GPU the marks are CUDA events in the
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
        """Charge what follows to stage ``name``, until `leave`; also as a module's hook."""
        self._mark()
        self._stack.append(name)

    def leave(self, *_: object) -> None:
        """Charge what follows to the stage that was left for this one."""
        self._mark()
        self._stack.pop()

    @property
    def wall_ms(self) -> float:
        """Wall time of the last run, from synchronised to synchronised."""
        return 1e3 * (self._ended - self._began)

    def stages_ms(self) -> dict[str, float]:
        """Return the time of each stage of the last run, in the order of their first entry."""
        spent: dict[str, float] = {}
        for (_, before), (stage, after) in zip(self._marks, self._marks[1:], strict=False):
            spent[stage] = spent.get(stage, 0.0) + before.elapsed_time(after)
        other = spent.pop(OTHER, 0.0)
        return {**spent, OTHER: other}

    def _mark(self) -> None:
        mark = torch.cuda.Event(enable_timing=True) if self._on_gpu else _ClockEvent()
        mark.record()
        self._marks.append((self._stack[-1], mark))

    def _synchronise(self) -> None:
        if self._on_gpu:
            torch.cuda.synchronize(self._device)


class Sample(NamedTuple):
    """One encoding, or decoding: its wall time, and the time of each stage."""

    wall_ms: float
    stages_ms: dict[str, float]


class Run(NamedTuple):
    """An encoding and the decoding of its bytes, with the peak memory of a GPU."""

    encode: Sample
    decode: Sample
    peak_bytes: int | None = None


class TimedCodec:
    """Runs one codec, on one image, under one set of conditions.

    Args:
        adapter: the codec, on its device.
        size: (height, width) of the image.
        options: the conditions.
    """

    def __init__(
        self, adapter: CodecAdapter, size: tuple[int, int], options: TimingOptions
    ) -> None:
        self.device = adapter.device
        self._model: Any = adapter.module
        self._foreign = adapter.config is None
        self._options = options
        self._watch = Stopwatch(self.device)
        layout = torch.channels_last if options.channels_last else torch.contiguous_format
        adapter.module.to(memory_format=layout)  # type: ignore[call-overload]  # torch's stub misses it
        image = adapter.pad(sample_image(size, options.batch).to(self.device))
        self._image = image.contiguous(memory_format=layout)
        self._rate = {"rate": 0.0} if adapter.rate_levels else {}

    @contextmanager
    def ready(self) -> Iterator[None]:
        """Hook the stages and compile the networks inside the ``with`` block."""
        model, watch, options = self._model, self._watch, self._options
        with ExitStack() as stack:
            stack.callback(model.train, model.training)
            model.eval()
            if self._foreign:
                model.update()
            for name, stage in _stages(model, self._foreign):
                stack.enter_context(stage.register_forward_pre_hook(partial(watch.enter, name)))
                stack.enter_context(stage.register_forward_hook(watch.leave, always_call=True))
                if options.compile:  # what the stage computes, its hooks left outside
                    compiled = torch.compile(stage.forward, backend=options.compile_backend)
                    stack.enter_context(patch.object(stage, "forward", compiled))
            for entropy_model in _entropy_models(model):
                for method in ("compress", "decompress"):
                    charged = watch.stage(ENTROPY_CODING)(getattr(entropy_model, method))
                    stack.enter_context(patch.object(entropy_model, method, charged))
            yield

    def once(self) -> Run:
        """Encode the image and decode its bytes."""
        on_gpu, precision = self.device.type == "cuda", getattr(torch, self._options.precision)
        half = precision != torch.float32
        if on_gpu:
            torch.cuda.reset_peak_memory_stats(self.device)
        with (
            torch.no_grad(),
            torch.autocast(self.device.type, dtype=precision, enabled=half),
            listening(self._watch.stage),
        ):
            with self._watch.running():
                coded = self._model.compress(self._image, **self._rate)
            encoded = Sample(self._watch.wall_ms, self._watch.stages_ms())
            with self._watch.running():
                self._model.decompress(**coded)
            decoded = Sample(self._watch.wall_ms, self._watch.stages_ms())
        return Run(
            encoded, decoded, torch.cuda.max_memory_allocated(self.device) if on_gpu else None
        )


def sample_image(size: tuple[int, int], batch: int) -> Tensor:
    """Return images (B, 3, H, W) in [0, 1]: soft shapes and a little grain, always the same."""
    generator = torch.Generator().manual_seed(0)
    coarse = torch.rand(batch, 3, -(-size[0] // 16) + 1, -(-size[1] // 16) + 1, generator=generator)
    image = F.interpolate(coarse, size=size, mode="bicubic", align_corners=False)
    grain = 0.02 * torch.randn(image.shape, generator=generator)
    return (image + grain).clamp(0, 1)


def _stages(model: nn.Module, foreign: bool) -> Iterator[tuple[str, nn.Module]]:
    """Yield the modules to be timed: the transforms, and each slice."""
    coders = _entropy_models(model)
    for name, child in model.named_children():
        if isinstance(child, nn.ModuleList):
            yield from ((f"{name}.{i}", module) for i, module in enumerate(child))
        elif child in coders or type(child).forward is nn.Module.forward:
            continue  # never called as a module
        elif foreign and name not in ("g_a", "g_s"):
            yield from _innermost(name, child)
        else:
            yield name, child


def _innermost(name: str, module: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """Yield h_a and h_s where CompressAI's newer models nest them, else the module itself."""
    nested = [
        (path.rpartition(".")[2], inner)
        for path, inner in module.named_modules()
        if path.rpartition(".")[2] in ("h_a", "h_s")
    ]
    yield from nested or [(name, module)]


def _entropy_models(model: nn.Module) -> list[nn.Module]:
    """Return CompressAI's entropy models, whose methods do not pass a module's hooks."""
    return [
        module
        for module in model.modules()
        if any(cls.__name__ == "EntropyModel" for cls in type(module).__mro__)
    ]
