"""Files that others may have written: regular ones of bounded size, strict JSON, digests of what they hold."""

from __future__ import annotations

import hashlib
import json
import math
import os
import re
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO

from skipcast.checks import shown, unique

#: The key of the digest in a file.
SEAL = "sha256"
_DIGITS = 20  # of a whole number: 64 bits
_MOST_WORDS = 300  # letters of what is wrong


def open_regular(path: str | os.PathLike[str]) -> BinaryIO:
    """Open a file to read it; nothing that could keep one waiting for ever, such as a pipe or a device.

    Raises:
        FileNotFoundError: no such file.
        ValueError: it is no regular file, or cannot be read; names it.
    """
    try:
        if stat.S_ISREG(os.stat(path).st_mode):
            file = open(path, "rb", opener=_opener)  # noqa: SIM115
            if stat.S_ISREG(os.fstat(file.fileno()).st_mode):  # still
                return file
            file.close()
    except (FileNotFoundError, NotADirectoryError):
        raise FileNotFoundError(f"{path}: no such file.") from None
    except (OSError, ValueError) as error:  # of reading, or a name that no file can have
        reason = error.strerror if isinstance(error, OSError) else error
        raise ValueError(f"{shown(str(path))[1:-1]} cannot be read: {reason}.") from error
    raise ValueError(f"{path} is a folder, a pipe or a device; give a file.")


def _opener(path: str, flags: int) -> int:
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0))


def read_regular(path: str | os.PathLike[str], most: int, missing: str = "") -> bytes:
    """The content of a file of at most so many bytes; errors as of `open_regular`.

    Args:
        path: of the file.
        most: bytes.
        missing: what is said if there is no such file.
    """
    try:
        with open_regular(path) as file:
            size = os.fstat(file.fileno()).st_size
            content = file.read(most + 1) if size <= most else b""
    except FileNotFoundError as error:
        raise FileNotFoundError(missing or str(error)) from None
    except OSError as error:
        raise ValueError(f"{path} cannot be read: {error.strerror}.") from error
    if max(size, len(content)) > most:
        raise ValueError(f"{path} has more than the {most} bytes that such a file may have.")
    return content


def parse_json(content: bytes | str) -> Any:
    """The value of JSON text from elsewhere.

    Raises:
        ValueError: not JSON of finite numbers and of texts that can be printed, each key once; says what and where.
    """

    def odd(word: str) -> Any:
        raise ValueError(f"line {line_of(word)}: {shown(word)} is no number that fits 64 bits")

    def line_of(word: str) -> int:
        return text.count("\n", 0, text.find(word)) + 1

    def whole(word: str) -> int:
        return int(word) if len(word) <= _DIGITS else odd(word)  # type: ignore[no-any-return]

    def real(word: str) -> float:
        return found if math.isfinite(found := float(word)) else odd(word)  # type: ignore[no-any-return]

    try:
        text = content if isinstance(content, str) else content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"line {error.object[: error.start].count(10) + 1}: not UTF-8 text") from None
    try:
        hooks: dict[str, Any] = {"parse_int": whole, "parse_float": real, "parse_constant": odd}
        found = json.loads(text, object_pairs_hook=unique, **hooks)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    if escape := re.search(r"\\u[dD][89a-fA-F]", text):  # half of a character may be alone
        try:
            json.dumps(found, ensure_ascii=False).encode()
        except UnicodeEncodeError:
            raise ValueError(f"line {line_of(escape[0])}: {escape[0]} is half of a character") from None
    return found


def digest_of(values: Any) -> str:
    """SHA-256 over plain JSON values, whatever the order of keys and the spaces between them."""
    return hashlib.sha256(json.dumps(values, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def sealed(values: dict[str, Any]) -> dict[str, Any]:
    """Values with the digest of all of them."""
    return {SEAL: digest_of(values), **values}


def sealed_text(values: dict[str, Any]) -> bytes:
    """Values with their digest as the JSON text of a file, which `read_sealed` reads."""
    return (json.dumps(sealed(values), indent=1, allow_nan=False) + "\n").encode()


def unsealed(values: Mapping[str, Any], form: str) -> dict[str, Any]:
    """Values without the name of their format, and without their digest where they carry one.

    Raises:
        ValueError: another format, or the digest is not theirs.
    """
    if values.get("format") != form:
        raise ValueError(f"format is {shown(values.get('format'))}, {form!r} is needed")
    own = {key: value for key, value in values.items() if key != SEAL}
    if SEAL in values and values[SEAL] != digest_of(own):
        raise ValueError("it is not what was saved (its sha256 does not match); fetch it again, or make it again")
    return {key: value for key, value in own.items() if key != "format"}


def read_object(path: str | os.PathLike[str], most: int, what: str, missing: str = "") -> dict[str, Any]:
    """The object of a JSON file; errors as of `read_regular` and `parse_json`.

    Args:
        path: of the file.
        most: bytes.
        what: it is called, with its article.
        missing: what is said if there is no such file.
    """
    content = read_regular(path, most, missing)
    try:
        values = parse_json(content)
        if not isinstance(values, dict):
            raise ValueError("a JSON object is needed")
    except ValueError as error:  # of the text, of JSON, or of its keys
        raise ValueError(f"{path} is not {what}: {error}.") from None
    return values


def read_sealed(path: Path, form: str, most: int, what: str, cure: str) -> dict[str, Any]:
    """The values of a JSON file that `sealed` made; errors as of `read_object`, and it carries no digest.

    Args:
        path: of the file.
        form: the name of its format.
        most: bytes.
        what: it is called, with its article.
        cure: how one is made.
    """
    values = read_object(path, most, what, f"no {what.partition(' ')[2]} {path}; {cure}.")
    if SEAL not in values and values.get("format") == form:
        raise ValueError(f"{path} carries no digest of its numbers ({SEAL}), so nothing proves them; {cure}.")
    return values


def why(error: Exception) -> str:
    """What is wrong with values that a class did not take, on one bounded line, for names in it may be a file's."""
    text = f"the key {error} is missing" if isinstance(error, KeyError) else str(error).removesuffix(".")
    text = "".join(letter if letter.isprintable() else ascii(letter)[1:-1] for letter in text[:_MOST_WORDS])
    return text if len(text) < _MOST_WORDS else f"{text[: _MOST_WORDS - 3]}..."
