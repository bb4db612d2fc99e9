"""What `minibert recruit` does."""
