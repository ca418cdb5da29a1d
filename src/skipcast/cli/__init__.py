"""The command line, which only parses and prints: tables for people, `--json` for machines.

compare, bench, report: `comparing`; generate: `generating`; profile, plan, fit-teacache: `planning`; publish, plans,
export: `publishing`; methods, show, ui: `listing`.
"""

# They register their commands.
from skipcast.cli import comparing, generating, listing, planning, publishing  # noqa: F401
from skipcast.cli.base import app as app


def main() -> None:
    """Entry point of the `skipcast` command."""
    app()
