"""The command line. No logic of its own; rich for people, `--json` for machines.

compare, report: `comparing`; bench: `sweeping`; generate: `generating`; profile, plan: `planning`; methods, show:
`listing`; ui: `playing`.
"""

# They register their commands.
from skipcast.cli import comparing, generating, listing, planning, playing, sweeping  # noqa: F401
from skipcast.cli.base import app as app


def main() -> None:
    """Entry point of the `skipcast` command."""
    app()
