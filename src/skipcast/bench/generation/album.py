"""The folder of pictures: what they are drawn with, what is finished, and nothing half-written."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from skipcast.bench.draw import Pair
from skipcast.bench.generation.orders import name_of
from skipcast.bench.generation.painter import Drawn
from skipcast.checkpoint import alone, write_whole

MANIFEST, LISTING = "generate.json", "pictures.jsonl"
_ENDINGS = (".png", ".webp")


class Album:
    """Finished pictures, by name.

    Args:
        folder: their folder; made where it is missing.
        manifest: what they are drawn with.
    """

    def __init__(self, folder: Path, manifest: dict[str, Any]) -> None:
        self.folder, self._manifest = folder, manifest
        self._records: dict[str, dict[str, Any]] = {}
        self._lines: dict[str, int] = {}
        self._listing: Any = None

    @property
    def manifest(self) -> Path:
        return self.folder / MANIFEST

    @property
    def listing(self) -> Path:
        return self.folder / LISTING

    @contextmanager
    def opened(self, every: Sequence[Pair]) -> Iterator[Album]:
        """The folder for these pictures, and for this process alone.

        Raises:
            ValueError: it is at work already, holds pictures of something else, or a broken file.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        with alone(self.folder):
            self._read()
            if self._records:
                self._check_manifest()
            elif not self.manifest.exists():
                self._check_foreign(every)
            self._check_pictures(every)
            write_whole(self.manifest, (json.dumps(self._manifest, indent=1) + "\n").encode())
            with self.listing.open("ab") as self._listing:
                yield self

    def has(self, pair: Pair) -> bool:
        """Whether it is finished."""
        record = self._records.get(name_of(pair))
        return record is not None and (self.folder / record["file"]).exists()

    def keep(self, drawn: Drawn) -> None:
        """Write a picture, then the line that says it is finished."""
        path = self.folder / f"{name_of(drawn.pair)}{drawn.suffix}"
        write_whole(path, drawn.content)
        record = {
            "file": path.name,
            "line": drawn.pair.index,
            "number": drawn.pair.number,
            "prompt": drawn.pair.prompt,
            "seed": drawn.pair.seed,
            "evaluations": drawn.evaluations,
            "trusted": drawn.trusted,
            "drawn_again": drawn.again,
            "sha256": hashlib.sha256(drawn.content).hexdigest(),
        }
        self._records[name_of(drawn.pair)] = record
        self._listing.write(_line(record))
        self._listing.flush()

    def finish(self) -> list[dict[str, Any]]:
        """All records, written once more in the order of prompts and numbers."""
        ordered = sorted(self._records.values(), key=lambda record: (record["line"], record["number"]))
        write_whole(self.listing, b"".join(map(_line, ordered)))
        return ordered

    def _read(self) -> None:
        if not self.listing.exists():
            return
        content = self.listing.read_bytes()
        whole = content[: content.rfind(b"\n") + 1]  # a kill leaves half a line at the end
        for number, line in enumerate(whole.splitlines(), start=1):
            try:
                record = json.loads(line)
                name = name_of(Pair(record["prompt"], record["seed"], record["line"], record["number"]))
                if Path(record["file"]).name not in {f"{name}{ending}" for ending in _ENDINGS}:
                    raise ValueError(f"file {record['file']!r}")
            except (ValueError, KeyError, TypeError) as error:
                raise ValueError(
                    f"{self.listing}, line {number}: not the record of a picture ({error}); remove the line to have "
                    "its picture drawn anew."
                ) from error
            self._records[name], self._lines[name] = record, number
        if whole != content:
            write_whole(self.listing, whole)

    def _check_manifest(self) -> None:
        cure = "go on as it was begun, or give another --out."
        try:
            text = self.manifest.read_text(encoding="utf-8")
            begun = dict(json.loads(text))
        except (OSError, ValueError, TypeError) as error:
            line = getattr(error, "lineno", 1)
            raise ValueError(
                f"{self.manifest}, line {line}: does not say what the pictures were drawn with; restore it, or give "
                "another --out."
            ) from error
        for key, now in self._manifest.items():
            if begun.get(key) != now:
                line = next((i for i, word in enumerate(text.splitlines(), 1) if f'"{key}":' in word), 1)
                raise ValueError(
                    f"{self.manifest}, line {line}: the pictures were begun with {key} {begun.get(key)!r}, now it is "
                    f"{now!r}; {cure}"
                )

    def _check_foreign(self, every: Sequence[Pair]) -> None:
        there = {path.name for path in self.folder.iterdir()}
        for pair in every:
            for ending in _ENDINGS:
                if (name := f"{name_of(pair)}{ending}") in there:
                    raise ValueError(
                        f"{self.folder / name} is there already, and no {MANIFEST} says what it was drawn with; give "
                        "another --out."
                    )

    def _check_pictures(self, every: Sequence[Pair]) -> None:
        for pair in every:
            record = self._records.get(name_of(pair))
            if record is not None and (record["prompt"], record["seed"]) != (pair.prompt, pair.seed):
                raise ValueError(
                    f"{self.listing}, line {self._lines[name_of(pair)]}: {record['file']} shows {record['prompt']!r}, "
                    f"line {pair.index} of the prompts is now {pair.prompt!r}; remove that line to have it drawn "
                    "anew, or give another --out."
                )


def _line(record: dict[str, Any]) -> bytes:
    return (json.dumps(record, ensure_ascii=False) + "\n").encode()
