"""The gates of SWAtten, slice by slice."""

from __future__ import annotations

from collections import Counter
from typing import Literal

import torch
from torch import Tensor, nn

from tcm_lab._utils import Frozen
from tcm_lab.analysis._arrays import Array, ArrayRecord, as_array
from tcm_lab.analysis._probe import iterate_images, outputs_of, pitch_px, run
from tcm_lab.blocks.attention import SwinGatedAttention
from tcm_lab.codec import CodecAdapter
from tcm_lab.codec.adapter import unwrapped
from tcm_lab.errors import LabError


class SliceGate(ArrayRecord):
    """The gate of one SWAtten.

    Attributes:
        layer: dotted name of the SWAtten in the model.
        slice_index: index of its slice.
        path: whether it serves the mean, the scale, or both.
        gate: (h, w) mean over channels, in (0, 1).
        mean: mean over channels and positions.
        deviation: standard deviation over positions, averaged over channels: how much the gate
            varies within the image.
    """

    layer: str
    slice_index: int
    path: Literal["mean", "scale", "both"]
    gate: Array
    mean: float
    deviation: float


class GateRecord(Frozen):
    """All gates of a codec on one image.

    Attributes:
        model: name of the model.
        image: name of the image.
        pitch_px: image pixels per position.
        gates: gates by slice, the mean's path first.
    """

    model: str
    image: str
    pitch_px: float
    gates: tuple[SliceGate, ...]


@torch.no_grad()
def gate_maps(
    codec: nn.Module, image: Tensor, *, name: str = "", rate: float | None = None
) -> GateRecord:
    """Return the gates of every slice's SWAtten on an image.

    Args:
        codec: a codec assembled by this package with SWAtten in its entropy model.
        image: (3, H, W), uint8 or in [0, 1].
        name: name of the image.
        rate: level of a rate-conditioned codec; None is the lowest.

    Raises:
        LabError: the entropy model has no SWAtten.
    """
    codec = unwrapped(codec)
    modules = {
        layer: module
        for layer, module in codec.named_modules()
        if isinstance(module, SwinGatedAttention) and layer.startswith("slices.")
    }
    if not modules:
        raise LabError(
            f"{CodecAdapter(codec).name} has no SWAtten in its entropy model, so no gates"
        )
    (x,) = iterate_images([image], codec)
    with outputs_of({layer: module.conv_b for layer, module in modules.items()}) as outputs:
        run(codec, x, rate)
    gates_of_slice = Counter(layer.split(".")[1] for layer in modules)
    gates = []
    for layer, before_sigmoid in outputs.items():
        gate = torch.sigmoid(before_sigmoid)[0]
        _, index, _, path = layer.split(".")[:4]
        gates.append(
            SliceGate(
                layer=layer,
                slice_index=int(index),
                path="both" if gates_of_slice[index] == 1 else "mean" if path == "0" else "scale",
                gate=as_array(gate.mean(0)),
                mean=float(gate.mean()),
                deviation=float(gate.flatten(1).std(1, correction=0).mean()),
            )
        )
    return GateRecord(
        model=CodecAdapter(codec).name,
        image=name,
        pitch_px=pitch_px(codec, x, gates[0].gate.shape[0]),
        gates=tuple(gates),
    )
