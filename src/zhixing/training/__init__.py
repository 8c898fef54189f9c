"""Training: the loop, its objectives, optimizers and schedules, and the run folder that it can always resume from."""
