"""Layouts of other projects' checkpoints: one module each, recognised by their tensors' names."""

from tcm_lab.codec.layouts import dcae, hpcm, lic_tcm, mlicpp
from tcm_lab.codec.layouts.base import Layout as Layout

LAYOUTS = {
    "dcae": dcae.LAYOUT,
    "lic_tcm": lic_tcm.LAYOUT,
    "mlicpp": mlicpp.LAYOUT,
    "hpcm": hpcm.LAYOUT,
}
