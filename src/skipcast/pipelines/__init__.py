"""Where the parts meet real denoisers."""
