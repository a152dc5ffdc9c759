"""What travels to a server when an app is deployed: files, and what is said of them."""
