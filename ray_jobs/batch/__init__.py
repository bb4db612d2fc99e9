"""`minibert embed` and `minibert predict --input`: tables of any length."""
