"""Training crops as a pure function of (seed, index), so that resuming and ranks need no state.

Threads prepare batches of them in advance.
"""

from __future__ import annotations

import hashlib
import logging
import threading
from collections import OrderedDict, deque
from collections.abc import Callable, Generator, Hashable
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tcm_lab.data.dead_leaves import paint_dead_leaves
from tcm_lab.data.images import ImageSet
from tcm_lab.errors import FileError, LabError

logger = logging.getLogger(__name__)

# Neighbouring crops come from a pool of images, so that a decoded image serves several crops
# before it leaves the cache; the pool changes every _WINDOW crops.
_WINDOW = 2048
_PHOTOGRAPHS_PER_WINDOW = 256
_CANVASES_PER_WINDOW = 16
_CANVAS_PX = 512
_AHEAD = 4  # batches prepared in advance


class CropSource:
    """Square crops from images; for the embedded images, half of them from dead leaves.

    Args:
        images: source of the crops; images smaller than the crop are skipped and reported.
        crop: side of the crops in pixels.
        seed: seed of the crops; each follows from it and the crop's index alone.
        synthetic: take every other crop from dead leaves; by default only for the embedded images,
            which are too few to train on alone.
        cache_bytes: limit on the size of the cached images.

    Raises:
        LabError: no image is large enough.
    """

    def __init__(
        self,
        images: ImageSet,
        *,
        crop: int,
        seed: int,
        synthetic: bool | None = None,
        cache_bytes: int = 1 << 30,
    ) -> None:
        self._images = images.at_least(crop)
        self.crop = crop
        self.seed = seed
        self.synthetic = images.embedded if synthetic is None else synthetic
        self._cache = _BoundedCache(cache_bytes)
        self._broken: set[int] = set()

    @property
    def skipped(self) -> tuple[str, ...]:
        """Images skipped so far with the reasons, including those that could not be decoded."""
        broken = (f"{self._images.names[index]}: broken" for index in sorted(self._broken))
        return (*self._images.skipped, *broken)

    @property
    def fingerprint(self) -> str:
        """Sixteen hex digits that identify the images, the mix, the crop size and the seed."""
        facts = f"{self._images.fingerprint} {self.synthetic} {self.crop} {self.seed}"
        return hashlib.sha256(facts.encode()).hexdigest()[:16]

    def batch(self, step: int, batch_size: int, rank: int = 0, world: int = 1) -> Tensor:
        """Cut this rank's share of the batch of ``step``, which is split over ``world`` ranks.

        Returns:
            float32 (batch_size / world, 3, crop, crop) in [0, 1].

        Raises:
            LabError: the batch can't be split equally, or no image can be decoded.
        """
        check_shares(batch_size, world)
        share = batch_size // world
        first = step * batch_size + rank * share
        crops = np.stack([self._cut(index) for index in range(first, first + share)])
        return torch.from_numpy(crops).permute(0, 3, 1, 2).float().div_(255).contiguous()

    def _cut(self, index: int) -> NDArray[np.uint8]:
        """Cut crop ``index``: uint8 (crop, crop, 3)."""
        rng = np.random.default_rng((self.seed, index))
        window = index // _WINDOW
        if self.synthetic and index % 2:
            image = self._canvas(window * _CANVASES_PER_WINDOW + rng.integers(_CANVASES_PER_WINDOW))
        else:
            image = self._photograph(window, rng)
        top = rng.integers(image.shape[0] - self.crop + 1)
        left = rng.integers(image.shape[1] - self.crop + 1)
        cut = image[top : top + self.crop, left : left + self.crop]
        if rng.random() < 0.5:
            cut = cut[:, ::-1]
        if rng.random() < 0.5:
            cut = cut[::-1]
        return cut

    def _canvas(self, number: int) -> NDArray[np.uint8]:
        side = max(_CANVAS_PX, 2 * self.crop)
        return self._cache.get(
            ("canvas", number), lambda: paint_dead_leaves((self.seed, number), side)
        )

    def _photograph(self, window: int, rng: np.random.Generator) -> NDArray[np.uint8]:
        count = len(self._images)
        choice = int(rng.integers(min(count, _PHOTOGRAPHS_PER_WINDOW)))
        if count > _PHOTOGRAPHS_PER_WINDOW:
            choice = int(self._pool(window)[choice])
        for attempt in range(count):
            index = (choice + attempt) % count
            try:
                return self._cache.get(("photograph", index), partial(self._decode, index))
            except LabError as error:
                # The next image replaces a broken one, so crops still follow from the seed.
                if index not in self._broken:
                    self._broken.add(index)
                    logger.warning("%s Training continues without it.", error)
        raise FileError(f"{self._images.origin}: no image can be decoded. Name another folder.")

    def _decode(self, index: int) -> NDArray[np.uint8]:
        image = self._images.decode(index)
        height, width = image.shape[:2]
        if min(height, width) < self.crop:  # the file changed, or its header is wrong
            raise FileError(
                f"{self._images.names[index]}: is {height}x{width} now, below the crop of "
                f"{self.crop}x{self.crop}."
            )
        return image

    def _pool(self, window: int) -> NDArray[np.int64]:
        def draw() -> NDArray[np.int64]:
            rng = np.random.default_rng((self.seed, 1, window))
            return rng.choice(len(self._images), _PHOTOGRAPHS_PER_WINDOW, replace=False)

        return self._cache.get(("pool", window), draw)


