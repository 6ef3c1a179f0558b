"""Where a step's time goes, operation by operation, against what the machine can do."""
