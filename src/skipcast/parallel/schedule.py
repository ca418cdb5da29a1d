"""Who evaluates which step in which round, and who corrects whom: integers, known before anything runs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from skipcast.checks import Checked, check

#: Of 50 steps, as published, by the number of cores.
_PUBLISHED = {
    1: (0,),
    4: (0, 8, 16, 32),
    6: (0, 3, 6, 12, 24, 36),
    8: (0, 2, 4, 8, 16, 24, 32, 40),
}
_PUBLISHED_STEPS = 50


class Correction(NamedTuple):
    """What a core is told by its slower neighbour.

    Args:
        round: in which both evaluate, the neighbour at `begin`.
        begin: where the core began, or was corrected last.
        arrival: the step that the core reaches in this round.
    """

    round: int
    begin: int
    arrival: int


@dataclass(frozen=True)
class Schedule(Checked):
    """The cores of a run: core k starts at step starts[k], and every core moves on by one step per round.

    To know its first sample, core k evaluates the first steps of the cores before it in the rounds that it would
    otherwise wait: starts[0], .., starts[k - 1].

    Args:
        steps: N.
        starts: the first step of every core, 0 = i_0 < i_1 < ...

    Reference: CHORDS, arXiv:2507.15260.
    """

    steps: int
    starts: tuple[int, ...]

    def __len__(self) -> int:
        return len(self.starts)

    def course(self, core: int) -> tuple[int, ...]:
        """The step that a core evaluates in each round."""
        return (*self.starts[:core], *range(self.starts[core], self.steps))

    def rounds(self, core: int) -> int:
        """Rounds until the answer of a core: k + N - i_k; N for core 0, which is the sequential sampler."""
        return core + self.steps - self.starts[core]

    def until(self, answer: int) -> int:
        """Rounds until an answer: 0 is the jump from the last start to the end, 1 the fastest core's, K core 0's."""
        return len(self) if answer == 0 else self.rounds(len(self) - answer)

    def evaluations(self, rounds: int) -> int:
        """Network calls of all cores in so many rounds, without those that only repeat another core's."""
        return sum(min(max(rounds - k, 0), self.steps - start) for k, start in enumerate(self.starts))

    def corrections(self, core: int) -> tuple[Correction, ...]:
        """Those that a core receives from the one before it."""
        if core == 0:
            return ()
        found, begin = list[Correction](), self.starts[core]
        slow = self.course(core - 1)
        for place, step in enumerate(self.course(core)):
            if place >= core and slow[place] == begin:
                found.append(Correction(place, begin, step + 1))
                begin = step + 1
        return tuple(found)


def schedule(steps: int, cores: int, init: str | Sequence[int]) -> Schedule:
    """The schedule of K cores on N steps.

    Args:
        steps: N.
        cores: K.
        init: "chords", the published starts of 50 steps brought to N; "uniform", every N // K steps; or the starts.

    Raises:
        TypeError, ValueError: they do not fit together, by name.
    """
    check("chords(cores=...)", cores, int)
    if not 1 <= cores <= steps:
        raise ValueError(f"chords(cores={cores}) must lie between 1 and the {steps} steps of the sampler.")
    if init == "uniform":
        return Schedule(steps, tuple(k * (steps // cores) for k in range(cores)))
    if isinstance(init, str):
        if init != "chords":
            raise ValueError(f'chords(init={init!r:.50}) must be "chords", "uniform" or the first step of every core.')
        if cores not in _PUBLISHED:
            raise ValueError(
                f'chords(init="chords") is published for {", ".join(map(str, _PUBLISHED))} cores, got cores={cores}; '
                'give init="uniform", or the first step of every core.'
            )
        starts = tuple(round(start * steps / _PUBLISHED_STEPS) for start in _PUBLISHED[cores])
    else:
        check("chords(init=...)", init, tuple[int, ...])
        if not isinstance(init, tuple | list):
            raise TypeError(f"chords(init=...) must be a tuple, the first step of every core, got {init!r:.100}.")
        starts = tuple(int(start) for start in init)
    rising = all(a < b for a, b in zip(starts, starts[1:], strict=False))
    if len(starts) != cores or starts[0] != 0 or not rising or starts[-1] >= steps:
        raise ValueError(
            f"chords(init=...) must be {cores} steps, one for each core, that begin with 0 and rise below the {steps} "
            f"steps of the sampler, got {starts!r:.100}; take fewer cores or more steps."
        )
    return Schedule(steps, starts)
