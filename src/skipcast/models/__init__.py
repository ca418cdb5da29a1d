"""The reference model `shapes-flux`: its pictures, its training, its weights."""
