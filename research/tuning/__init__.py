"""Told times tuned step by step (TimeTuner, arXiv:2310.09469), beside solvers of second order and plans."""
