"""Labels of methods, such as `taylorseer:order=1,evaluations=10`, and the marks of their kinds."""

from __future__ import annotations

MARKS = {"reference": "★", "forecast": "●", "plan": "◆", "sampler": "□"}


def mark(kind: str) -> str:
    """The mark that tells a kind apart without colour."""
    return MARKS.get(kind, "?")


def without(label: str, *options: str) -> str:
    """The label without these options, each given as `name` or as `name=value`."""
    name, _, given = label.partition(":")
    kept = [option for option in given.split(",") if not {option, option.partition("=")[0]} & set(options)]
    return f"{name}:{','.join(kept)}" if any(kept) else name


def evaluations(label: str) -> str | None:
    """The value of the option `evaluations`, None where the label has none."""
    _, _, given = label.partition(":")
    return dict(option.partition("=")[::2] for option in given.split(",")).get("evaluations")
