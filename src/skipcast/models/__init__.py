"""The reference model `shapes-flux`: its images, its training, its weights."""
