import math
import random
from statistics import fmean

import pytest

from tcm_lab.errors import ConfigError, LabError
from tcm_lab.training import RECIPES, Recipe, get_recipe
from tcm_lab.training.guard import DivergenceGuard


def test_the_published_recipe_is_the_one_of_the_published_models() -> None:
    # jmliu206/LIC_TCM: README and train.py
    recipe = get_recipe("published")
    assert recipe.lambdas == (0.0025, 0.0035, 0.0067, 0.013, 0.025, 0.05)
    assert (recipe.batch, recipe.crop, recipe.clip_norm) == (8, 256, 1.0)
    assert (recipe.lr, recipe.aux_lr) == (1e-4, 1e-3)
    epoch = 300_000 // 8
    assert recipe.steps == 50 * epoch
    for number, factor in ((0, 1), (44, 1), (45, 0.1), (47, 0.1), (48, 0.01), (49, 0.01)):
        assert recipe.lr_factor(number * epoch) == pytest.approx(factor)


def test_a_constant_rate_falls_in_the_end_and_is_a_longer_trainings_until_there() -> None:
    short, long = (
        Recipe(lambdas=(0.01,), steps=steps, schedule="constant", warmup=4) for steps in (50, 200)
    )
    assert short.cooldown_begins == 40
    begun = [short.lr_factor(step) for step in range(40)]
    assert begun == [long.lr_factor(step) for step in range(40)]
    assert begun[4:] == [1.0] * 36
    falling = [short.lr_factor(step) for step in range(40, 50)]
    assert falling == sorted(falling, reverse=True)
    assert falling[-1] == pytest.approx(0.01 + 0.99 * (1 - math.sqrt(0.9)))


@pytest.mark.parametrize("cooldown", [1e-300, 1e-12, 0.001, 0.999999])
@pytest.mark.parametrize("steps", [1, 7, 100])
def test_any_cooldown_gives_a_rate_at_every_step(cooldown: float, steps: int) -> None:
    recipe = Recipe(lambdas=(0.01,), steps=steps, schedule="constant", cooldown=cooldown)
    assert all(0.01 <= recipe.lr_factor(step) <= 1 for step in range(steps + 1))


def test_the_rate_warms_up_and_falls_along_the_cosine() -> None:
    recipe = Recipe(lambdas=(0.01,), steps=100, schedule="cosine", warmup=4)
    factors = [recipe.lr_factor(step) for step in range(100)]
    assert factors[0] == pytest.approx(0.2, rel=0.01)
    assert factors[:5] == sorted(factors[:5])
    assert factors[5:] == sorted(factors[5:], reverse=True)
    assert factors[-1] < 0.02


def test_weights_spread_geometrically_over_the_levels_of_a_codec() -> None:
    recipe = get_recipe("scratch").spread(3)
    assert recipe.lambdas == pytest.approx((0.0025, (0.0025 * 0.05) ** 0.5, 0.05))
    with pytest.raises(ConfigError, match="cannot be spread over 3"):
        get_recipe("scratch").with_lambdas(0.01).spread(3)


def test_a_recipe_without_weights_takes_those_that_suit_the_latent() -> None:
    recipe = Recipe(steps=1)
    few, many = recipe.suited(64, 3), recipe.suited(320, 3)
    assert few.lambdas[-1] == pytest.approx(0.0045)
    # The published range belongs to 320 channels.
    assert (many.lambdas[0], many.lambdas[-1]) == pytest.approx((0.0025, 0.05), rel=0.2)
    assert few.lambdas[1] ** 2 == pytest.approx(few.lambdas[0] * few.lambdas[2])
    assert recipe.suited(64, 0).lambdas == pytest.approx((few.lambdas[1],))
    assert recipe.with_lambdas(0.01).suited(64, 0).lambdas == (0.01,)


