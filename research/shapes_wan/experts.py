"""Two networks with the same weights, where Wan 2.2 has two experts: `python -m research.shapes_wan.experts`."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Annotated, Any

import typer
from torch import Tensor

import skipcast as sc
from skipcast.bench.draw import How, Pair, draw
from skipcast.bench.metrics import per_frame, psnr
from skipcast.checkpoint import write_whole
from skipcast.models.load import Model, load_model

#: Wan2.2-T2V-A14B's.
BOUNDARY = 0.875
METHODS = (
    "lagrange:evaluations=10,order=1,target=output",
    "taylorseer",
    "easycache",
    "seacache",
    "teacache:polynomial=wan-t2v-1.3b,threshold=0.3",
    "magcache:curve=wan-t2v-1.3b,evaluations=17",
    "unipc:evaluations=10",
)


def two_experts(pipe: Any, boundary: float = BOUNDARY) -> Any:
    """A pipeline whose second network has the weights of the first, and takes over below a noise level."""
    made = type(pipe)(**{**pipe.components, "transformer_2": copy.deepcopy(pipe.transformer)}, boundary_ratio=boundary)
    made.set_progress_bar_config(disable=True)
    return made


def measure(model: Model, methods: dict[str, How], clips: int, steps: int = 50) -> dict[str, Any]:
    """PSNR of every method with one network and with two."""
    assert model.world is not None
    prompts = [model.world.prompts[i % len(model.world.prompts)] for i in range(clips)]
    pairs = [Pair(prompt, 1000 + i) for i, prompt in enumerate(prompts)]
    one, two = model.pipe, two_experts(model.pipe)

    def drawn(pipe: Any, how: How) -> tuple[Tensor, float]:
        sample = draw(pipe, pairs, how, steps=steps, call=model.call)
        return sample.images, sample.evaluations

    reference, _ = drawn(one, None)
    if not reference.equal(drawn(two, None)[0]):
        raise RuntimeError("two networks of the same weights do not draw what one of them draws.")
    rows = []
    for name, how in methods.items():
        (a, evaluations), (b, of_two) = drawn(one, how), drawn(two, how)
        rows.append({
            "method": name,
            "evaluations": evaluations,
            "evaluations_of_two": of_two,
            "one": per_frame(psnr, a, reference).mean().item(),
            "two": per_frame(psnr, b, reference).mean().item(),
        })  # fmt: skip
    return {"boundary": BOUNDARY, "clips": clips, "rows": rows}


def main(
    model: Annotated[str, typer.Argument(help="A reference model of clips.")] = "shapes-wan",
    clips: Annotated[int, typer.Option(help="Clips of every row.")] = 8,
    out: Annotated[Path, typer.Option(help="The folder of the page.")] = Path("docs/results"),
) -> None:
    """Measure methods on one network and on two with its weights; writes OUT/MODEL-experts.json."""
    loaded = load_model(model)
    methods: dict[str, How] = {name: sc.method(name, family="wan") for name in METHODS}
    methods |= {f"plan:evaluations={m}": sc.shipped_plan(model, m) for m in (5, 10)}
    measured = measure(loaded, methods, clips)
    write_whole(out / f"{model}-experts.json", (json.dumps(measured, indent=1) + "\n").encode())


if __name__ == "__main__":
    typer.run(main)
