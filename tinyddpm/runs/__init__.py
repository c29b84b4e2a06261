"""A training run: its folder, checkpoints, log and lock, and the threads that it runs on."""
