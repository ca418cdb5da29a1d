"""One trajectory on several devices at once."""
