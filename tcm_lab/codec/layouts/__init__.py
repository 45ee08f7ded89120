"""Layouts of other projects' checkpoints: one module each, recognised by their tensors' names."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from torch import Tensor

from tcm_lab.codec.config import VariantConfig
from tcm_lab.codec.layouts import dcae, hpcm, lic_tcm, mlicpp


@dataclass(frozen=True)
class Layout:
    """How another project names and shapes the tensors of a codec that we can build.

    Attributes:
        recognises: whether a state dict has this layout.
        infer_config: reads the architecture off the tensors; raises LabError if it can't.
        entry_name: its name of our state-dict entry, in a codec of that configuration.
        extra: its entries that we have not, which are the same in every checkpoint of that
            configuration.
    """

    recognises: Callable[[Mapping[str, Tensor]], bool]
    infer_config: Callable[[Mapping[str, Tensor]], VariantConfig]
    entry_name: Callable[[str, VariantConfig], str]
    extra: Callable[[VariantConfig], Mapping[str, Tensor]] = field(default=lambda _: {})


LAYOUTS = {
    "dcae": Layout(dcae.recognises, dcae.infer_config, dcae.entry_name),
    "lic_tcm": Layout(lic_tcm.recognises, lic_tcm.infer_config, lic_tcm.entry_name, lic_tcm.extra),
    "mlicpp": Layout(mlicpp.recognises, mlicpp.infer_config, mlicpp.entry_name, mlicpp.extra),
    "hpcm": Layout(hpcm.recognises, hpcm.infer_config, hpcm.entry_name, hpcm.extra),
}
