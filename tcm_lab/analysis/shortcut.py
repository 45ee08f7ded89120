"""The share of the latent and of the decoded image that comes from the linear shortcuts."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from tcm_lab._utils import Frozen
from tcm_lab._utils.environment import Environment, environment
from tcm_lab._utils.progress import OnDone
from tcm_lab.analysis._probe import Images, image_names, iterate_images, outputs_of, run
from tcm_lab.codec import CodecAdapter
from tcm_lab.codec.adapter import unwrapped
from tcm_lab.errors import LabError


class ShortcutRecord(Frozen):
    """The linear shortcut's share of the outputs of g_a and g_s.

    A transform returns the sum of its shortcut s and its stages. The share is Σ cov(s, out) / Σ
    var(out) over channels, with covariances over positions. The shares of shortcut and stages add
    up to 1; one of them exceeds 1 if the other partly cancels it.

    Attributes:
        model: name of the model.
        images: names of the images.
        latent: share of y, by image.
        image: share of x̂ before clamping, by image.
        environment: device, threads, versions.
    """

    model: str
    images: tuple[str, ...]
    latent: tuple[float, ...]
    image: tuple[float, ...]
    environment: Environment


@torch.no_grad()
def measure_shortcut(
    codec: nn.Module,
    images: Images,
    *,
    rate: float | None = None,
    on_image: OnDone | None = None,
) -> ShortcutRecord:
    """Measure the linear shortcut's share of the latent and of the decoded image.

    Args:
        codec: a codec assembled by this package with ``shortcut: patch`` or ``staged``.
        images: images of any size.
        rate: level of a rate-conditioned codec; None is the lowest.
        on_image: callback receiving (images done, total images).

    Raises:
        LabError: there are no images, or the codec has no shortcut.
    """
    codec = unwrapped(codec)
    adapter = CodecAdapter(codec)
    if adapter.config is None or adapter.config.shortcut in ("none", "wavelet"):
        raise LabError(
            f"{adapter.name} has no end-to-end linear shortcut; shortcut: staged gives it one"
        )
    paths = ("g_a", "g_a.shortcut", "g_s", "g_s.shortcut")
    parts = {path: codec.get_submodule(path) for path in paths}
    names = image_names(images)
    shares: dict[str, list[float]] = {"g_a": [], "g_s": []}
    for x in iterate_images(images, codec, on_image):
        with outputs_of(parts) as outputs:
            run(codec, x, rate)
        for name, of_images in shares.items():
            of_images.append(_share(outputs[f"{name}.shortcut"], outputs[name]))
    return ShortcutRecord(
        model=adapter.name,
        images=names,
        latent=tuple(shares["g_a"]),
        image=tuple(shares["g_s"]),
        environment=environment(adapter.device),
    )


def _share(part: Tensor, whole: Tensor) -> float:
    """Return Σ cov(part, whole) / Σ var(whole) of maps (1, C, H, W)."""
    part, whole = (
        maps.double() - maps.double().mean((2, 3), keepdim=True) for maps in (part, whole)
    )
    return float((part * whole).sum() / whole.square().sum())
