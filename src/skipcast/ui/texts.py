"""The words of the page, and its style."""

from __future__ import annotations

HEAD = """# skipcast playground
Fewer evaluations of the network, the same picture: how near does it come, and how fast?"""

TIMES = "Each time is that of one call, from the prompt to the picture; a warm-up is not counted."

NUMBERS = """**Seconds** are those of one call, from the prompt to the picture, measured while nobody else uses the
pipeline. Two steps are run before the first draw and not counted. One call scatters, and a small picture spends much of
its time outside the network; `skipcast compare` measures in interleaved rounds.

**PSNR and SSIM** compare a picture with the reference, which evaluates every step: they tell how faithful a picture is
to what the model would have drawn, not how beautiful it is. Above about 40 dB the two are hard to tell apart.

**Evaluations** are calls of the network per guidance branch. *Fewer steps* is a plain sampler that makes as many as the
accelerated run did: what acceleration has to beat.

**The strip** shows the steps of the run; the tall ones were evaluated. A **plan** compares what the network says with
what it forecasts, and says whether it trusts the picture."""

PLAN = """A plan says at which steps a model is evaluated and with which weights the sampler moves between them. To make
one, the unaccelerated model is recorded on a few prompts and seeds, and the plan is solved from that. Model and
guidance are those chosen in the playground."""

EFFORT = "open loop asks the network nothing; low closes the loop; normal and high add joint sweeps, which take minutes"

STYLE = """
.gradio-container{max-width:1240px!important;
 --sc-faint:color-mix(in srgb,var(--body-text-color) 68%,var(--body-background-fill))}
.gradio-container input[role=combobox]{text-overflow:ellipsis;padding-right:2.2rem!important}
.gradio-container .html-container{padding:0!important}
#note{margin-top:-8px}
#message:not(:has(p)),#plan-progress:not(:has(div,p)),#plan-result:not(:has(section)){display:none}
.sc-panels{display:grid!important;grid-template-columns:repeat(auto-fit,minmax(13rem,1fr));gap:16px!important}
.sc-panel{margin:0;display:flex;flex-direction:column;gap:8px}
.sc-panel h3{margin:0;font-size:1rem;font-weight:600;color:var(--body-text-color)}
.sc-panel img,.sc-blank{display:block;width:100%;aspect-ratio:1;border-radius:8px;box-sizing:border-box}
.sc-panel img{object-fit:contain;background:var(--background-fill-secondary);height:auto;margin:0}
.sc-crisp{image-rendering:pixelated}
.sc-blank{border:1px dashed var(--border-color-primary);display:flex;align-items:center;justify-content:center;
 padding:16px;text-align:center;color:var(--sc-faint);font-size:.9rem}
.sc-panel figcaption{font-size:.86rem;line-height:1.5;color:var(--body-text-color);font-variant-numeric:tabular-nums;
 overflow-wrap:anywhere;margin:0}
.sc-panel figcaption div{margin:1px 0}
.sc-panel code{font-size:.8rem;background:none;padding:0;border:0;color:var(--body-text-color)}
.sc-note{color:var(--sc-faint)}
.sc-kept{font-weight:600}
.sc-strip{display:block;width:100%;height:18px;margin:6px 0}
.sc-strip .on{fill:var(--body-text-color)}
.sc-strip .off{fill:var(--sc-faint);opacity:.45}
.sc-progress{display:flex;flex-direction:column;gap:8px;width:100%;align-items:center;font-variant-numeric:tabular-nums}
.sc-progress progress{width:100%;max-width:26rem;height:8px;appearance:none;border:0;border-radius:4px;
 overflow:hidden;background:var(--border-color-primary)}
.sc-progress progress::-webkit-progress-bar{background:var(--border-color-primary)}
.sc-progress progress::-webkit-progress-value{background:var(--color-accent)}
.sc-progress progress::-moz-progress-bar{background:var(--color-accent)}
.sc-progress progress:indeterminate::-webkit-progress-bar{background:var(--border-color-primary)}
.sc-progress span{color:var(--body-text-color);font-size:.9rem}
.sc-plan{margin:0 0 18px;color:var(--body-text-color)}
.sc-plan h4{margin:0 0 4px;font-size:1rem;font-weight:500;color:var(--body-text-color)}
.sc-plan p{margin:2px 0;font-size:.86rem;color:var(--sc-faint);overflow-wrap:anywhere}
.sc-message{margin:0;font-size:.9rem;color:var(--sc-faint);overflow-wrap:anywhere}
.sc-bad{color:var(--error-text-color,#b91c1c)}
"""
