"""Training on a GPU: finite, repeatable where asked for, and studies outlive a full memory."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch

import tcm_lab
from tcm_lab.codec.seeds import random_state
from tcm_lab.data import CropSource, open_images
from tcm_lab.study import prepare, run_study
from tcm_lab.study.space import parse_space
from tcm_lab.training import Recipe, TrainingRecord, get_recipe, train
from tcm_lab.training.objective import seed_step

CHANGES = {"?_?.depth": 1, "entropy_model.slices": 2, "rate_levels": 2}
RECIPE = get_recipe("scratch").spread(2).changed(steps=20, batch=2, checkpoint_every=10)


def trained(recipe: Recipe, device: torch.device) -> tuple[TrainingRecord, torch.nn.Module]:
    codec = tcm_lab.build("tcm-nano", CHANGES, seed=0)
    crops = CropSource(open_images(None, "train"), crop=recipe.crop, seed=recipe.seed)
    return train(codec, recipe, crops, accelerator=device.type), codec


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_steps_are_finite_and_lower_the_loss(precision: str, device: torch.device) -> None:
    record, codec = trained(RECIPE.changed(steps=60, precision=precision), device)
    losses = record.curve.log_loss
    assert all(map(math.isfinite, losses))
    assert losses[-1] < losses[0]
    assert all(p.isfinite().all() for p in codec.parameters())
    if device.type == "cuda":
        assert record.environment.device == torch.cuda.get_device_name(device)


def test_the_same_seed_gives_the_same_weights_where_torch_is_deterministic(
    device: torch.device,
) -> None:
    torch.use_deterministic_algorithms(True)
    try:
        (_, first), (_, second) = trained(RECIPE, device), trained(RECIPE, device)
    finally:
        torch.use_deterministic_algorithms(False)
    for a, b in zip(first.parameters(), second.parameters(), strict=True):
        assert torch.equal(a, b)


def test_a_step_s_noise_follows_from_its_seed_alone(device: torch.device) -> None:
    drawn = []
    for _ in range(2):
        seed_step(1, 2, 0, device)
        drawn.append(torch.rand(4, device=device))
    torch.manual_seed(torch.initial_seed())  # of the step, on every device
    assert torch.equal(drawn[0], drawn[1])
    assert torch.equal(drawn[0], torch.rand(4, device=device))


def test_random_numbers_drawn_apart_leave_those_of_the_default_device_alone(
    device: torch.device,
) -> None:
    torch.manual_seed(3)
    expected = torch.rand(4, device=device)
    torch.manual_seed(3)
    with device, random_state(5):
        drawn = torch.rand(4)
    assert torch.equal(torch.rand(4, device=device), expected)
    torch.manual_seed(5)
    assert torch.equal(torch.rand(4, device=device), drawn)


def test_a_variant_that_does_not_fit_is_one_message_and_the_others_are_trained(
    gpu: torch.device, tmp_path: Path
) -> None:
    text = """
        name: memory
        base: tcm-nano
        mode: ablation
        axes:
          change: {kind: override, choices: {wide: {"g_*.width": 1024}, shallow: {"g_*.depth": 1}}}
        budget: {recipe: scratch, steps: 2, rate_levels: 2, changes: {batch: 16, crop: 256}}
    """  # a step of the base takes 4 GB of activations, one of the wide codec a hundred
    total = torch.cuda.get_device_properties(gpu).total_memory
    torch.cuda.empty_cache()
    torch.cuda.set_per_process_memory_fraction(min(1.0, 10e9 / total), gpu)
    try:
        space = parse_space(text, "memory.yaml", None)
        result = run_study(prepare(space, out=tmp_path / "memory"), 1)
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0, gpu)
    (reason,) = result.failed.values()
    assert reason.startswith("out of memory")
    assert "\n" not in reason
    assert len(result.records) == 2
