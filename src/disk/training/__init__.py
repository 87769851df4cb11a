"""Training: schedule, REINFORCE step, loop, validation."""
