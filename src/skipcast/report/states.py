"""The states of a pipeline that records are of: nothing is ever averaged over two of them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from skipcast.report.records import Record

#: Settings that say how pictures were chosen and compared rather than how they are made.
_OF_THE_COMPARISON = ("steps", "converged_steps", "converged_agreement_db", "first_seed", "seeds", "seed", "batch",
                      "threads")  # fmt: skip


@dataclass(frozen=True)
class State:
    """Model, scheduler, steps, guidance and settings of the calls, as text."""

    model: str
    revision: str
    scheduler: str  # its label
    config: str  # its class and settings
    steps: str
    guidance: str
    calls: tuple[tuple[str, str], ...]  # arguments of the calls

    def told(self, among: Iterable[State]) -> str:
        """The model, the steps, and what tells it from the others in words."""
        others = list(among)

        def differs(name: str) -> bool:
            return len({getattr(other, name) for other in others}) > 1

        words = [self.model or "unknown model"]
        if differs("revision"):
            words.append(f"revision {self.revision or 'unknown'}")
        if differs("scheduler"):
            words.append(f"scheduler {self.scheduler or 'of the model'}")
        elif differs("config"):
            words.append(f"scheduler {self.config or 'of the model'}")
        words.append(f"{self.steps or 'unknown'} steps")
        if differs("guidance"):
            words.append(f"guidance {self.guidance or 'as usual'}")
        if differs("calls"):
            words += self._own_calls(others)
        return ", ".join(words)

    def _own_calls(self, others: Iterable[State]) -> list[str]:
        """The arguments of its calls that not all have."""
        shared = set(self.calls).intersection(*(other.calls for other in others))
        return [f"{name} {value}" for name, value in self.calls if (name, value) not in shared]


class States:
    """Records to states; remembers what it worked out, for settings are mostly the very same object."""

    def __init__(self) -> None:
        self._known: dict[tuple[object, ...], State] = {}
        self._kept: list[object] = []  # an object that is gone could lend its id to another

    def of(self, record: Record) -> State:
        """The state that a record is of."""
        settings, scheduler = record.get("settings"), record.get("scheduler")
        key = (
            record.get("model"),
            record.get("revision"),
            id(scheduler),
            record.get("steps"),
            record.get("guidance"),
            id(settings),
        )
        found = self._known.get(key)
        if found is None:
            self._kept += [settings, scheduler]
            found = self._known[key] = _state(record)
        return found


def by_state(records: Iterable[Record]) -> dict[State, list[Record]]:
    """The records of each state, in the order in which states appear."""
    states, found = States(), dict[State, list[Record]]()
    for record in records:
        found.setdefault(states.of(record), []).append(record)
    return found


def _state(record: Record) -> State:
    scheduler: Mapping[str, object] = record.get("scheduler") or {}
    settings: Mapping[str, object] = record.get("settings") or {}
    config = {name: value for name, value in scheduler.items() if name != "label"}
    return State(
        model=_text(record.get("model")),
        revision=_text(record.get("revision")),
        scheduler=_text(scheduler.get("label") or scheduler.get("class")),
        config=words_of(config),
        steps=_text(record.get("steps")),
        guidance=_text(record.get("guidance")),
        calls=tuple((name, words_of(value)) for name, value in settings.items() if name not in _OF_THE_COMPARISON),
    )


def _text(value: object) -> str:
    return "" if value is None else f"{value:g}" if isinstance(value, float) else str(value)


def words_of(value: object) -> str:
    """A value of a record in words."""
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {words_of(item)}" for key, item in value.items())
    return str(value) if value != "" else '""'
