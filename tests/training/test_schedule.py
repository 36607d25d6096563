import math

import pytest

import perpixel
from perpixel.models.build import build
from perpixel.recipes.schema import Optimizer, Schedule
from perpixel.training.optimizer import learning_rate, make_optimizer, set_learning_rate


def rates(schedule: Schedule, steps: int, lr: float = 0.01) -> list[float]:
    return [learning_rate(step, steps=steps, lr=lr, schedule=schedule) for step in range(steps)]


def test_poly_is_the_toolkits_closed_form():
    found = rates(Schedule(), 40_000)
    for step in (0, 1, 17_000, 39_999):
        expected = (1 - step / 40_000) ** 0.9 * (0.01 - 1e-4) + 1e-4
        assert found[step] == pytest.approx(expected, rel=1e-12)


def test_only_mmsegmentation_1_reaches_the_floor():
    assert rates(Schedule(min_lr_at_last_step=True), 10)[-1] == pytest.approx(1e-4, rel=1e-12)
    assert rates(Schedule(), 10)[-1] > 1e-3
    assert rates(Schedule(min_lr=0), 10)[-1] > 0
    assert rates(Schedule(min_lr_at_last_step=True), 1) == [0.01]


def test_cosine_is_its_formula_and_falls_from_the_rate_to_the_floor():
    found = rates(Schedule(policy="cosine", min_lr=1e-3), 1000)
    for step in (0, 250, 500, 999):
        expected = 1e-3 + 0.5 * (0.01 - 1e-3) * (1 + math.cos(math.pi * step / 1000))
        assert found[step] == pytest.approx(expected, rel=1e-12)
    assert rates(Schedule(policy="cosine", min_lr=0, min_lr_at_last_step=True), 10)[-1] == 0


@pytest.mark.parametrize("policy", ["poly", "cosine"])
def test_warm_up_rises_in_even_steps_and_then_changes_nothing(policy: str):
    cold, warm = (rates(Schedule(policy=policy, warmup=share), 100) for share in (0.0, 0.1))
    assert warm[10:] == cold[10:]
    assert [w / c for w, c in zip(warm[:10], cold[:10], strict=True)] == pytest.approx(
        [(step + 1) / 11 for step in range(10)]
    )


def test_the_backbone_may_learn_more_slowly():
    model = build(perpixel.recipe("camvid/fcn_r18-d8").model, num_classes=3)
    optimizer = make_optimizer(model, Optimizer(lr=1, backbone_lr_mult=0.1))
    set_learning_rate(optimizer, 0.5)
    rate = {id(p): group["lr"] for group in optimizer.param_groups for p in group["params"]}
    assert len(rate) == len(list(model.parameters()))
    for name, parameter in model.named_parameters():
        assert rate[id(parameter)] == (0.05 if name.startswith("backbone.") else 0.5)
