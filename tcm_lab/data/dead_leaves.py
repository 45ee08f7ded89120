"""Dead leaves: images of occluding textured discs, whose statistics are close to natural ones.

Occluding discs whose radii have the density r^-3 reproduce the scale invariance, the edges and the
power spectrum of photographs (Lee, Mumford, Huang, "Occlusion models for natural images", 2001);
networks trained on them alone carry over to photographs (Achddou et al. 2021).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

_RADIUS_MIN_PX = (3.0, 24.0)  # one per canvas, log-uniform: from foliage to calm surfaces
_COVERINGS = 5.0  # total area of the discs over that of the canvas: exp(-5) remains background
_TILE_PX = 256


def paint_dead_leaves(seed: tuple[int, ...], side: int) -> NDArray[np.uint8]:
    """Paint a canvas of ``side`` x ``side`` pixels, a pure function of ``seed``.

    Returns:
        uint8 (side, side, 3).
    """
    rng = np.random.default_rng(seed)
    texture = _pink_tile(rng)
    radius_min = float(np.exp(rng.uniform(*np.log(_RADIUS_MIN_PX))))
    radius_max = side / 2
    if radius_min >= radius_max:  # on a canvas below 48 pixels
        radius_min = radius_max / 2
    # E[pi r^2] under the truncated density 2 r_min^2 r^-3.
    mean_area = 2 * np.pi * radius_min**2 * np.log(radius_max / radius_min)
    count = int(_COVERINGS * side * side / mean_area)
    uniform = rng.random(count)
    inverse = radius_min**-2 * (1 - uniform) + radius_max**-2 * uniform
    radii = (inverse**-0.5).astype(np.float32)
    centres = rng.uniform(0, side, (count, 2)).astype(np.float32)
    colours = _natural_colours(rng, count + 1)
    contrasts = rng.exponential(0.05, count + 1).astype(np.float32)
    shades = rng.normal(0, 0.1, (count, 2)).astype(np.float32)
    offsets = rng.integers(0, _TILE_PX, (count, 2))
    tints = rng.normal(1, 0.15, (count, 3)).astype(np.float32)

    tiles = -(-side // _TILE_PX) + 1
    texture = np.tile(texture, (tiles, tiles))
    canvas = np.empty((side, side, 3), np.float32)
    canvas[:] = colours[-1]
    canvas += contrasts[-1] * texture[:side, :side, None]
    grid = np.arange(side, dtype=np.float32)
    for index in range(count):
        radius, (cy, cx) = radii[index], centres[index]
        top, bottom = max(int(cy - radius), 0), min(int(cy + radius) + 2, side)
        left, right = max(int(cx - radius), 0), min(int(cx + radius) + 2, side)
        dy, dx = grid[top:bottom, None] - cy, grid[None, left:right] - cx
        # A soft edge of one pixel imitates the anti-aliasing of a lens.
        inside = np.clip(radius + 0.5 - np.sqrt(dy * dy + dx * dx), 0, 1)[:, :, None]
        oy, ox = offsets[index]
        value = contrasts[index] * texture[oy : oy + bottom - top, ox : ox + right - left]
        value += (shades[index, 0] / radius) * dy + (shades[index, 1] / radius) * dx
        leaf = value[:, :, None] * tints[index] + colours[index]
        patch = canvas[top:bottom, left:right]
        leaf -= patch
        leaf *= inside
        patch += leaf
    return (canvas.clip(0, 1) * 255 + 0.5).astype(np.uint8)


def _pink_tile(rng: np.random.Generator) -> NDArray[np.float32]:
    """Draw a periodic tile of unit variance whose amplitude spectrum falls as 1/f."""
    fy = np.fft.fftfreq(_TILE_PX)[:, None]
    fx = np.fft.rfftfreq(_TILE_PX)[None, :]
    amplitude = 1 / np.maximum(np.hypot(fy, fx), 1 / _TILE_PX)
    amplitude[0, 0] = 0
    spectrum = np.fft.rfft2(rng.standard_normal((_TILE_PX, _TILE_PX))) * amplitude
    tile = np.fft.irfft2(spectrum, s=(_TILE_PX, _TILE_PX))
    pink: NDArray[np.float32] = (tile / tile.std()).astype(np.float32)
    return pink


def _natural_colours(rng: np.random.Generator, count: int) -> NDArray[np.float32]:
    """Draw RGB in [0, 1]: broad luminance, heavy-tailed small opponent colours (Ruderman 1998)."""
    luma = rng.beta(1.2, 1.5, count)
    blue_yellow, red_green = rng.laplace(0, 0.08, count), rng.laplace(0, 0.05, count)
    rgb = np.stack(
        [luma + red_green - blue_yellow / 2, luma - red_green / 2, luma + blue_yellow], axis=1
    )
    colours: NDArray[np.float32] = rgb.clip(0, 1).astype(np.float32)
    return colours
