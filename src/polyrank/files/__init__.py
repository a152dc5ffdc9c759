"""What the server keeps as files: bytes in a folder or bucket, and who may have them."""
