"""How shapes-flux was trained, evaluated and given plans."""
