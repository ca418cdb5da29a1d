"""Train `shapes-flux` from nothing: `python -m research.shapes_flux.train` (or `make reference`).

Stages: autoencoder, judge, teacher, latents, transformer, export, card. Each is skipped when its result lies in the
work folder and resumes from its checkpoint when it was interrupted.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import typer
from diffusers import AutoencoderKL, FluxTransformer2DModel
from rich.progress import track
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import CLIPTextModel, T5EncoderModel

from research.shapes_flux import DATA, text
from research.shapes_flux.assemble import assemble, export
from research.shapes_flux.autoencoder import DECODER_RECIPE, refine_decoder, train_autoencoder
from research.shapes_flux.judge import RECIPE as JUDGE_RECIPE
from research.shapes_flux.judge import TEACHER_RECIPE, train_judge
from research.shapes_flux.transformer import RECIPE, Alignment, Latents, Student, pack, train_transformer
from research.training.fit import Recipe
from research.training.stages import console, load_module, save_module, stage
from skipcast.models.judge import Judge
from skipcast.models.scenes import Scene, draw, sample_scene

IMAGES = 49_152
DATA_SEED = 11
WEIGHTS = DATA / "weights" / "shapes-flux"


def _encode_images(vae: AutoencoderKL, teacher: Judge, count: int) -> dict[str, Tensor]:
    """Latents, teacher features and scenes of the training set, one chunk of images at a time."""
    latents, features, fields = [], [], []
    shift, scale = vae.config.shift_factor, vae.config.scaling_factor
    with torch.no_grad():
        for chunk in track(range(count // 512), description="latents"):
            scene = sample_scene(512, np.random.default_rng([DATA_SEED, chunk]))
            images = torch.from_numpy(draw(scene))
            with torch.autocast("cpu", dtype=torch.bfloat16):
                features.append(teacher.feature_map(images).half())
                mean = torch.cat([vae.encode(part * 2 - 1).latent_dist.mode() for part in images.split(128)])
            latents.append(pack((mean.float() - shift) * scale).half())
            fields.append(vars(scene))
    scenes = {f"scene.{k}": torch.from_numpy(np.concatenate([f[k] for f in fields])) for k in fields[0]}
    return {"packed": torch.cat(latents), "teacher": torch.cat(features), **scenes}


def read_latents(path: Path) -> Latents:
    stored = load_file(path)
    fields = {k.removeprefix("scene."): v.numpy() for k, v in stored.items() if k.startswith("scene.")}
    return Latents(stored["packed"], Scene(**fields), stored["teacher"])


def prepare(folder: Path) -> None:
    """Everything before the transformer: autoencoder, judge, teacher, latents."""

    def autoencoder() -> dict[str, Any]:
        vae, figures = train_autoencoder(folder)
        vae.save_pretrained(folder / "vae")
        return figures

    def judge(name: str, seed: int, recipe: Recipe) -> Callable[[], dict[str, Any]]:
        def work() -> dict[str, Any]:
            module, figures = train_judge(folder, recipe, seed=seed, name=name)
            save_module(module, folder / f"{name}.safetensors")
            return figures

        return work

    def latents() -> dict[str, Any]:
        vae = AutoencoderKL.from_pretrained(folder / "vae").eval()
        stored = _encode_images(vae, load_module(Judge(), folder / "teacher.safetensors"), IMAGES)
        save_file(stored, folder / "latents.safetensors")
        return {"images": IMAGES, "std": stored["packed"].float().std().item()}

    stage(folder, "autoencoder", autoencoder)
    stage(folder, "judge", judge("judge", 2, JUDGE_RECIPE))
    stage(folder, "teacher", judge("teacher", 5, TEACHER_RECIPE))
    stage(folder, "latents", latents)


def adopt(weights: Path, folder: Path) -> None:
    """Fill the stages before the transformer from shipped weights, so that training goes on from them."""
    vae = AutoencoderKL.from_pretrained(weights / "vae", torch_dtype=torch.float32)
    vae.save_pretrained(folder / "vae")
    for name in ("judge", "teacher"):  # the teacher is not shipped; the judge stands in, and nothing is aligned
        shutil.copyfile(weights / "judge.safetensors", folder / f"{name}.safetensors")
    for name in ("autoencoder", "judge", "teacher"):
        stage(folder, name, lambda: {"adopted": str(weights), "seconds": 0.0})


def train(
    out: Annotated[Path, typer.Option(help="Work folder; holds checkpoints, so that a killed run continues.")] = Path(
        "build/reference"
    ),
    align: Annotated[bool, typer.Option(help="Align inner features with the teacher at first (REPA/HASTE).")] = True,
    steps: Annotated[int, typer.Option(help="Training steps of the transformer, of 256 images each.")] = RECIPE.steps,
    until: Annotated[
        str, typer.Option(help='Step at which the alignment ends, or "gradient": where it no longer helps the loss.')
    ] = str(Alignment.until),
    name: Annotated[str, typer.Option(help="Name of the transformer's checkpoint, for comparisons.")] = "transformer",
    decoder_steps: Annotated[int, typer.Option(help="Steps that the decoder goes on alone.")] = DECODER_RECIPE.steps,
    rate: Annotated[float, typer.Option(help="Learning rate of the transformer.")] = RECIPE.rate,
    seed: Annotated[int, typer.Option(help="Seed of the transformer's batches.")] = 3,
    continue_from: Annotated[
        Path | None, typer.Option(help="Go on from these shipped weights; needs --no-align and an OUT of its own.")
    ] = None,
    threads: Annotated[int, typer.Option(help="CPU threads.")] = 2,
    weights: Annotated[Path, typer.Option(help="Where the shipped weights go.")] = WEIGHTS,
) -> None:
    """Train the reference model and leave its parts in OUT."""
    try:
        alignment = Alignment(until=int(until) if until.isdecimal() else until) if align else None  # type: ignore[arg-type]
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="--until") from error
    torch.set_num_threads(threads)
    out.mkdir(parents=True, exist_ok=True)
    clip_tokenizer, t5_tokenizer = text.build_clip_tokenizer(), text.build_t5_tokenizer()
    if continue_from is not None:
        if align:
            raise typer.BadParameter("--continue-from has no teacher to align with; add --no-align.")
        adopt(continue_from, out)
    prepare(out)

    def transformer() -> dict[str, Any]:
        torch.manual_seed(3)
        clip, t5, start = text.build_clip(clip_tokenizer), text.build_t5(t5_tokenizer), None
        if continue_from is not None:
            full = {"torch_dtype": torch.float32}
            start = FluxTransformer2DModel.from_pretrained(continue_from / "transformer", **full)
            clip = CLIPTextModel.from_pretrained(continue_from / "text_encoder", dtype=torch.float32)
            t5 = T5EncoderModel.from_pretrained(continue_from / "text_encoder_2", dtype=torch.float32)
        student, log = train_transformer(
            out,
            read_latents(out / "latents.safetensors"),
            (clip_tokenizer, clip),
            (t5_tokenizer, t5),
            recipe=replace(RECIPE, steps=steps, rate=rate),
            alignment=alignment,
            seed=seed,
            name=name,
            start=start,
        )
        save_student(student, out / name)
        return {"flow": float(np.mean([r["flow"] for r in log[-10:]])), "seconds": log[-1]["seconds"], "steps": steps}

    stage(out, name, transformer)
    if name != "transformer":
        return  # a run for comparison is not shipped

    def decoder() -> dict[str, Any]:
        vae = AutoencoderKL.from_pretrained(out / "vae")
        vae, figures = refine_decoder(vae, out, replace(DECODER_RECIPE, steps=decoder_steps))
        vae.save_pretrained(out / "vae_refined")
        return figures

    stage(out, "decoder", decoder)
    ship(out, weights)


def ship(folder: Path, weights: Path) -> None:
    """Put the trained parts together and export them in half precision."""
    trained = folder / "transformer"
    pipe = assemble(
        FluxTransformer2DModel.from_pretrained(trained / "transformer"),
        AutoencoderKL.from_pretrained(folder / "vae_refined"),
        (text.build_clip_tokenizer(), CLIPTextModel.from_pretrained(trained / "text_encoder")),
        (text.build_t5_tokenizer(), T5EncoderModel.from_pretrained(trained / "text_encoder_2")),
    )
    export(pipe, load_module(Judge(), folder / "judge.safetensors"), weights)
    size = sum(path.stat().st_size for path in weights.rglob("*") if path.is_file())
    console.print(f"{weights}: {size / 1e6:.1f} MB")


def save_student(student: Student, folder: Path) -> None:
    student.transformer.save_pretrained(folder / "transformer")  # type: ignore[operator]
    student.clip.save_pretrained(folder / "text_encoder")
    student.t5.save_pretrained(folder / "text_encoder_2")


if __name__ == "__main__":
    typer.run(train)
