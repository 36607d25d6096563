"""The learning rate as a pure function of the step."""

import math

from perpixel.recipes.spec import Schedule


def learning_rate(step: int, *, steps: int, lr: float, schedule: Schedule) -> float:
    """The rate of step 0..steps-1 of a run whose highest is `lr`."""
    done = step / (max(steps - 1, 1) if schedule.reaches_floor else steps)
    floor = min(schedule.floor, lr)
    left: float = (
        (1 - done) ** schedule.power
        if schedule.policy == "poly"
        else (1 + math.cos(math.pi * done)) / 2
    )
    warm = min((step + 1) / (schedule.warmup * steps + 1), 1.0)
    return warm * ((lr - floor) * left + floor)
