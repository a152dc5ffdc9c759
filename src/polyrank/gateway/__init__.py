"""The server's HTTP face: callers in front, replicas behind, the store beside it."""
