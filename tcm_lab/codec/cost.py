"""The cost of a codec by part, computed from its configuration alone."""

from __future__ import annotations

from tcm_lab.blocks import Cost, Kind
from tcm_lab.codec.config import VariantConfig, transform_plan
from tcm_lab.codec.transforms import transform_cost


def padded_size(config: VariantConfig, size: tuple[int, int]) -> tuple[int, int]:
    """Return the (height, width) that an image of ``size`` is padded to."""
    multiple = config.padding
    return -(-size[0] // multiple) * multiple, -(-size[1] // multiple) * multiple


def part_costs(config: VariantConfig, size: tuple[int, int]) -> dict[str, Cost]:
    """Return the cost of each part on one image of ``size`` (H, W), by closed formulas.

    The parts are ``g_a``, ``h_a``, ``h_s``, those of the entropy model (``attention``,
    ``slice_heads`` and ``lrp`` for slices), ``g_s``, ``prior`` (of z) and ``gain`` (rate
    conditioning). They are counted at the padded size.

    Raises:
        NoFormula: a layer has no closed formula.
    """
    height, width = padded_size(config, size)
    to_y, to_z = config.stride
    at = {
        "g_a": (height, width),
        "h_a": (height // to_y, width // to_y),
        "h_s": (height // to_z, width // to_z),
        "g_s": (height // to_y, width // to_y),
    }
    parts = {part: Cost() for part in at}
    for name, plan in transform_plan(config).items():
        part = name.split(".")[0]
        parts[part] += transform_cost(plan, *at[part])
    m = config.latent_channels
    return {
        **parts,
        **config.entropy_model.cost(m, *at["h_a"]),
        "prior": config.entropy_model.prior_cost(config.hyper_channels),
        # Gain and inverse gain of each channel of y and z; the scaling itself is elementwise.
        "gain": Cost({}, {Kind.GAIN: 2 * config.rate_levels * (m + config.hyper_channels)}),
    }
