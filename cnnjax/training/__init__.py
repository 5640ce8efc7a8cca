"""Training: tasks, the loop, optimizers, schedules, checkpoints, populations, several processes."""
