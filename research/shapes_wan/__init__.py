"""How shapes-wan was trained, evaluated and given plans."""
