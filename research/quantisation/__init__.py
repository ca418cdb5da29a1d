"""Quantised networks under plans: what they are calibrated on, and how both errors add."""
