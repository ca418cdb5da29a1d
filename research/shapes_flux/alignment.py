"""What alignment gains on `shapes-flux`: `python -m research.shapes_flux.alignment`, for docs/results/neighbours.md.

Its transformer is trained anew for a while: without a teacher, with its features (REPA, arXiv:2410.06940), with its
attention maps as well, and with both up to a step (HASTE, arXiv:2505.16792). All runs see the same batches and noise.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import typer
from rich.progress import track
from torch import Tensor

from research.pages.neighbours import FOLDER, about, begun, keep
from research.shapes_flux import text, transformer
from research.shapes_flux.evaluate import prompts_of
from research.shapes_flux.judge import draw_scenes
from research.shapes_flux.teacher import PatchTeacher, train_teacher
from research.shapes_flux.transformer import RECIPE, Alignment, Latents, Student, pack, train_transformer
from research.training.figures import adherence
from research.training.stages import figures_of, load_module, save_module, stage
from skipcast.bench.draw import Pair, draw
from skipcast.models.judge import frechet_distance
from skipcast.models.load import Model, load_model
from skipcast.models.scenes import Scene

CHUNK = 512
DATA_SEED, PROMPT_SEED, FIRST_SEED = 11, 78, 80_000
SAMPLING = 20  # Euler steps, at the model's usual guidance
Report = Callable[[str], None]


def runs(stop: int) -> dict[str, Alignment | None]:
    """What is compared, by name."""
    always = 10**9
    return {
        "none": None,
        "REPA": Alignment(until=always),
        "REPA + attention": Alignment(until=always, attention=True),
        f"REPA + attention, stopped at {stop}": Alignment(until=stop, attention=True),
    }


@torch.no_grad()
def encoded(vae: Any, teacher: PatchTeacher, count: int) -> Latents:
    """The training set: latents, scenes, and what the teacher sees, one chunk of images at a time."""
    packed, features, maps, scenes = [], [], [], []
    for chunk in track(range(count // CHUNK), description="latents"):
        images, scene = draw_scenes(CHUNK, [DATA_SEED, chunk])
        with torch.autocast("cpu", dtype=torch.bfloat16):
            mean = torch.cat([vae.encode(part * 2 - 1).latent_dist.mode() for part in images.split(128)])
        tokens, logits = teacher.seen(images)
        packed.append(pack((mean.float() - vae.config.shift_factor) * vae.config.scaling_factor).half())
        features.append(tokens.half())
        maps.append(logits.half())
        scenes.append(vars(scene))
    scene = Scene(**{name: np.concatenate([each[name] for each in scenes]) for name in scenes[0]})
    return Latents(torch.cat(packed), scene, torch.cat(features), torch.cat(maps))


class Scale:
    """Images of a student, by the shipped judge: Frechet distance to drawn ones, and prompts that are followed."""

    def __init__(self, model: Model, samples: int) -> None:
        self.model, self.samples = model, samples
        self.lines, self.scene = prompts_of(samples, PROMPT_SEED)
        judge: Any = model.judge
        with torch.no_grad():
            self.real = judge.features(draw_scenes(2 * samples, [PROMPT_SEED, 9])[0])
            other = judge.features(draw_scenes(samples, [PROMPT_SEED, 10])[0])
        self.floor = round(frechet_distance(other, self.real), 1)

    @torch.no_grad()
    def __call__(self, student: Student) -> dict[str, float]:
        judge: Any = self.model.judge
        pipe = self.model.pipe
        student.eval()
        pipe.transformer, pipe.text_encoder, pipe.text_encoder_2 = student.transformer, student.clip, student.t5
        pairs = [Pair(line, FIRST_SEED + i) for i, line in enumerate(self.lines)]
        drawn = [
            draw(pipe, pairs[i : i + 50], None, steps=SAMPLING, call=self.model.call) for i in range(0, len(pairs), 50)
        ]
        images: Tensor = torch.cat([each.images for each in drawn])
        student.train()
        shares = adherence(judge, images, self.scene)
        return {
            "distance": round(frechet_distance(judge.features(images), self.real), 1),
            **{name: round(share, 3) for name, share in shares.items()},
        }


def compare(folder: Path, data: Latents, scale: Scale, *, at: tuple[int, ...], stop: int, report: Report) -> list[Any]:
    """Train every run, or resume; what its samples are like after the steps of `at`, which the folder keeps."""
    clip_tokenizer, t5_tokenizer = text.build_clip_tokenizer(), text.build_t5_tokenizer()
    rows = []
    for number, (name, alignment) in enumerate(runs(stop).items()):
        torch.manual_seed(3)
        clip, t5 = text.build_clip(clip_tokenizer), text.build_t5(t5_tokenizer)
        kept = {step: f"run{number}_{step}" for step in at}

        def measure(step: int, student: Student, name: str = name, kept: dict[int, str] = kept) -> None:
            report(f"{name}, step {step}")
            stage(folder, kept[step], lambda: scale(student))

        # The rate stays: a run that is looked at on its way has no end to anneal to.
        recipe = replace(RECIPE, steps=max(at), anneal=1e-9, ema=0.995)
        _, log = train_transformer(
            folder, data, (clip_tokenizer, clip), (t5_tokenizer, t5), recipe=recipe, alignment=alignment,
            name=f"run{number}", at=at, measure=measure,
        )  # fmt: skip
        last = [record["flow"] for record in log if record["step"] > max(at) - 250]
        found = figures_of(folder, tuple(kept.values()))
        rows.append(
            {
                "name": name,
                "at": {str(step): found[kept[step]] for step in at},
                "flow": {str(max(at)): round(float(np.mean(last)), 4)},
            }
        )
    return rows


def main(
    work: Annotated[Path, typer.Option(help="Work folder; the teacher and checkpoints.")] = Path("build/alignment"),
    steps: Annotated[int, typer.Option(min=3, help="Of every run.")] = 1500,
    images: Annotated[int, typer.Option(min=CHUNK, help="Of the training set.")] = 24_576,
    samples: Annotated[int, typer.Option(min=50, help="Images that are judged.")] = 500,
    batch: Annotated[int, typer.Option(min=1, help="Images of a training step.")] = transformer.BATCH,
    out: Annotated[Path, typer.Option(help="Record; the page lies beside its folder.")] = FOLDER
    / "alignment-shapes.json",
) -> None:
    """Measure on one thread and write the page."""
    report = begun()
    transformer.BATCH = batch
    model = load_model("shapes-flux")

    def teacher() -> dict[str, Any]:
        module, figures = train_teacher(work)
        save_module(module, work / "patch_teacher.safetensors")
        return figures

    work.mkdir(parents=True, exist_ok=True)
    found: dict[str, Any] = {"about": about("research.shapes_flux.alignment")}
    stage(work, "patch_teacher", teacher)
    seen = load_module(PatchTeacher(), work / "patch_teacher.safetensors")
    data, scale = encoded(model.pipe.vae, seen, images), Scale(model, samples)
    at, stop = tuple(steps * k // 3 for k in (1, 2, 3)), steps // 3
    report(f"drawn images are at {scale.floor}")
    rows = compare(work, data, scale, at=at, stop=stop, report=report)
    found |= {
        "teacher": adherence(seen, *draw_scenes(2000, [5, 10**9])),
        "floor": scale.floor, "samples": samples, "images": images, "batch": batch,
        "at": at, "stop": stop, "sampling": SAMPLING, "rows": rows,
    }  # fmt: skip
    keep(out, found)


if __name__ == "__main__":
    typer.run(main)
