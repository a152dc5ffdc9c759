"""polyrank: one model over many GPUs, served by anyone on their own machines."""
