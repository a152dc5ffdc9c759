"""Where rank processes are started."""
