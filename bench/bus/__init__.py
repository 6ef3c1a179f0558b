"""The time of a step, operation by operation, compared with what the machine can do."""
