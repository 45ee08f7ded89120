from random import Random

import pytest
import torch
import yaml
from variants import random_block, random_config, round_trip

from tcm_lab.blocks import BLOCKS
from tcm_lab.codec import VariantConfig, part_costs

COUNT = 60


@pytest.mark.parametrize("seed", range(COUNT))
def test_the_decoded_image_is_the_forward_pass_s(seed: int) -> None:
    config = random_config(seed)
    codec, forward, decoded = round_trip(config, seed)
    assert decoded.shape == forward.shape
    assert torch.isfinite(forward).all()
    assert (decoded - forward).abs().max() <= 1e-4

    counted = sum(sum(cost.parameters.values()) for cost in part_costs(config, (64, 64)).values())
    assert counted == sum(parameter.numel() for parameter in codec.parameters())

    text = yaml.safe_dump(config.model_dump(mode="json"))
    again = VariantConfig.parse(yaml.safe_load(text))
    assert again == config
    assert again.fingerprint == config.fingerprint


def test_every_registered_block_is_among_the_drawn() -> None:
    drawn = {random_block(Random(seed), 16)["type"] for seed in range(200)}
    assert drawn == set(BLOCKS)
