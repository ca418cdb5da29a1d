"""What the trainings of the reference models share."""
