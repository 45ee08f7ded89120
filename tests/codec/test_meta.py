"""Codecs that are built without data."""

from __future__ import annotations

import torch
from torch import nn

from tcm_lab.codec import build_on_meta


class Mixing(nn.Module):
    """Makes a tensor that torch's device context misses, and mixes it with one that it does not."""

    built = 0

    def __init__(self) -> None:
        super().__init__()
        type(self).built += 1
        self.weight = nn.Parameter(torch.ones(3) * torch.Tensor([1.0, 2.0, 3.0]))


class Reading(nn.Module):
    """Reads a tensor while it is built."""

    def __init__(self) -> None:
        super().__init__()
        self.width = int(torch.tensor([2, 3]).sum().item())
        self.weight = nn.Parameter(torch.zeros(self.width))


def test_what_mixes_tensors_with_and_without_data_is_built_once_without() -> None:
    model = build_on_meta(Mixing)
    assert Mixing.built == 1
    assert all(tensor.is_meta for tensor in model.parameters())


def test_what_reads_a_tensor_is_built_with_data_and_moved() -> None:
    model = build_on_meta(Reading)
    assert model.width == 5
    assert all(tensor.is_meta for tensor in model.parameters())
