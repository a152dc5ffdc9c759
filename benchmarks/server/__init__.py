"""What the server costs: requests, events and the queue, beside the peers."""
