"""Every method beside a transcription of its authors' rule: `python -m research.fidelity` prints the table.

`forecasts` and `decisions` tell the rules again in numpy and torch, from the authors' code or text, without the
library's own; tests use the same transcriptions. `sequences` holds what both sides are run on.
"""
