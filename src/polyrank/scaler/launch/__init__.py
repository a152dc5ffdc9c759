"""Where replicas are started: on this machine, or on a Ray cluster."""
