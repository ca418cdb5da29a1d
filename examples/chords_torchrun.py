"""One image on several devices, each of which holds the whole network:

torchrun --nproc-per-node 2 examples/chords_torchrun.py --steps 50

Every process prints its answers as it has them; the last one, of core 0, is the pipeline's own image to the bit.
"""

from __future__ import annotations

import argparse
import time

import torch
import torch.distributed as dist

import skipcast as sc


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--coarse", default="lagrange:order=2", help='"reuse" is as published')
    parser.add_argument("--out", default="chords", help="images are OUT-<rounds>.png")
    given = parser.parse_args()
    dist.init_process_group("nccl" if torch.cuda.is_available() else "gloo")
    cores, rank = dist.get_world_size(), dist.get_rank()
    pipe = sc.load_reference("shapes-flux")
    if torch.cuda.is_available():
        pipe.to(f"cuda:{rank % torch.cuda.device_count()}")
    begun = time.monotonic()
    for answer in sc.chords(
        pipe,
        "a large red star on a blue background",
        cores=cores,
        init="uniform",
        coarse=given.coarse,
        group=dist.group.WORLD,
        num_inference_steps=given.steps,
        generator=torch.Generator().manual_seed(0),  # the same noise in every process
    ):
        change = "" if answer.change is None else f", {float(answer.change.max()):.1e} from the answer before"
        print(f"core {answer.core}, round {answer.rounds}, {time.monotonic() - begun:.1f} s{change}", flush=True)
        if answer.output is not None:
            answer.output.images[0].save(f"{given.out}-{answer.rounds}.png")
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
