"""Where plans meet the servers and node editors that others write; each of them is imported inside functions only."""
