"""`python -m skipcast.cli`."""

from skipcast.cli import main

main()
