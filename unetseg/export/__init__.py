"""A bundle as one file for others."""
