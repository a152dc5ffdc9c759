"""The `polyrank` command."""
