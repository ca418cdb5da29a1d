"""Judge the reference model and write its card: `python -m research.shapes_flux.evaluate`."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import typer
from diffusers import FluxPipeline
from rich.progress import track
from torch import Tensor

from research.shapes_flux.autoencoder import draw_images, psnr_of, rebuild
from research.shapes_flux.document import alignment_gain, card
from research.training.figures import adherence, contact_sheet, curve_svg, read_log, smooth
from research.training.stages import figures_of
from skipcast.bench.draw import Pair
from skipcast.bench.draw import draw as draw_sample
from skipcast.checkpoint import write_whole
from skipcast.models.judge import frechet_distance
from skipcast.models.load import REFERENCES, load_model, reference_folder
from skipcast.models.scenes import Scene, captions, draw, sample_scene
from skipcast.models.worlds import STILLS

SWEEP = 50  # prompts per guidance scale
SCALES = (1.0, 1.5, 2.0, 3.0, 4.0)
PROMPT_SEED = 77


def prompts_of(count: int, seed: int = PROMPT_SEED, *, held_out: bool = False) -> tuple[list[str], Scene]:
    """Random captions and the scenes they describe."""
    rng = np.random.default_rng([seed, int(held_out)])
    scene = sample_scene(count, rng, held_out=held_out)
    return captions(scene, rng), scene


def sample(
    pipe: FluxPipeline, prompts: Sequence[str], scale: float, *, steps: int = 50, seed: int = 0, batch: int = 50
) -> Tensor:
    """Images (n, 3, 64, 64) in [0, 1]; image i has seed `seed + i`."""
    images = []
    for start in track(range(0, len(prompts), batch), description=f"guidance {scale:g}"):
        part = list(prompts[start : start + batch])
        call: dict[str, Any] = {"true_cfg_scale": scale, "negative_prompt": [""] * len(part)} if scale > 1 else {}
        pairs = [Pair(prompt, seed + start + i) for i, prompt in enumerate(part)]
        images.append(draw_sample(pipe, pairs, steps=steps, call=call).images)
    return torch.cat(images)


def measure(folder: Path | str, count: int) -> dict[str, Any]:
    """All judged figures of a reference model."""
    model = load_model(str(folder))
    pipe, judge = model.pipe, model.judge
    if judge is None:
        raise ValueError(f"{folder} has no judge; only reference models can be judged.")
    drawn = [torch.from_numpy(draw(sample_scene(500, np.random.default_rng([PROMPT_SEED, 9, i])))) for i in (0, 1)]
    with torch.no_grad():
        true_features = [judge.features(images) for images in drawn]
    sweep = {}
    lines, scene = prompts_of(SWEEP, PROMPT_SEED + 1)
    for scale in SCALES:
        sweep[f"{scale:g}"] = adherence(judge, sample(pipe, lines, scale, seed=50_000), scene)
    scale = float(STILLS.call["true_cfg_scale"])
    lines, scene = prompts_of(count)
    images = sample(pipe, lines, scale)
    rare_lines, rare_scene = prompts_of(100, held_out=True)
    rare = sample(pipe, rare_lines, scale, seed=90_000)
    test = draw_images(512, [PROMPT_SEED, 1])
    drawn_scene = sample_scene(2000, np.random.default_rng([PROMPT_SEED, 5]))
    drawn_images = torch.from_numpy(draw(drawn_scene))
    with torch.no_grad():
        features = judge.features(images)
        rebuilt = torch.cat([rebuild(pipe.vae, part * 2 - 1) for part in drawn_images.split(100)]) / 2 + 0.5
    psnr = psnr_of(pipe.vae, test)
    return {
        "guidance": scale,
        "prompts": count,
        "adherence": adherence(judge, images, scene),
        "adherence_unseen_combinations": adherence(judge, rare, rare_scene),
        "guidance_sweep": sweep,
        "frechet": frechet_distance(features, true_features[0]),
        "frechet_floor": frechet_distance(true_features[1], true_features[0]),
        "judge_on_drawn": adherence(judge, drawn_images, drawn_scene),
        "judge_on_rebuilt": adherence(judge, rebuilt, drawn_scene),
        "autoencoder_psnr_mean": psnr.mean().item(),
        "autoencoder_psnr_worst": psnr.min().item(),
    }


def main(
    model: Annotated[str, typer.Argument(help="Reference name or folder.")] = "shapes-flux",
    count: Annotated[int, typer.Option(help="Prompts to judge.")] = 500,
    work: Annotated[Path, typer.Option(help="Work folder of the training, for its logs.")] = Path("build/reference"),
    out: Annotated[Path, typer.Option(help="Folder of documents.")] = Path("docs"),
    again: Annotated[bool, typer.Option("--measure/--no-measure", help="Measure, or write the text again.")] = True,
) -> None:
    """Measure the figures of the model card; writes OUT/reference-model.md and OUT/reference-model/."""
    folder = out / "reference-model"
    folder.mkdir(parents=True, exist_ok=True)
    _keep_logs(work, folder)
    if again:
        figures = measure(model, count)
        write_whole(folder / "figures.json", (json.dumps(figures, indent=1) + "\n").encode())
        lines, _ = prompts_of(24, PROMPT_SEED + 2)
        pipe = load_model(model).pipe
        contact_sheet(sample(pipe, lines, float(figures["guidance"]), seed=70_000)).save(folder / "samples.png")
        write_whole(folder / "samples.txt", ("\n".join(lines) + "\n").encode())
    measured = json.loads((folder / "figures.json").read_text())

    log = read_log(folder / "transformer.log.jsonl")
    series = {"flow": [(x / 1000, y) for x, y in smooth(log, "flow", along="images")]}
    label = "flow-matching loss"
    write_whole(folder / "loss.svg", curve_svg(series, x_label="thousand images", y_label=label).encode())
    trained = json.loads((folder / "stages.json").read_text())
    pair = [folder / f"{name}.log.jsonl" for name in ("aligned", "plain")]
    gain = alignment_gain(*map(read_log, pair)) if all(path.exists() for path in pair) else None
    weights = reference_folder(model) if model in REFERENCES else Path(model)
    sizes = {
        path.parent.name if path.parent != weights else path.stem: float(path.stat().st_size)
        for path in sorted(weights.rglob("*.safetensors"))
    }
    history = folder / "lineage.md"  # how these weights differ from what one run of the training makes, if they do
    lineage = history.read_text() if history.exists() else ""
    write_whole(out / "reference-model.md", card(trained, measured, sizes, gain, lineage).encode())
    typer.echo(json.dumps({key: value for key, value in measured.items() if key != "guidance_sweep"}))


def _keep_logs(work: Path, folder: Path) -> None:
    """Copy the training's own figures next to the card, where the work folder is at hand."""
    order = ("autoencoder", "judge", "teacher", "latents", "transformer", "decoder")
    found = figures_of(work, order) if work.is_dir() else {}
    if found:
        write_whole(folder / "stages.json", (json.dumps(found, indent=1) + "\n").encode())
    for name in ("transformer", "aligned", "plain"):
        log = work / f"{name}.log.jsonl"
        if log.exists():
            shutil.copyfile(log, folder / log.name)


if __name__ == "__main__":
    typer.run(main)
