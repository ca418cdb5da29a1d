"""YAML with places: every value knows its file and line, and says so when it is wrong."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import yaml  # type: ignore[import-untyped]

T = TypeVar("T")


class SpecError(ValueError):
    """Something wrong in a file, with its line."""

    def __init__(self, path: Path, line: int, message: str) -> None:
        super().__init__(f"{path}, line {line}: {message}")


@dataclass(frozen=True)
class Place:
    """A value of the file: what it is, how to call it, and where it stands."""

    path: Path
    name: str
    node: Any
    value: Any

    @property
    def line(self) -> int:
        return int(self.node.start_mark.line) + 1

    def wrong(self, message: object) -> SpecError:
        return SpecError(self.path, self.line, str(message))

    def must_be(self, what: str) -> SpecError:
        return self.wrong(f"{self.name} must be {what}, got {self.value!r}.")

    def items(self) -> list[Place]:
        """Those of a list; a single value stands for a list of one.

        Raises:
            SpecError: the list holds a value twice.
        """
        if not isinstance(self.node, yaml.SequenceNode):
            return [self]
        found = [
            Place(self.path, self.name, node, value) for node, value in zip(self.node.value, self.value, strict=True)
        ]
        for i, place in enumerate(found):
            if any(place.value == other.value and type(place.value) is type(other.value) for other in found[:i]):
                raise place.wrong(f"{self.name} holds {place.value!r} twice; remove one.")
        return found

    def fields(self, known: Iterable[str] | None = None) -> dict[str, Place]:
        """Those of a mapping.

        Args:
            known: the keys that it may have; None for any.

        Raises:
            SpecError: it is no mapping, or has an unknown key or one twice.
        """
        if not isinstance(self.node, yaml.MappingNode):
            raise self.must_be("a mapping, `key: value`")
        found: dict[str, Place] = {}
        for key_node, node in self.node.value:
            key = key_node.value
            at = Place(self.path, str(key), key_node, key)
            if not isinstance(key, str) or (known is not None and key not in known):
                raise at.wrong(unknown(f"key of {self.name}", str(key), list(known or ())))
            if key in found:
                raise at.wrong(f"{key!r} is given twice; remove one.")
            found[key] = Place(self.path, key, node, self.value.get(key))
        return found

    def text(self) -> str:
        if not isinstance(self.value, str) or not self.value.strip():
            raise self.must_be("a text")
        return self.value.strip()

    def whole(self, smallest: int) -> int:
        if isinstance(self.value, bool) or not isinstance(self.value, int) or self.value < smallest:
            raise self.must_be(f"a whole number of at least {smallest}")
        return self.value

    def number(self) -> float:
        if isinstance(self.value, bool) or not isinstance(self.value, int | float):
            raise self.must_be("a number")
        return float(self.value)

    def truth(self) -> bool:
        if not isinstance(self.value, bool):
            raise self.must_be("true or false")
        return self.value

    def one_of(self, known: Iterable[str]) -> str:
        word = self.text()
        if word not in (choices := list(known)):
            raise self.wrong(unknown(self.name, word, choices))
        return word

    def each(self, read: Callable[[Place], T]) -> tuple[T, ...]:
        return tuple(read(item) for item in walk({self.name: self}, self.name))


def unknown(kind: str, given: str, known: list[str]) -> str:
    """What to say of a name that is not known: the nearest that is, and all."""
    near = difflib.get_close_matches(given, known, n=1, cutoff=0.5)
    hint = f" Did you mean {near[0]!r}?" if near else ""
    return f"unknown {kind}: {given!r}.{hint} Known: {', '.join(known)}."


def parse(path: Path, text: str) -> Place:
    """The one document of a file.

    Raises:
        SpecError: it is not YAML, with the line, or holds nothing.
    """
    loader = yaml.SafeLoader(text)
    try:
        node = loader.get_single_node()
        if node is None:
            raise SpecError(path, 1, "the file is empty; name at least `models`.")
        value = loader.construct_document(node)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        raise SpecError(path, mark.line + 1 if mark else 1, f"not YAML: {error.problem}.") from error
    except (yaml.YAMLError, ValueError, TypeError, RecursionError) as error:
        if isinstance(error, SpecError):
            raise
        raise SpecError(path, 1, f"not YAML: {' '.join(str(error).split())}.") from error
    finally:
        loader.dispose()
    return Place(path, "the spec", node, value)


def walk(fields: dict[str, Place], name: str) -> Iterator[Place]:
    """The items of a field, none where it is missing.

    Raises:
        SpecError: it is there and empty.
    """
    if name in fields:
        if not (found := fields[name].items()):
            raise fields[name].wrong(f"{name} is empty; name at least one, or leave it out.")
        yield from found
