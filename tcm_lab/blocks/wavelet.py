"""Linear steps of a wavelet side path: Haar subbands with a gain each, and a projection (AuxT).

Li et al. 2025, "On Disentangled Training for Nonlinear Transform in Learned Image Compression",
ICLR, arXiv 2501.13751: WLS and iWLS.

A step is linear, so wavelet, gains and projection are folded into one strided convolution: it costs
as much as the projection alone, and no subband is ever written to memory.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from tcm_lab.blocks.cost import Cost, Kind, linear_cost
from tcm_lab.blocks.extent import Extent, Extents
from tcm_lab.blocks.registry import ResampleDirection

_GAIN = 0.5  # initial logarithm of the gain of every subband but the diagonal one


class HaarLinear(nn.Linear):
    """A linear layer between the Haar subbands of a map and the channels of another.

    Down: subbands of (B, C_in, H, W), times their gains, projected to (B, C_out, H/f, W/f). Up:
    channels projected to subbands, divided by their gains, and synthesised to (B, C_out, f H, f W).
    Subbands come in the order LL, LH (rows differ), HL (columns differ), HH, each with all
    channels; the factor f is a power of two, and for 4 and more the wavelet is applied to all
    subbands again.
    """

    def __init__(self, c_in: int, c_out: int, factor: int, direction: ResampleDirection) -> None:
        bands, down = factor**2, direction == "down"
        super().__init__(bands * c_in if down else c_in, c_out if down else bands * c_out)
        self.factor = factor
        self.direction = direction
        start = torch.full((bands, c_in if down else c_out), _GAIN)
        if bands > 1:
            start[-bands // 4 :] = 0  # HH of the last level
        self.log_gain = nn.Parameter(start.reshape(1, 1, -1))

    def forward(self, input: Float[Tensor, "b c h w"]) -> Float[Tensor, "b d h2 w2"]:
        """Transform a map; sides that the factor does not divide are padded by replication."""
        gain, f = self.log_gain.flatten(), self.factor
        if self.direction == "down":
            missing = (0, -input.shape[-1] % f, 0, -input.shape[-2] % f)
            if any(missing):
                input = F.pad(input, missing, mode="replicate")
            kernel = _synthesised(self.weight * gain.exp(), f)
            return F.conv2d(input, kernel, self.bias, stride=f)
        shrunk = (-gain).exp()
        kernel = _synthesised(self.weight.mT * shrunk, f)
        out = F.conv_transpose2d(input, kernel, stride=f)
        pattern = _synthesised((self.bias * shrunk)[None], f)[0]
        return out + pattern.repeat(1, *input.shape[-2:])

    def extents(self) -> Extents:
        """Return the extents of the subbands, one after another."""
        bands = self.factor**2
        maps = Extent((self.log_gain.numel() // bands,) * bands)
        gains: Extents = {"log_gain": (None, None, maps)}
        if self.direction == "down":
            return {**gains, "weight": (None, maps)}
        return {**gains, "weight": (maps, None), "bias": (maps,)}

    @torch.no_grad()
    def keep_means_(self) -> None:
        """Set the weights of all subbands but LL to zero, in place."""
        weight = self.weight if self.direction == "down" else self.weight.mT
        weight[:, weight.shape[1] // self.factor**2 :] = 0

    def orthogonality(self) -> Float[Tensor, ""]:
        """Return how far the projection is from orthogonal.

        This is the mean squared difference between the identity and the smaller Gram matrix of the
        weight, as in the authors' code.
        """
        weight = self.weight if self.in_features > self.out_features else self.weight.mT
        gram = weight @ weight.mT
        return (gram - torch.eye(len(gram), dtype=gram.dtype, device=gram.device)).square().mean()


def haar_subbands(x: Float[Tensor, "b c h w"], factor: int) -> Float[Tensor, "b d h2 w2"]:
    """Return the subbands (B, f² C, H/f, W/f) that a `HaarLinear` sees, without its gains."""
    bands = factor**2 * x.shape[1]
    kernel = _synthesised(torch.eye(bands, dtype=x.dtype, device=x.device), factor)
    return F.conv2d(x, kernel, stride=factor)


def _synthesised(bands: Float[Tensor, "n k"], factor: int) -> Float[Tensor, "n c f f"]:
    """Return rows over subbands as rows over patches of ``factor`` x ``factor`` positions."""
    rows, f = len(bands), factor
    patches = bands.reshape(rows, -1, 1, 1)
    while patches.shape[-1] < f:
        ll, lh, hl, hh = patches.unflatten(1, (4, -1)).unbind(1)
        top = torch.stack((ll + lh + hl + hh, ll + lh - hl - hh), -1)
        bottom = torch.stack((ll - lh + hl - hh, ll - lh - hl + hh), -1)
        # (n, c, h, w, row, column) to (n, c, 2 h, 2 w)
        finer = torch.stack((top, bottom), -2).permute(0, 1, 2, 4, 3, 5) / 2
        patches = finer.flatten(4).flatten(2, 3)
    return patches


def haar_linear_cost(
    c_in: int, c_out: int, factor: int, direction: ResampleDirection, height: int, width: int
) -> Cost:
    """Return the cost of a `HaarLinear` on an input of ``height`` x ``width``.

    This is the cost of the projection; the wavelet is folded into the weights.
    """
    bands = factor**2
    if direction == "down":
        positions = -(-height // factor) * -(-width // factor)
        projection, gains = linear_cost(bands * c_in, c_out, positions), bands * c_in
    else:
        projection, gains = linear_cost(c_in, bands * c_out, height * width), bands * c_out
    return projection + Cost({}, {Kind.LINEAR: gains})
