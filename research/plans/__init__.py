"""Experiments about plans: python -m research.plans."""
