"""What every HTTP service here is made of, and the service of a bundle."""