def test_lambdas_of_the_squared_error_are_not_taken_for_those_of_ms_ssim(
    caplog: pytest.LogCaptureFixture,
) -> None:
    recipe = get_recipe("laptop", metric="ms-ssim")
    with pytest.raises(LabError, match=r"metric = ms-ssim: needs lambdas .* 2\.4 to 60\.5"):
        recipe.suited(64, 4)
    assert recipe.with_lambdas(4.58).suited(64, 0).lambdas == (4.58,)
    assert not caplog.records
    recipe.with_lambdas(0.05).suited(320, 0)
    assert "lambdas up to 0.05: weigh 1 - MS-SSIM" in caplog.text


@pytest.mark.parametrize("name", list(RECIPES))
def test_every_named_recipe_calls_itself_so(name: str) -> None:
    assert get_recipe(name).name == name


def test_a_training_from_before_a_field_existed_is_the_same_training() -> None:
    recipe = get_recipe("laptop")
    assert "orthogonality" not in recipe.identity()
    assert recipe.identity()["shortcut_lr"] == 0  # as in records from before it could be left out
    assert recipe.changed(orthogonality=0.2).identity()["orthogonality"] == 0.2
    assert recipe.changed(name="mine", checkpoint_every=7).identity() == recipe.identity()
    assert recipe.changed(lr=1e-3).identity() != recipe.identity()


def test_mistakes_name_the_field_and_the_fix() -> None:
    with pytest.raises(ConfigError, match="Did you mean laptop"):
        get_recipe("labtop")
    with pytest.raises(ConfigError, match=r"recipe: unknown field 'batchs'\. Did you mean batch"):
        get_recipe("scratch", batchs=4)
    with pytest.raises(ConfigError, match=r"recipe: steps = 0: .*greater than 0"):
        get_recipe("scratch", steps=0)
    with pytest.raises(ConfigError, match=r"recipe: metric = 'ssim': .*'mse' or 'ms-ssim'"):
        get_recipe("scratch", metric="ssim")
    for lambdas in ((0.02, 0.01), (0.01, 0.01)):
        with pytest.raises(ConfigError, match="distinct values in ascending order"):
            get_recipe("scratch", lambdas=lambdas)
    with pytest.raises(ConfigError, match="crops above 160"):
        get_recipe("scratch", metric="ms-ssim")


def window(*losses: float, gradient_norm: float = 1.0) -> dict[str, float]:
    log_loss = fmean(math.log(loss) for loss in losses)
    means = {"loss": fmean(losses), "log_loss": log_loss, "gradient_norm": gradient_norm}
    return {**means, "steps": len(losses)}


def test_the_guard_trips_on_what_is_not_a_number_and_on_explosions_that_last() -> None:
    guard = DivergenceGuard()
    for loss in (100.0, 80.0, 40.0, 20.0, 60.0):
        assert guard.accepts(window(*10 * [loss]))
        assert not guard.in_doubt
    before = guard.smoothed
    assert not guard.accepts(window(*10 * [math.nan]))
    assert not guard.accepts(window(*10 * [10.0], gradient_norm=math.inf))
    assert guard.accepts(window(*10 * [5000.0]))
    assert guard.in_doubt
    assert not guard.accepts(window(*10 * [1500.0]))
    assert guard.smoothed == before


@pytest.mark.parametrize("every", [1, 3, 10])
def test_the_guard_knows_crops_of_high_loss_from_an_explosion(every: int) -> None:
    rng = random.Random(0)

    def accepted(losses: list[float]) -> list[bool]:
        parts = [losses[start : start + every] for start in range(0, len(losses), every)]
        return [guard.accepts(window(*part)) for part in parts]

    guard = DivergenceGuard()
    mixed = [10.0 if rng.random() < 0.1 else 0.01 for _ in range(3000)]
    assert all(accepted(mixed))
    assert all(accepted(30 * [0.01] + 10 * [100.0] + 30 * [0.01]))
    assert not all(accepted(40 * [100.0]))
