"""Experiments, the making of reference models, and of the pages of results: not part of any distribution."""
