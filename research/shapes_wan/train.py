"""Train `shapes-wan` from nothing: `python -m research.shapes_wan.train` (or `make reference-wan`).

Stages: autoencoder, judge, teacher, latents, transformer, decoder, export. Each is skipped when its result lies in the
work folder and resumes from its checkpoint when it was interrupted.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import typer
from diffusers import AutoencoderKLWan, WanTransformer3DModel
from rich.progress import track
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import UMT5EncoderModel

from research.shapes_flux import DATA
from research.shapes_wan import text
from research.shapes_wan.assemble import assemble, export
from research.shapes_wan.autoencoder import DECODER_RECIPE, refine_decoder, train_autoencoder
from research.shapes_wan.judge import RECIPE as JUDGE_RECIPE
from research.shapes_wan.judge import TEACHER_RECIPE, train_judge
from research.shapes_wan.transformer import RECIPE, Alignment, Latents, train_transformer
from research.training.fit import Recipe
from research.training.stages import console, load_module, save_module, stage
from skipcast.models.clips import Clip, draw, sample_clip
from skipcast.models.judge import ClipJudge

CLIPS = 24_576
CHUNK = 128
GOING_ON = 10  # added to the seeds of a part that goes on from shipped weights, which has seen those of the first run
DATA_SEED = 11
WEIGHTS = DATA / "weights" / "shapes-wan"


def normalised(vae: AutoencoderKLWan, clips: Tensor) -> Tensor:
    """Latents as the transformer sees them, of clips (B, 3, T, H, W) in [-1, 1]."""
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
        latents = vae.encode(clips).latent_dist.mode().float()
    mean, std = (torch.tensor(x).view(1, -1, 1, 1, 1) for x in (vae.config.latents_mean, vae.config.latents_std))
    return (latents - mean) / std


def grouped(features: Tensor) -> Tensor:
    """Features of frames (B, 9, P, D) by the latent frame that shows them, first and last: (B, 3 P, 2 D)."""
    first, last = features[:, (0, 1, 5)], features[:, (0, 4, 8)]
    return torch.cat([first, last], dim=-1).flatten(1, 2)


def _encode_clips(vae: AutoencoderKLWan, teacher: ClipJudge, count: int) -> dict[str, Tensor]:
    """Latents, teacher features and descriptions of the training set, one chunk of clips at a time."""
    latents, features, fields = [], [], []
    for chunk in track(range(count // CHUNK), description="latents"):
        clip = sample_clip(CHUNK, np.random.default_rng([DATA_SEED, chunk]))
        pixels = torch.from_numpy(draw(clip))
        with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
            features.append(grouped(teacher.feature_map(pixels)).half())
        latents.append(normalised(vae, pixels.transpose(1, 2) * 2 - 1).half())
        fields.append(vars(clip))
    described = {f"clip.{k}": torch.from_numpy(np.concatenate([f[k] for f in fields])) for k in fields[0]}
    return {"latents": torch.cat(latents), "teacher": torch.cat(features), **described}


def read_latents(path: Path) -> Latents:
    stored = load_file(path)
    fields = {k.removeprefix("clip."): v.numpy() for k, v in stored.items() if k.startswith("clip.")}
    return Latents(stored["latents"], Clip(**fields), stored["teacher"])


def prepare(folder: Path, clips: int = CLIPS) -> None:
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
        vae = AutoencoderKLWan.from_pretrained(folder / "vae").eval()
        stored = _encode_clips(vae, load_module(ClipJudge(), folder / "teacher.safetensors"), clips)
        save_file(stored, folder / "latents.safetensors")
        return {"clips": clips, "std": stored["latents"].float().std().item()}

    stage(folder, "autoencoder", autoencoder)
    stage(folder, "judge", judge("judge", 2, JUDGE_RECIPE))
    stage(folder, "teacher", judge("teacher", 5, TEACHER_RECIPE))
    stage(folder, "latents", latents)


def train(
    out: Annotated[Path, typer.Option(help="Work folder; holds checkpoints, so that a killed run continues.")] = Path(
        "build/shapes-wan"
    ),
    align: Annotated[bool, typer.Option(help="Align inner features with the teacher at first (REPA).")] = True,
    steps: Annotated[int, typer.Option(help="Training steps of the transformer, of 128 clips each.")] = RECIPE.steps,
    rate: Annotated[float, typer.Option(help="Learning rate of the transformer.")] = RECIPE.rate,
    decoder_steps: Annotated[int, typer.Option(help="Steps that the decoder goes on alone.")] = DECODER_RECIPE.steps,
    judge_steps: Annotated[int, typer.Option(help="Steps of a judge that goes on.")] = JUDGE_RECIPE.steps,
    seed: Annotated[int, typer.Option(help="Seed of the transformer's batches.")] = 3,
    clips: Annotated[int, typer.Option(help="Clips of the training set.")] = CLIPS,
    continue_from: Annotated[
        Path | None, typer.Option(help="Go on from these shipped weights; a part that gets 0 steps stays.")
    ] = None,
    threads: Annotated[int, typer.Option(help="CPU threads.")] = 2,
    weights: Annotated[Path, typer.Option(help="Where the shipped weights go.")] = WEIGHTS,
) -> None:
    """Train the reference model of clips, and ship it."""
    if not steps and continue_from is None:
        raise typer.BadParameter("0 needs --continue-from: there is no transformer to keep", param_hint="--steps")
    torch.set_num_threads(threads)
    out.mkdir(parents=True, exist_ok=True)
    if continue_from is not None:
        adopt(continue_from, out, judge_steps)
    if steps:
        prepare(out, clips)
    tokenizer = text.build_tokenizer()

    def transformer() -> dict[str, Any]:
        torch.manual_seed(3)
        start, encoder = None, text.build_text_encoder(tokenizer)
        if continue_from is not None:
            start = WanTransformer3DModel.from_pretrained(continue_from / "transformer", torch_dtype=torch.float32)
            encoder = UMT5EncoderModel.from_pretrained(continue_from / "text_encoder", dtype=torch.float32)
            if not steps:
                start.save_pretrained(out / "trained" / "transformer")
                encoder.save_pretrained(out / "trained" / "text_encoder")
                return {"adopted": continue_from.name}
        student, log = train_transformer(
            out,
            read_latents(out / "latents.safetensors"),
            tokenizer,
            encoder,
            recipe=replace(RECIPE, steps=steps, rate=rate),
            alignment=Alignment() if align and continue_from is None else None,
            seed=seed,
            start=start,
        )
        student.transformer.save_pretrained(out / "trained" / "transformer")  # type: ignore[operator]
        student.encoder.save_pretrained(out / "trained" / "text_encoder")
        return {"flow": float(np.mean([r["flow"] for r in log[-10:]])), "seconds": log[-1]["seconds"], "steps": steps}

    stage(out, "transformer", transformer)

    def decoder() -> dict[str, Any]:
        vae = AutoencoderKLWan.from_pretrained(out / "vae")
        figures: dict[str, Any] = {"steps": decoder_steps}
        if decoder_steps:
            seed = 7 + GOING_ON * (continue_from is not None)
            vae, figures = refine_decoder(vae, out, replace(DECODER_RECIPE, steps=decoder_steps), seed=seed)
        vae.save_pretrained(out / "vae_refined")
        return figures

    stage(out, "decoder", decoder)
    ship(out, weights)


def adopt(weights: Path, folder: Path, judge_steps: int) -> None:
    """Fill the stages before the latents from shipped weights, and go on with the judge."""
    vae = AutoencoderKLWan.from_pretrained(weights / "vae", torch_dtype=torch.float32)
    vae.save_pretrained(folder / "vae")

    def shipped() -> dict[str, Any]:
        return {"adopted": weights.name, "seconds": 0.0}

    def judge() -> dict[str, Any]:
        module, figures = load_module(ClipJudge(), weights / "judge.safetensors"), shipped()
        if judge_steps:
            recipe = replace(JUDGE_RECIPE, steps=judge_steps)
            module, figures = train_judge(folder, recipe, seed=2 + GOING_ON, start=module)
        save_module(module, folder / "judge.safetensors")
        return figures

    stage(folder, "autoencoder", shipped)
    stage(folder, "judge", judge)
    # The teacher is not shipped; the judge stands in, and nothing is aligned.
    save_module(load_module(ClipJudge(), folder / "judge.safetensors"), folder / "teacher.safetensors")
    stage(folder, "teacher", shipped)


def ship(folder: Path, weights: Path) -> None:
    """Put the trained parts together and export them in half precision."""
    trained = folder / "trained"
    pipe = assemble(
        WanTransformer3DModel.from_pretrained(trained / "transformer"),
        AutoencoderKLWan.from_pretrained(folder / "vae_refined"),
        text.build_tokenizer(),
        UMT5EncoderModel.from_pretrained(trained / "text_encoder"),
    )
    export(pipe, load_module(ClipJudge(), folder / "judge.safetensors"), weights)
    size = sum(path.stat().st_size for path in weights.rglob("*") if path.is_file())
    console.print(f"{weights}: {size / 1e6:.1f} MB")


if __name__ == "__main__":
    typer.run(train)
