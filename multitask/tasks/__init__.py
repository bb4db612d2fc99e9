"""What tasks are: those that are built in, and one's own."""
