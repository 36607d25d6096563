"""The learning rate as a pure function of the step."""

from perpixel.recipes.spec import Schedule


def learning_rate(step: int, *, steps: int, lr: float, schedule: Schedule) -> float:
    """The rate of step 0..steps-1 of a run that starts at `lr`."""
    last = max(steps - 1, 1) if schedule.reaches_floor else steps
    floor = min(schedule.floor, lr)
    left: float = (1 - step / last) ** schedule.power
    return (lr - floor) * left + floor
