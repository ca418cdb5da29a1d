"""`python -m driftcast.cli`."""

from driftcast.cli import main

main()
