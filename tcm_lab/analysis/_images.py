"""Images as codecs take them, from whatever the caller has them in."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn

from tcm_lab._utils.progress import OnDone
from tcm_lab.data import ImageSet
from tcm_lab.errors import LabError

Images = ImageSet | Sequence[Tensor] | Tensor
"""An image set; or (3, H, W) images, or a batch (B, 3, H, W), uint8 or in [0, 1]."""


def device_of(model: nn.Module) -> torch.device:
    """Return where ``model`` computes."""
    tensor = next(model.parameters(), None)
    return torch.device("cpu") if tensor is None else tensor.device


def names_of(images: Images) -> tuple[str, ...]:
    """Return the images' names, or their numbers.

    Raises:
        LabError: there is no image.
    """
    if not len(images):
        raise LabError("images: there is none to analyse. Name a folder of images.")
    if isinstance(images, ImageSet):
        return images.names
    return tuple(str(i) for i in range(len(images)))


def iterate_images(
    images: Images, model: nn.Module, on_image: OnDone | None = None
) -> Iterator[Tensor]:
    """Give each image as (1, 3, H, W) in [0, 1], where ``model`` is, and tell of it when done."""
    device = device_of(model)
    for done, image in enumerate(images, 1):
        x = image.to(device)
        yield (x.float().div(255) if x.dtype == torch.uint8 else x.float())[None]
        if on_image is not None:
            on_image(done, len(images))


def centre_crop(x: Tensor, size: tuple[int, int]) -> Tensor:
    """Return the middle of (1, C, H, W), ``size`` (H, W) large."""
    top, left = (x.shape[-2] - size[0]) // 2, (x.shape[-1] - size[1]) // 2
    return x[..., top : top + size[0], left : left + size[1]].contiguous()


def common_size(images: Images, multiple: int, side: int | None = None) -> tuple[int, int]:
    """Return the largest (height, width) that all images hold in whole ``multiple`` pixels.

    Args:
        images: the images.
        multiple: what both sides are rounded down to.
        side: at most so many pixels high and wide.

    Raises:
        LabError: an image is smaller than ``multiple``, or ``side`` is.
    """
    sizes = [(int(image.shape[-2]), int(image.shape[-1])) for image in images]
    if isinstance(images, ImageSet):
        sizes = list(images.sizes)
    smallest = [min(size[axis] for size in sizes) for axis in (0, 1)]
    if side is not None:
        smallest = [min(side, length) for length in smallest]
    height, width = (length // multiple * multiple for length in smallest)
    if not height or not width:
        raise LabError(
            f"images of {smallest[0]}x{smallest[1]} pixels hold no whole step of {multiple}; "
            f"give images, or crops, of at least {multiple}x{multiple}"
        )
    return height, width
