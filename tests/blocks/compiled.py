"""Compare compiled layers and codecs with uncompiled ones.

A separate program, since the shape checks of the test suite cannot be compiled.
"""

from __future__ import annotations

import warnings

import torch

import tcm_lab
from tcm_lab.blocks import WindowAttention
from tcm_lab.codec.entropy_models.lattices import lattices

CODECS = ("tcm-nano", "dcae-nano")


def attention(backend: str) -> None:
    """Compare values and gradients of shifted windows on a map that needs padding."""
    plain = WindowAttention(12, 4, 4, shifted=True).double()
    x = torch.randn(2, 6, 11, 12, dtype=torch.float64, requires_grad=True)
    inputs = [x, *plain.parameters()]
    expected, out = plain(x), torch.compile(plain, backend=backend, fullgraph=True)(x)
    torch.testing.assert_close(out, expected)
    torch.testing.assert_close(
        torch.autograd.grad(out.square().sum(), inputs),
        torch.autograd.grad(expected.square().sum(), inputs),
    )


def indices() -> None:
    """Compare the indices of a hierarchical model's lattices; tracing must not warn."""

    def used(x: torch.Tensor) -> torch.Tensor:
        walk = lattices(8, (4, 8), x.device, nominal=False)
        return x + sum(step.here.sum() for lattice in walk for step in lattice.steps)

    with warnings.catch_warnings(action="error"):
        compiled = torch.compile(used, backend="eager")(torch.zeros(3))
    assert torch.equal(compiled, used(torch.zeros(3)))


def codec(name: str) -> None:
    """Compare a codec's image and likelihoods in evaluation mode without gradients."""
    plain = tcm_lab.build(name, {"?_?.depth": 1, "entropy_model.slices": 2}).eval()
    x, rate = torch.rand(1, 3, 70, 90), [0.0] if plain.config.rate_levels else []
    with torch.no_grad():
        expected, out = plain(x, *rate), torch.compile(plain, backend="eager")(x, *rate)
    torch.testing.assert_close(out, expected)


if __name__ == "__main__":
    for backend in ("eager", "aot_eager"):
        attention(backend)
    indices()
    for name in CODECS:
        codec(name)
    print("the same")
