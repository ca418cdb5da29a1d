"""Where a method takes hold of a denoiser: its output, its block stack, its modules."""
