"""Methods: what they are made of (`skipcast.parts`), the published ones (`published`), and their names (`names`)."""
