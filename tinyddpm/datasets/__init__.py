"""Data to train on: the built-in sets, and readers of the user's own files."""
