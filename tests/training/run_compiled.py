"""Trains a codec by compiled steps, given as itself or compiled already.

A program of its own, since the shape checks that the suite runs under can't be compiled. Graphs are
captured by the real compiler and run by torch, for which no C++ compiler is needed.
"""

from __future__ import annotations

import functools

import torch
from stand_in import RandomCrops

import tcm_lab
from tcm_lab.training import Recipe, train

RECIPE = Recipe(lambdas=(0.01,), steps=2, batch=1, crop=64, lr=1e-3, start="calibrate")


def trained(*, compiled: bool, **changes: object) -> dict[str, torch.Tensor]:
    """Return the weights after two steps, by their names."""
    codec = tcm_lab.build("tcm-nano", {"?_?.depth": 1, "entropy_model.slices": 1})
    record = train(
        torch.compile(codec) if compiled else codec,
        RECIPE.changed(**changes),
        RandomCrops(64),
        accelerator="cpu",
    )
    assert record.recipe.compile is bool(compiled or changes), record.recipe
    assert not codec.training
    codec.compress(torch.rand(1, 3, 20, 30))  # its tables are made
    return dict(codec.named_parameters())


if __name__ == "__main__":
    torch.compile = functools.partial(torch.compile, backend="eager")
    plain, by_recipe = trained(compiled=False), trained(compiled=False, compile=True)
    for weights in (by_recipe, trained(compiled=True)):
        assert weights.keys() == plain.keys()
        for name, value in weights.items():
            torch.testing.assert_close(value, by_recipe[name], rtol=0, atol=0, msg=name)
            torch.testing.assert_close(value, plain[name], rtol=1e-2, atol=5e-3, msg=name)
    print("the same")
