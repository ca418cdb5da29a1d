"""Plans: record a model once, solve for evaluated steps and weights, run the result as a scheduler."""
