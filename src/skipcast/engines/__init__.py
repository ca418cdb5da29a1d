"""Other engines: what of the library plugs into them. Each is imported inside functions only."""
