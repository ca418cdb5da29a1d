"""Plans on score networks that others trained: survey images of galaxies, from the package galaxygrad."""
