"""The model card as Markdown, from measured figures and training logs alone."""

from __future__ import annotations

from typing import Any

from research.training.figures import smooth
from skipcast.models.scenes import ATTRIBUTES, HELD_OUT

_SHARES = ("colour", "background", "shape", "size", "all")


def _percent(value: float) -> str:
    return f"{100 * value:.1f} %"


def _share_rows(rows: dict[str, dict[str, float]]) -> str:
    head = "| | " + " | ".join(_SHARES) + " |\n|---|" + "---|" * len(_SHARES) + "\n"
    return head + "".join(
        f"| {name} | " + " | ".join(_percent(shares[key]) for key in _SHARES) + " |\n" for name, shares in rows.items()
    )


def alignment_gain(aligned: list[dict[str, Any]], plain: list[dict[str, Any]]) -> str:
    """What the alignment did to the flow-matching loss at equal steps: both runs see the same batches and noise."""
    theirs = dict(smooth(plain, "flow"))
    last = max(theirs)
    ours = dict(smooth(aligned, "flow"))
    rows = [(step, ours[step], theirs[step]) for step in sorted(theirs) if step in ours and step % (last // 4) == 0]
    lines = ["| step | aligned | plain |", "|---|---|---|"]
    lines += [f"| {step} | {a:.4f} | {b:.4f} |" for step, a, b in rows]
    return "\n".join(lines)


def card(
    stages: dict[str, dict[str, Any]],
    measured: dict[str, Any],
    sizes: dict[str, float],
    gain: str | None,
    lineage: str = "",
) -> str:
    """`docs/reference-model.md`: data, sizes, seeds, steps, time, loss curve, judged figures, images."""
    hours = sum(stage.get("seconds", 0) for stage in stages.values()) / 3600
    held_out = ", ".join(f"{colour} {shape}" for shape, colour in HELD_OUT)
    values = "; ".join(f"{name}: {', '.join(options)}" for name, options in ATTRIBUTES.items() if name != "background")
    seconds = "\n".join(f"| {name} | {stage.get('seconds', 0) / 60:.1f} |" for name, stage in stages.items())
    megabytes = "\n".join(f"| {name} | {size / 1e6:.2f} |" for name, size in sizes.items())
    total = sum(sizes.values()) / 1e6
    targets = {"colour": 0.95, "background": 0.95, "shape": 0.85}
    missed = [
        f"- {name}: {_percent(measured['adherence'][name])} of prompts, the aim is {_percent(aim)}."
        for name, aim in targets.items()
        if measured["adherence"][name] < aim
    ]
    missed += [f"- Size: {total:.1f} MB, the aim is 24 MB."] if total > 24 else []
    missed += ["- Training goes on from these weights with `--continue-from` (see Training)."] if missed else []
    short = "\n".join(missed) or "Nothing: all aims are met, as this judge reads."
    short += " Training, below, tells how the figures depend on the judge." if lineage and not missed else ""
    gained = f"\n{gain}\n" if gain else "\nNot measured for these weights.\n"
    return f"""# Model card: `shapes-flux`

A small text-to-image model in the classes of FLUX.1 (`FluxPipeline`, `FluxTransformer2DModel`, `AutoencoderKL`, CLIP and
T5 text encoders, `FlowMatchEulerDiscreteScheduler` with dynamic shifting), trained on images that the package draws
itself. It exists so that methods can be compared offline on a *trained* model; it is of no other use.

```python
import skipcast as sc

pipe = sc.load_reference("shapes-flux")
image = pipe("a large striped red star on a blue background", true_cfg_scale=2.0, negative_prompt="").images[0]
```

`FluxPipeline.from_pretrained(folder)` loads the same weights; then pass `height=64, width=64, max_sequence_length=12`,
which `load_reference` makes the defaults.

![24 samples](reference-model/samples.png)

Prompts in [samples.txt](reference-model/samples.txt), 50 steps, `true_cfg_scale={
        measured["guidance"]:g}`, seeds 70000 on.

## What falls short

{short}

## Judged figures

Measured by `python -m research.shapes_flux.evaluate` on {measured["prompts"]} random prompts, 50 steps,
`true_cfg_scale={
        measured["guidance"]:g}`, one seed each. The judge is a small network that reads images; *all* means all
four attributes at once.

{
        _share_rows(
            {
                f"{measured['prompts']} prompts": measured["adherence"],
                "combinations never trained (100)": measured["adherence_unseen_combinations"],
                "the judge on drawn images (2000)": measured["judge_on_drawn"],
                "the judge on the same, through the autoencoder": measured["judge_on_rebuilt"],
            }
        )
    }
Frechet distance of the judge's features to 500 drawn images: {measured["frechet"]:.2f} (between two sets of drawn
images: {measured["frechet_floor"]:.2f}). Autoencoder, 512 images never shown: PSNR {
        measured["autoencoder_psnr_mean"]:.2f} dB mean, {measured["autoencoder_psnr_worst"]:.2f} dB worst.

By guidance scale (50 other prompts, other seeds):

{_share_rows({f"true_cfg_scale {scale}": shares for scale, shares in measured["guidance_sweep"].items()})}
## Data

64x64 RGB, drawn with signed distances, edges {1.5} pixels soft. {values}; background from the same colours with a soft
gradient; plain, striped or dotted. Position varies by 15 % of the side, rotation by 20 degrees. Four caption templates; one
caption in three leaves the texture out; one in ten is empty, so that `true_cfg_scale` works. Never trained: {held_out}.
49,152 images, latents computed once (seed 11).

## Training

| part | MB shipped (half precision) |
|---|---|
{megabytes}

| stage | minutes |
|---|---|
{seconds}

Two CPU cores, bfloat16 autocast, {hours:.1f} hours in all, some of them while the machine did other work. Seeds:
autoencoder 1, judge 2, transformer 3, teacher 5, decoder 7. Transformer: AdamW, Muon for its hidden matrices
(arXiv:2502.16982), logit-normal noise levels (mean 0.5, deviation 1.2), averaged weights (0.999), text encoders trained
along. `make reference` repeats all of it in one go and resumes when interrupted. `python -m research.shapes_flux.train
--no-align --out build/more --continue-from skipcast-models/src/skipcast_models/weights/shapes-flux` goes on from the shipped weights.

{lineage}
![Flow-matching loss](reference-model/loss.svg)

## What alignment gained

For the first steps the image tokens after the last double block are aligned with the 4x4 feature map of a teacher, a copy
of the judge trained apart (REPA, arXiv:2410.06940); it stops at a fixed step (HASTE, arXiv:2505.16792). `--no-align` leaves
it out. Flow-matching loss at equal steps, same batches and noise, of two short runs from nothing made for this
(`python -m research.shapes_flux.train --name aligned --steps 200`, and `--no-align --name plain`):
{gained}"""
