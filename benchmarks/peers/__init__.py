"""polyrank beside its peers, measured on this machine. ``make bench-peers``."""
