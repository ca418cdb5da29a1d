"""Methods: what they are made of (`base`), the published ones (`published`), and their names (`names`)."""
