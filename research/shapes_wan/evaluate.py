"""Judge the reference model of clips and write its card: `python -m research.shapes_wan.evaluate`."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import typer
from rich.progress import track
from torch import Tensor

from research.pages import render
from research.shapes_wan.autoencoder import psnr_of, rebuild
from research.shapes_wan.train import CLIPS as TRAINED
from research.training.figures import adherence, curve_svg, read_log, smooth
from research.training.stages import figures_of
from skipcast.bench.draw import Pair
from skipcast.bench.draw import draw as draw_sample
from skipcast.bench.media import encoded
from skipcast.checkpoint import write_whole
from skipcast.models import clips
from skipcast.models.clips import Clip, captions, draw, sample_clip
from skipcast.models.judge import frechet_distance
from skipcast.models.load import REFERENCES, load_model, reference_folder
from skipcast.models.worlds import CLIPS

SWEEP, RARE = 50, 50  # prompts per guidance scale; of combinations never trained
SCALES = (1.0, 2.0, 3.0, 4.0, 6.0)
STEPS = 50
DRAWN = 256  # clips for the autoencoder; the judge has four times as many
PROMPT_SEED = 77
AIMS = {"colour": 0.95, "background": 0.95, "shape": 0.8, "motion": 0.9}
AIM_PSNR, AIM_MEGABYTES, AIM_JUDGE = 28.0, 24.0, 0.98
COLUMNS = 6
STAGES = ("autoencoder", "judge", "teacher", "latents", "transformer", "decoder")


def prompts_of(count: int, seed: int = PROMPT_SEED, *, held_out: bool = False) -> tuple[list[str], Clip]:
    """Random captions and the clips they describe."""
    rng = np.random.default_rng([seed, int(held_out)])
    clip = sample_clip(count, rng, held_out=held_out)
    return captions(clip, rng), clip


def sample(pipe: Any, prompts: Sequence[str], scale: float, *, seed: int = 0, batch: int = 25) -> Tensor:
    """Clips (n, 9, 3, 48, 48) in [0, 1]; clip i has seed `seed + i`."""
    found = []
    for start in track(range(0, len(prompts), batch), description=f"guidance {scale:g}"):
        pairs = [Pair(prompt, seed + start + i) for i, prompt in enumerate(prompts[start : start + batch])]
        call = {"guidance_scale": scale, "negative_prompt": ""}
        found.append(draw_sample(pipe, pairs, steps=STEPS, call=call).images)
    return torch.cat(found)


def drawn(count: int, seed: Sequence[int]) -> tuple[Tensor, Clip]:
    """Clips (count, 9, 3, 48, 48) in [0, 1] and what they show."""
    clip = sample_clip(count, np.random.default_rng(list(seed)))
    return torch.from_numpy(draw(clip)), clip


def loop(samples: Tensor, columns: int = COLUMNS, scale: int = 2) -> bytes:
    """Clips side by side in one animated picture, enlarged."""
    n, frames, channels, height, width = samples.shape
    rows = -(-n // columns)
    sheet = torch.ones(frames, channels, rows * (height + 2), columns * (width + 2))
    for i, clip in enumerate(samples):
        y, x = i // columns * (height + 2) + 1, i % columns * (width + 2) + 1
        sheet[:, :, y : y + height, x : x + width] = clip
    return encoded(sheet.repeat_interleave(scale, 2).repeat_interleave(scale, 3), 8)


def measure(model: str, count: int) -> dict[str, Any]:
    """All judged figures of a reference model of clips."""
    loaded = load_model(model)
    pipe, judge = loaded.pipe, loaded.judge
    if judge is None or loaded.world is not CLIPS:
        raise ValueError(f"{model} has no judge of clips; only reference models can be judged.")
    with torch.no_grad():
        true = [judge.features(drawn(DRAWN, [PROMPT_SEED, 9, i])[0]) for i in (0, 1)]
    sweep = {}
    lines, clip = prompts_of(SWEEP, PROMPT_SEED + 1)
    for scale in SCALES:
        sweep[f"{scale:g}"] = adherence(judge, sample(pipe, lines, scale, seed=50_000), clip)
    scale = float(CLIPS.call["guidance_scale"])
    lines, clip = prompts_of(count)
    samples = sample(pipe, lines, scale)
    rare_lines, rare_clip = prompts_of(RARE, held_out=True)
    rare = sample(pipe, rare_lines, scale, seed=90_000)
    shown, described = drawn(4 * DRAWN, [PROMPT_SEED, 5])
    with torch.no_grad():
        features = judge.features(samples)
        rebuilt = [rebuild(pipe.vae, part.transpose(1, 2) * 2 - 1).transpose(1, 2) for part in shown.split(50)]
    psnr = psnr_of(pipe.vae, drawn(DRAWN, [PROMPT_SEED, 1])[0].transpose(1, 2) * 2 - 1)
    return {
        "guidance": scale,
        "prompts": count,
        "rare": RARE,
        "sweep": SWEEP,
        "adherence": adherence(judge, samples, clip),
        "adherence_unseen_combinations": adherence(judge, rare, rare_clip),
        "guidance_sweep": sweep,
        "frechet": frechet_distance(features, true[0]),
        "frechet_floor": frechet_distance(true[1], true[0]),
        "judge_on_drawn": adherence(judge, shown, described),
        "judge_on_rebuilt": adherence(judge, torch.cat(rebuilt) / 2 + 0.5, described),
        "autoencoder_psnr_mean": psnr.mean().item(),
        "autoencoder_psnr_worst": psnr.min().item(),
    }


def missed(measured: dict[str, Any], megabytes: float) -> list[str]:
    """The aims that are not met, in words."""
    found = [
        f"{name}: {100 * measured['adherence'][name]:.1f} % of prompts, the aim is {100 * aim:.0f} %."
        for name, aim in AIMS.items()
        if measured["adherence"][name] < aim
    ]
    if (psnr := measured["autoencoder_psnr_mean"]) < AIM_PSNR:
        found.append(f"The autoencoder's PSNR: {psnr:.1f} dB, the aim is {AIM_PSNR:.0f} dB.")
    name, share = min(
        ((key, share) for key, share in measured["judge_on_drawn"].items() if key != "all"), key=lambda x: x[1]
    )
    if share < AIM_JUDGE:
        found.append(
            f"The judge reads {name} on {100 * share:.1f} % of drawn clips, the aim is {100 * AIM_JUDGE:.0f} %."
        )
    if megabytes > AIM_MEGABYTES:
        found.append(f"Size: {megabytes:.1f} MB, the aim is {AIM_MEGABYTES:.0f} MB.")
    return found


def main(
    model: Annotated[str, typer.Argument(help="Reference name or folder.")] = "shapes-wan",
    count: Annotated[int, typer.Option(help="Prompts to judge.")] = 300,
    work: Annotated[Path, typer.Option(help="Work folder of the training, for its logs.")] = Path("build/shapes-wan"),
    out: Annotated[Path, typer.Option(help="Folder of documents.")] = Path("docs"),
    again: Annotated[bool, typer.Option("--measure/--no-measure", help="Measure, or write the text again.")] = True,
    threads: Annotated[int, typer.Option(help="CPU threads.")] = 2,
) -> None:
    """Measure the figures of the model card; writes OUT/reference-model-wan.md and OUT/reference-model-wan/."""
    torch.set_num_threads(threads)
    folder = out / "reference-model-wan"
    folder.mkdir(parents=True, exist_ok=True)
    if work.is_dir() and (found := figures_of(work, STAGES)):
        write_whole(folder / "stages.json", (json.dumps(found, indent=1) + "\n").encode())
        shutil.copyfile(work / "transformer.log.jsonl", folder / "transformer.log.jsonl")
    if again:
        figures = measure(model, count)
        write_whole(folder / "figures.json", (json.dumps(figures, indent=1) + "\n").encode())
        lines, _ = prompts_of(4 * COLUMNS, PROMPT_SEED + 2)
        pipe = load_model(model).pipe
        write_whole(folder / "samples.webp", loop(sample(pipe, lines, figures["guidance"], seed=70_000)))
        write_whole(folder / "samples.txt", ("\n".join(lines) + "\n").encode())
    measured = json.loads((folder / "figures.json").read_text())
    log = read_log(folder / "transformer.log.jsonl")
    losses = [(x / 1000, y) for x, y in smooth(log, "flow", along="clips")]
    chart = curve_svg({"flow": losses}, x_label="thousand clips", y_label="flow-matching loss")
    write_whole(folder / "loss.svg", chart.encode())
    weights = reference_folder(model) if model in REFERENCES else Path(model)
    sizes = {
        path.parent.name if path.parent != weights else path.stem: path.stat().st_size
        for path in sorted(weights.rglob("*.safetensors"))
    }
    history = folder / "lineage.txt"  # how these weights differ from what one run of the training makes, if they do
    text = render(
        "shapes-wan",
        measured=measured,
        missed=missed(measured, sum(sizes.values()) / 1e6),
        names=[*clips.ATTRIBUTES, "all"],
        attributes={name: values for name, values in clips.ATTRIBUTES.items() if name != "background"},
        way=clips.WAY,
        turn=clips.TURN,
        growth=clips.GROWTH,
        held_out=[f"a {shape} that {clips.VERBS[motion]}" for shape, motion in clips.HELD_OUT],
        clips=f"{TRAINED:,}",
        sizes=sizes,
        trained=json.loads((folder / "stages.json").read_text()),
        parameters=round(sizes["transformer"] / 2e6, 1),
        lineage=history.read_text() if history.exists() else "",
    )
    write_whole(out / "reference-model-wan.md", text.encode())
    typer.echo(json.dumps({key: value for key, value in measured.items() if key != "guidance_sweep"}))


if __name__ == "__main__":
    typer.run(main)
