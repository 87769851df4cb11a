"""Training: schedule, loss, step, loop, validation and logs."""
