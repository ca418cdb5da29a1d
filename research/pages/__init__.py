"""Makers of the pages under docs/results."""
