"""Alignment of a small transformer with a teacher in training (REPA, HASTE), on 8x8 digits."""
