"""Recording pipeline calls, and replaying their networks."""
