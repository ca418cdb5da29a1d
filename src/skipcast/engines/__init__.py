"""Other people's engines: each is imported inside functions only, so that nothing here needs one."""
