"""The one reader of files of prompts, for every command and for specs."""

from __future__ import annotations

from pathlib import Path


def read_prompts(file: Path) -> list[tuple[int, str]]:
    """The lines of a UTF-8 text file that hold a prompt, with their numbers.

    Raises:
        FileNotFoundError: no such file.
        ValueError: not text, no prompt in it, or the same prompt twice; names the line.
    """
    if not file.is_file():
        raise FileNotFoundError(f"prompts {file}: no such file; give a text file with one prompt per line.")
    raw = file.read_bytes()
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = raw[: error.start].count(b"\n") + 1
        raise ValueError(f"{file}, line {line}: not UTF-8 text; save it as such.") from error
    found: dict[str, int] = {}
    for line, words in enumerate(text.split("\n"), start=1):
        if not (prompt := words.strip()):
            continue
        if prompt in found:
            raise ValueError(
                f"{file}, line {line}: the prompt of line {found[prompt]} again, which would give the same images; "
                "remove one of them, or use more seeds."
            )
        found[prompt] = line
    if not found:
        raise ValueError(f"prompts {file} holds no prompt; write one per line.")
    return [(line, prompt) for prompt, line in found.items()]
