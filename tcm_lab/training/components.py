"""Principal components and least squares, to which linear paths are set at the start."""

from __future__ import annotations

import torch
from torch import Tensor


def components(features: Tensor, count: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return principal components (count, D) of features (N, D), all variances, and the mean.

    Components beyond D are zero.
    """
    mean = features.double().mean(0)
    centred = features.double() - mean
    variances, vectors = torch.linalg.eigh(centred.T @ centred / len(centred))
    basis = features.new_zeros(count, features.shape[1])
    kept = min(count, features.shape[1])
    basis[:kept] = vectors.flip(1)[:, :kept].T
    return basis, variances.flip(0).clamp(min=0).float(), mean.float()


def as_rows(maps: Tensor) -> Tensor:
    """Return the positions of maps (B, C, H, W) as rows (B H W, C)."""
    return maps.permute(0, 2, 3, 1).flatten(0, 2)


def least_squares(inputs: Tensor, targets: Tensor, ridge: float = 1e-3) -> tuple[Tensor, Tensor]:
    """Fit targets (N, E) to inputs (N, D); return weights (D, E) and bias (E,).

    Directions in which the inputs have a variance far below ``ridge`` are left out.
    """
    rows = torch.cat((inputs, inputs.new_ones(len(inputs), 1)), 1).double()
    penalty = ridge * len(rows) * torch.eye(rows.shape[1], dtype=rows.dtype, device=rows.device)
    solution = torch.linalg.solve(rows.T @ rows + penalty, rows.T @ targets.double()).float()
    return solution[:-1], solution[-1]
