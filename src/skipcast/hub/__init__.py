"""Repositories of plans on the hub: what is in them, fetching from them, making and publishing them."""
