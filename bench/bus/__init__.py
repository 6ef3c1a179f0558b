"""Where a step's time goes, operation by operation, compared with what the machine can do."""
