"""Two networks of the same weights draw what one of them draws, also by a sampler with fewer steps."""

from __future__ import annotations

from pathlib import Path

import skipcast as sc
from research.shapes_wan.experts import METHODS, measure, two_experts
from skipcast.models.load import load_model
from support.tiny_clips import save_tiny_clips


def test_two_networks_of_the_same_weights(tmp_path: Path) -> None:
    model = load_model(str(save_tiny_clips(tmp_path)))
    assert two_experts(model.pipe).transformer_2 is not model.pipe.transformer
    methods = {
        "outside": sc.method("lagrange:order=1,evaluations=4,target=output"),
        "fewer": sc.method("unipc:evaluations=4"),
    }
    found = measure(model, methods, clips=2, steps=8)
    outside, fewer = found["rows"]
    assert fewer["one"] == fewer["two"] < 100
    assert 0 < outside["two"] < 100  # every network has a history of its own
    assert outside["evaluations"] == fewer["evaluations"] == fewer["evaluations_of_two"] == 4


def test_the_methods_of_the_table_run_on_the_model() -> None:
    pipe = sc.load_reference("shapes-wan")
    for name in METHODS:
        sc.accelerate(pipe, sc.method(name, family="wan"))  # refuses, or touches nothing
