"""Learning-rate schedules: the share of the peak rate at each step. Pure functions, so that resuming needs no state."""

from __future__ import annotations

import math

from zhixing.core.recipe import ScheduleRecipe


def learning_rate_share(step: int, steps: int, schedule: ScheduleRecipe) -> float:
    """Returns the factor on every peak learning rate.

    Args:
        step: The optimizer step, counted from 0.
        steps: Length of the run.
        schedule: Shape, warm-up and final share. `wsd` is warm-up, stable, linear decay (Hu et al. 2024); `cosine` is
            Loshchilov & Hutter 2017, equation 5, without restarts.
    """
    if step < schedule.warmup_steps:
        return (step + 1) / (schedule.warmup_steps + 1)
    # The decay ends one step after the last, so that no step is spent at a final share of zero.
    progress = (step - schedule.warmup_steps) / max(1, steps - schedule.warmup_steps)  # 0 <= progress < 1
    match schedule.shape:
        case "constant":
            return 1.0
        case "linear":
            left = 1.0 - progress
        case "cosine":
            left = 0.5 * (1.0 + math.cos(math.pi * progress))
        case "wsd":
            decay = schedule.decay_fraction
            left = 1.0 if progress < 1.0 - decay else (1.0 - progress) / decay
    return schedule.final + (1.0 - schedule.final) * left
