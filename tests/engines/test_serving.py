"""Requests for images: what they may hold, which plan they mean, and that the images are the pipeline's own."""

from __future__ import annotations

import base64
import io
import json
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import skipcast as sc
from skipcast.engines.serving import ImageRequest, ImageServer
from skipcast.engines.tiers import Tiers
from skipcast.plans.plan import Plan
from support.seams import counted, state
from support.tiny import PROMPT, twin

#: The tests' plans were solved for few pairs.
pytestmark = pytest.mark.filterwarnings("ignore:this plan was made for")
CALL = {"negative_prompt": "", "true_cfg_scale": 2.0}


@pytest.fixture(scope="module")
def server(pipe: Any, tiers: Tiers) -> ImageServer:
    return ImageServer(pipe, tiers, CALL)


def drawn(answer: dict[str, Any]) -> list[np.ndarray]:
    return [np.asarray(Image.open(io.BytesIO(base64.b64decode(each["b64_json"])))) for each in answer["data"]]


def direct(pipe: Any, plan: Plan, seeds: range, scale: float) -> list[np.ndarray]:
    """The images of the pipeline itself."""
    scheduler = sc.PlanScheduler(plan, guidance=scale if plan.argument else None)
    own = twin(pipe, transformer=pipe.transformer, scheduler=scheduler)
    noise = [torch.Generator().manual_seed(seed) for seed in seeds]
    call = {"negative_prompt": "", "true_cfg_scale": scale, "num_images_per_prompt": len(seeds)}
    return [np.asarray(image) for image in own(PROMPT, num_inference_steps=len(plan), generator=noise, **call).images]


def test_the_quality_chooses_the_plan_and_the_answer_says_which(
    server: ImageServer, pipe: Any, plans: tuple[Plan, ...]
) -> None:
    server.answer({"prompt": PROMPT, "quality": "low"})  # which leaves diffusers' own marks
    before = state(pipe)
    for quality, plan, psnr in [("low", plans[0], 25.0), ("auto", plans[1], 41.0), ("high", plans[2], 50.0)]:
        answer = server.answer({"prompt": PROMPT, "quality": quality, "seed": 3, "n": 2})
        assert all(map(np.array_equal, drawn(answer), direct(pipe, plan, range(3, 5), 2.0)))
        assert [each["seed"] for each in answer["data"]] == [3, 4]
        assert (answer["quality"], answer["size"], answer["output_format"]) == (quality, "64x64", "png")
        told = answer["plan"]
        assert (told["evaluations"], told["steps"], told["predicted_psnr"]) == (len(plan), 12, psnr)
        assert told["predicted_psnr_of_worst"] == psnr
        assert told["guidance_scale"] == (2.0 if plan.argument else None)
        assert len(told["trusted"] or (None, None)) == 2  # a compiled plan foresees nothing
        json.dumps(answer, allow_nan=False)
    assert state(pipe) == before


def test_a_scale_reaches_network_and_plan(server: ImageServer, pipe: Any, plans: tuple[Plan, ...]) -> None:
    answer = server.answer(json.dumps({"prompt": PROMPT, "quality": "low", "seed": 0, "guidance_scale": 2.75}).encode())
    assert answer["plan"]["guidance_scale"] == 2.75
    assert np.array_equal(drawn(answer)[0], direct(pipe, plans[0], range(1), 2.75)[0])


def test_a_seed_is_drawn_and_answered(server: ImageServer) -> None:
    first = server.answer({"prompt": PROMPT, "quality": "low"})
    again = server.answer({"prompt": PROMPT, "quality": "low", "seed": first["data"][0]["seed"]})
    assert again["data"] == first["data"]


def test_requests_in_threads_are_those_alone(server: ImageServer) -> None:
    bodies = [{"prompt": PROMPT, "quality": quality, "seed": 5} for quality in ("low", "high", "medium")]
    alone = [server.answer(body)["data"] for body in bodies]
    with ThreadPoolExecutor(3) as pool:
        assert [answer["data"] for answer in pool.map(server.answer, bodies)] == alone


def test_nothing_known_of_a_plan_is_null(pipe: Any, plans: tuple[Plan, ...]) -> None:
    bare = replace(plans[2], predicted=None, expected=None, forecasts=())
    answer = ImageServer(pipe, Tiers((bare,)), CALL).answer({"prompt": PROMPT, "seed": 0})
    assert [answer["plan"][key] for key in ("predicted_psnr", "predicted_psnr_of_worst", "trusted")] == [None] * 3


