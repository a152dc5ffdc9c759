"""Which replicas run, and where."""
