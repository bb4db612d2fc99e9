"""What tasks are: built-in ones, and one's own."""