def check_shares(batch_size: int, world: int, name: str = "batch") -> None:
    """Refuse a batch that ``world`` processes can't share equally; ``name`` is its recipe field.

    Raises:
        LabError: ``batch_size`` is not a multiple of ``world``.
    """
    if batch_size % world:
        raise LabError(
            f"{name} {batch_size} cannot be shared by {world} processes: use a multiple of {world}."
        )


class _BoundedCache:
    """Thread-safe cache of arrays by key that drops the least recently used first."""

    def __init__(self, limit_bytes: int) -> None:
        self._limit = limit_bytes
        self._held = 0
        self._arrays: OrderedDict[Hashable, NDArray[Any]] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, key: Hashable, make: Callable[[], NDArray[Any]]) -> NDArray[Any]:
        with self._lock:
            if key in self._arrays:
                self._arrays.move_to_end(key)
                return self._arrays[key]
        array = make()  # outside the lock: two threads may both decode, which only costs time
        with self._lock:
            if key not in self._arrays:
                self._arrays[key] = array
                self._held += array.nbytes
            while self._held > self._limit and len(self._arrays) > 1:
                _, dropped = self._arrays.popitem(last=False)
                self._held -= dropped.nbytes
        return array


class Batches(Protocol):
    """Anything that makes the batch of a step, such as a ``CropSource``."""

    @property
    def fingerprint(self) -> str:
        """A short text that identifies the data in records."""

    def batch(self, step: int, batch_size: int, rank: int = 0, world: int = 1) -> Tensor:
        """Make this rank's share of the global batch of ``step``: (B / world, 3, S, S)."""


def prefetch(
    source: Batches,
    steps: range,
    batch_size: int,
    *,
    rank: int = 0,
    world: int = 1,
    workers: int = 2,
    pin: bool = False,
) -> Generator[Tensor, None, None]:
    """Yield the batch of every step in ``steps``, preparing a few in advance.

    Close the iterator (or exhaust it) to end its threads. ``pin`` puts the batches in page-locked
    memory, from which a GPU copies without waiting. An error in the source is raised at its step.
    """

    def make(step: int) -> Tensor:
        batch = source.batch(step, batch_size, rank, world)
        return batch.pin_memory() if pin else batch

    # Otherwise each thread would start as many torch threads, all competing for the same cores.
    pool = ThreadPoolExecutor(
        workers, thread_name_prefix="crops", initializer=torch.set_num_threads, initargs=(1,)
    )
    pending: deque[Future[Tensor]] = deque()
    try:
        for step in steps:
            pending.append(pool.submit(make, step))
            if len(pending) > _AHEAD:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()
    finally:
        pool.shutdown(wait=False, cancel_futures=True)
