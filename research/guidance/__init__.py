"""Guided sampling where the exact posterior, or the truth, is known: skipcast.guidance measured."""
