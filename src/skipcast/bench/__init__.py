"""Measuring a method against the unaccelerated run, and reporting it."""
