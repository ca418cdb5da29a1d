"""What the playground holds: the pipeline that all visitors share, and what belongs to the page of one visitor."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, TypeAlias

from skipcast.bench.draw import Pair, draw
from skipcast.bench.prompts import usual_prompts
from skipcast.models.load import REFERENCES, Model, draws_videos, load_model, reference_folder
from skipcast.models.shipped import PLAN
from skipcast.pipelines.calls import guided
from skipcast.pipelines.networks import denoisers
from skipcast.plans.plan import Plan
from skipcast.ui.choices import methods, samplers
from skipcast.ui.limits import PLANS, one_of

if TYPE_CHECKING:
    from skipcast.ui.drawing import Sample

#: Shows how far the work is: a share in [0, 1], or None where it is not known, and words. `gr.Progress` is one.
Report: TypeAlias = "Callable[[float | None, str], Any]"

#: The two kinds of work that a page can begin and stop.
DRAW, SOLVE = "draw", "solve"
_SCALES = ("true_cfg_scale", "guidance_scale")


class Stopped(Exception):
    """Raised inside a network call when the visitor stopped the work or closed the page."""


@dataclass
class Session:
    """The state of one open page."""

    # uploaded and solved ones, by the name that the list of methods shows.
    plans: dict[str, Plan] = field(default_factory=dict)
    samples: dict[str, Sample] = field(default_factory=dict)  # the newest sample of every panel
    unaccelerated: tuple[Any, Sample] | None = None  # what the newest unaccelerated run was drawn with, and its sample
    running: dict[str, object] = field(default_factory=dict)  # a mark of the work of each kind that goes on
    folder: TemporaryDirectory[str] | None = None  # the files of the plans

    def begin(self, kind: str) -> Callable[[], None]:
        """Return a function that raises `Stopped` once this work is stopped or another of its kind has begun."""
        mark = self.running[kind] = object()

        def check() -> None:
            if self.running.get(kind) is not mark:
                raise Stopped

        return check

    def check_room(self, count: int = 1) -> None:
        """Refuse more plans than one page keeps."""
        if len(self.plans) + count > PLANS:
            raise ValueError(f"one page keeps {PLANS} plans, and {len(self.plans)} are there; reload it to begin anew.")

    def add(self, plan: Plan, name: str) -> str:
        """Keep a plan under a name of its own, save it, and return that name."""
        self.check_room()
        label, number = f"my {name[:100]}", 1
        while label in self.plans:
            number += 1
            label = f"my {name[:100]}-{number}"
        self.folder = self.folder or TemporaryDirectory(prefix="skipcast-ui-", ignore_cleanup_errors=True)
        self.plans[label] = plan
        plan.save(self.files()[-1])
        return label

    def files(self) -> list[Path]:
        """The files of the plans, in their order."""
        folder = Path(self.folder.name) if self.folder else Path()
        return [folder / f"{label.removeprefix('my ')}{PLAN}" for label in self.plans]

    def upload(self, path: str | Path) -> str:
        """Read the file of a plan and keep the plan; returns its name.

        Raises:
            FileNotFoundError, ValueError: the file is not a plan.
        """
        name = Path(path).name
        try:
            plan = Plan.load(path)
        except ValueError as error:  # without the folder that the upload happens to lie in
            raise ValueError(str(error).replace(str(path), name)) from error
        return self.add(plan, name.removesuffix(PLAN).removesuffix(".json"))

    def close(self) -> None:
        """Stop the work under way and delete the files."""
        self.running.clear()
        if self.folder is not None:
            self.folder.cleanup()


@dataclass
class Loaded:
    """A loaded model, and the network calls per step of every guidance scale that was warmed up."""

    model: Model
    calls: dict[float | None, int] = field(default_factory=dict)

    @property
    def pipe(self) -> Any:
        return self.model.pipe

    @property
    def guidance(self) -> float | None:
        """The guidance scale of the model's card, or None for the pipeline's default."""
        return next((float(self.model.call[name]) for name in _SCALES if name in self.model.call), None)

    def call(self, guidance: float | None) -> dict[str, Any]:
        """Return the arguments of a pipeline call at a guidance scale; None means the model's own."""
        call = dict(self.model.call)
        return call if guidance is None or guidance == self.guidance else {**call, **guided(self.pipe, guidance)}

    def warm(self, guidance: float | None, prompt: str, check: Callable[[], None]) -> int:
        """Return the network calls per sampler step; two untimed steps are run first at a new guidance scale."""
        if guidance not in self.calls:
            made = 0

            def tick() -> None:
                nonlocal made
                check()
                made += 1

            if len(self.calls) >= 100:  # visitors may choose any
                self.calls.pop(next(iter(self.calls)))
            with watched(self.pipe, tick):
                draw(self.pipe, [Pair(prompt, 0)], steps=2, call=self.call(guidance), decode=False)
            self.calls[guidance] = max(1, made // 2)
        return self.calls[guidance]


@dataclass(frozen=True)
class Offer:
    """What the page offers for a model; the first of each list is the one to begin with."""

    model: str  # its name
    methods: list[tuple[str, str]]  # plans and methods
    samplers: list[tuple[str, str]]  # plain samplers to compare with
    prompts: tuple[str, ...]  # examples that suit it
    guidance: float | None  # the guidance scale of its card; None leaves it to the pipeline


@dataclass
class Models:
    """Loads models, one at a time, and lends the pipeline to one caller at a time."""

    listed: Sequence[str]  # the names that visitors choose from
    plans: dict[str, Plan] = field(default_factory=dict)  # those of the host, by the names of their files
    dtype: Any = None  # a torch dtype of the weights; None for the usual one
    offload: bool = False  # keep on the GPU only the part of the model that is at work
    trust: bool = False  # whether visitors may name any folder, hub id and file
    offers: dict[str, Offer] = field(default_factory=dict, init=False)  # of every model that was loaded once
    _lock: threading.Lock = field(default_factory=threading.Lock, init=False)
    _loaded: Loaded | None = field(default=None, init=False)

    @contextmanager
    def using(self, name: str, report: Report = lambda share, words: None) -> Iterator[Loaded]:
        """Lend the model to this caller alone, until the context is left.

        Raises:
            ValueError: the model is not offered, cannot be loaded, or does not draw images; what was loaded still is.
        """
        if not self.trust:
            one_of("the model", name, self.listed)
        with self._lock:
            if self._loaded is None or self._loaded.model.name != name:
                report(None, f"loading {name}")
                if name in self.offers:  # it can be loaded, so that memory need not hold two
                    self._loaded = None
                model = load_model(name, self.dtype, offload=self.offload)
                if hasattr(model.pipe, "video_processor"):
                    raise ValueError(
                        f"{name}: {type(model.pipe).__name__} makes videos; the playground draws images. For videos "
                        "use `skipcast generate` and `skipcast bench`."
                    )
                self._loaded = Loaded(model)
            yield self._loaded

    def offer_all(self) -> Offer:
        """Load every listed model once, the first one last, and return what is offered for that one.

        Raises:
            ValueError: as `using`, or a plan of the host runs on none of them.
        """
        for name in reversed(self.listed):
            self._loaded = None  # memory never holds two
            self.offer(name)
        run = {spec for offer in self.offers.values() for _, spec in offer.methods}
        if unfit := [name for name in self.plans if name not in run]:
            raise ValueError(f"the plan {unfit[0]} runs on none of {', '.join(self.listed)}; leave it out of --plans.")
        return self.offers[self.listed[0]]

    def offer(self, name: str) -> Offer:
        """Return what the page offers for a model, which is loaded the first time.

        Raises:
            ValueError: as `using`.
        """
        if name not in self.offers:
            with self.using(name) as loaded:
                prompts = usual_prompts(loaded.model.world.name if loaded.model.world else None)
                offered = methods(name, loaded.pipe, self.plans), samplers(loaded.pipe), prompts, loaded.guidance
                self.offers[name] = Offer(name, *offered)
        return self.offers[name]


def plans_of(folders: Sequence[str | Path]) -> dict[str, Plan]:
    """Return the plans in folders by the names of their files, which end in .plan.json.

    Raises:
        ValueError: a folder holds none, a file is none, or a name comes twice.
    """
    found: dict[str, Plan] = {}
    for folder in folders:
        files = sorted(Path(folder).glob(f"*{PLAN}"))
        if not files:
            raise ValueError(f"{folder}: there is no folder of this name with a *{PLAN} in it.")
        for file in files:
            if file.name in found:
                raise ValueError(f"{file}: another folder holds a plan of this name; rename one of the two.")
            found[file.name] = Plan.load(file)
    return found


def installed() -> list[str]:
    """Return the reference models of images whose weights are installed."""
    found = []
    for name in REFERENCES:
        try:
            folder = reference_folder(name)
        except ValueError:
            continue
        if not draws_videos(folder):
            found.append(name)
    return found


@contextmanager
def watched(pipe: Any, tick: Callable[[], None]) -> Iterator[None]:
    """Call `tick` before every network call within the context; an exception of `tick` stops the run."""

    def hook(*_: Any) -> None:
        tick()

    handles = [network.register_forward_pre_hook(hook) for network in denoisers(pipe)]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
