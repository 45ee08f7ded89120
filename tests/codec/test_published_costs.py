"""Parameters and MACs against those printed, or measured on the published code."""

import pytest

import tcm_lab
from tcm_lab.codec import part_costs

ALL = {"tcm-small": 45_180_752, "tcm-medium": 59_133_650, "tcm-large": 76_568_148}
#: What the paper prints in millions: weights and biases of convolutions and linear layers.
PRINTED = {"tcm-small": 44_956_396, "tcm-medium": 58_715_500, "tcm-large": 75_882_476}

#: Of a forward pass at 256x256, in kMAC/px; what layer normalisation does is not counted there.
KMACS = {
    "tcm-small": {
        "total": 559.6, "g_a": 176.5, "g_s": 268.4, "hyper": 5.6, "swatten": 34.2,
        "slice_heads": 48.2, "lrp": 26.6, "conv": 467.4, "linear": 80.2, "attention_matmul": 12.1,
    },
    "tcm-medium": {
        "total": 1098.5, "g_a": 391.3, "g_s": 588.7, "hyper": 9.5, "swatten": 34.2,
        "slice_heads": 48.2, "lrp": 26.6, "conv": 919.9, "linear": 161.2, "attention_matmul": 17.4,
    },
    "tcm-large": {
        "total": 1846.4, "g_a": 690.4, "g_s": 1033.0, "hyper": 14.0, "swatten": 34.2,
        "slice_heads": 48.2, "lrp": 26.6, "conv": 1549.1, "linear": 274.6, "attention_matmul": 22.8,
    },
}  # fmt: skip


def _parameters(name: str) -> dict[str, int]:
    """Return the parameters by kind, from the formulas, which other tests hold to the modules."""
    kinds: dict[str, int] = {}
    for cost in part_costs(tcm_lab.load_config(name), (256, 256)).values():
        for kind, count in cost.parameters.items():
            kinds[kind] = kinds.get(kind, 0) + count
    return kinds


@pytest.mark.parametrize("name", ALL)
def test_tcm_has_exactly_the_published_number_of_parameters(name: str) -> None:
    built = sum(p.numel() for p in tcm_lab.build(name, device="meta").parameters())
    assert built == sum(_parameters(name).values()) == ALL[name]


@pytest.mark.parametrize("name", PRINTED)
def test_tcm_has_exactly_the_printed_number_in_convolutions_and_linear_layers(name: str) -> None:
    kinds = _parameters(name)
    assert kinds["convolution"] + kinds["linear"] == PRINTED[name]


@pytest.mark.parametrize(
    ("name", "millions"), [("stf", 99.86), ("wacnn", 75.24), ("swint-charm", 32.6)]
)
def test_a_rival_has_nearly_the_published_number_of_parameters(name: str, millions: float) -> None:
    assert sum(_parameters(name).values()) / 1e6 == pytest.approx(millions, rel=0.03)


def test_ten_slices_cost_what_was_measured() -> None:
    assert sum(_parameters("tcm-10-slices").values()) / 1e6 == pytest.approx(70.08, abs=0.005)


@pytest.mark.parametrize(
    ("squeeze", "millions", "kmacs"),
    [(64, 2.44, 10.0), (128, 8.53, 34.2), (192, 18.3, 72.7)],
)
def test_squeezed_attention_costs_what_was_measured(
    squeeze: int, millions: float, kmacs: float
) -> None:
    config = tcm_lab.load_config("tcm-small").override({"entropy_model.attention.squeeze": squeeze})
    cost = part_costs(config, (256, 256))["attention"]
    assert sum(cost.parameters.values()) / 1e6 == pytest.approx(millions, abs=0.06)
    assert sum(cost.macs.values()) / 256**2 / 1e3 == pytest.approx(kmacs, abs=0.1)


@pytest.mark.parametrize("name", KMACS)
def test_every_part_of_tcm_costs_what_was_measured(name: str) -> None:
    costs = part_costs(tcm_lab.load_config(name), (256, 256))

    def kmacs(*parts: str, kind: str | None = None) -> float:
        counts = [item for part in parts for item in costs[part].macs.items()]
        wanted = (n for k, n in counts if k == kind or (kind is None and k != "normalisation"))
        return sum(wanted) / 256**2 / 1e3

    seen = {
        "total": kmacs(*costs),
        "g_a": kmacs("g_a"),
        "g_s": kmacs("g_s"),
        "hyper": kmacs("h_a", "h_s"),
        "swatten": kmacs("attention"),
        "slice_heads": kmacs("slice_heads"),
        "lrp": kmacs("lrp"),
        # The published code's counts hold the product inside GDN among the convolutions, which
        # it is written as.
        "conv": kmacs(*costs, kind="convolution") + kmacs(*costs, kind="gdn"),
        "linear": kmacs(*costs, kind="linear"),
        "attention_matmul": kmacs(*costs, kind="attention"),
    }
    assert seen == pytest.approx(KMACS[name], abs=0.1)
