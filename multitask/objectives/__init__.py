"""What a stage learns by: losses and what regularises them."""