@pytest.mark.parametrize(
    ("body", "says"),
    [
        (b"{nope", "the request is no JSON: "),
        (b"[1]", r"must be a JSON object, got \[1\]"),
        ("[" * 100_000, "nested too deeply"),
        (b'"' + b"a" * 10**6 + b'"', "the request has 1000002 bytes, of at most 1000000"),
        ({}, "the request has no prompt"),
        ({"prompt": " "}, "prompt must have from 1 to 32000 characters"),
        ({"prompt": "a" * 32_001}, "prompt must have from 1 to 32000 characters, got 32001"),
        ({"prompt": 3}, r"ImageRequest\(prompt=\.\.\.\) must be text, got 3"),
        ({"prompt": "a", "n": 0}, "n=0 must be from 1 to 10"),
        ({"prompt": "a", "n": 11}, "n=11 must be from 1 to 10"),
        ({"prompt": "a", "n": True}, r"ImageRequest\(n=\.\.\.\) must be a whole number"),
        ({"prompt": "a", "size": "64"}, "size='64' must be WIDTHxHEIGHT, each at most 4096, or auto"),
        ({"prompt": "a", "size": "64x5000"}, "size='64x5000' must be"),
        ({"prompt": "a", "seed": -1}, "seed=-1 must be a whole number from 0"),
        ({"prompt": "a", "seed": 2**63}, "must be a whole number from 0"),
        ({"prompt": "a", "response_format": "url"}, r"\(response_format=\.\.\.\) must be 'b64_json', got 'url'"),
        ({"prompt": "a", "quality": "hd"}, "must be one of 'low', 'medium', 'high', 'auto', got 'hd'"),
        ({"prompt": "a", "guidance_scale": "2"}, r"\(guidance_scale=\.\.\.\) must be a number or None"),
        ({"prompt": "a", "style": "vivid"}, "the field 'style' is unknown here; known: prompt, n, size"),
        ({"prompt": "a", "quality": "low", "guidance_scale": 9.0}, "true_cfg_scale=9 lies outside the 1.5 to 3"),
        ({"prompt": "a", "quality": "high", "guidance_scale": 9.0}, "has no knots: it was made for one call alone"),
        ({"prompt": "a", "quality": "low", "size": "96x64"}, "another resolution shifts the grid"),
    ],
)
def test_a_wrong_request_has_one_clear_error_before_the_network(
    server: ImageServer, pipe: Any, body: Any, says: str
) -> None:
    with counted(pipe.transformer) as counts, pytest.raises(ValueError, match=says) as error:
        server.answer(body)
    assert not counts[pipe.transformer]
    assert len(str(error.value).splitlines()) == 1


def test_openai_s_other_fields_that_change_nothing_are_taken() -> None:
    request = ImageRequest.of({"prompt": "a", "model": "any", "user": "b", "size": "auto"})
    assert request.pixels() == {}
    assert ImageRequest.of({"prompt": "a", "size": "640x480"}).pixels() == {"width": 640, "height": 480}


def test_plans_of_another_model_are_refused(pipe: Any, tiers: Tiers, tmp_path: Any) -> None:
    other = type(pipe.scheduler).from_config(pipe.scheduler.config, base_shift=0.7)
    with pytest.raises(ValueError, match=r"this plan was made for base_shift=0\.5"):
        ImageServer(twin(pipe, scheduler=other), tiers, CALL)
    with pytest.raises(FileNotFoundError, match="no plan"):
        ImageServer.load("shapes-flux", tmp_path)
    with pytest.raises(ValueError, match="no default plan ships"):
        ImageServer.load("owner/name")


def test_the_shipped_model_is_served_with_its_plans() -> None:
    answer = ImageServer.load().answer({"prompt": PROMPT, "quality": "low", "seed": 1})
    pipe = sc.load_reference("shapes-flux")
    pipe.scheduler = sc.PlanScheduler(sc.shipped_plan("shapes-flux", 4), guidance=2.0)
    call = {"negative_prompt": "", "true_cfg_scale": 2.0, "generator": torch.Generator().manual_seed(1)}
    image = pipe(PROMPT, num_inference_steps=4, **call).images[0]
    assert np.array_equal(drawn(answer)[0], np.asarray(image))
    assert answer["plan"]["evaluations"] == 4
    assert answer["plan"]["predicted_psnr"] is not None
