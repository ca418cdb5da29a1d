"""CHORDS beside one device that forecasts, at equal rounds."""
