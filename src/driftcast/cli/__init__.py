"""The command line. No logic of its own; rich for people, `--json` for machines.

compare, report: `comparing`; generate: `generating`; profile, plan: `planning`; methods, show: `listing`.
"""

from driftcast.cli import comparing, generating, listing, planning  # noqa: F401  (they register their commands)
from driftcast.cli.base import app as app


def main() -> None:
    """Entry point of the `driftcast` command."""
    app()
