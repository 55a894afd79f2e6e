"""What a training step will take of a machine that need not be there: operations, memory, transfers, time."""
