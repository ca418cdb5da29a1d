"""Sweeps: a declarative grid of pictures, drawn once each, by whoever is free, and measured alike."""
