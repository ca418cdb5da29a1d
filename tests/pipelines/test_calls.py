"""Arguments of pipeline calls: what sets images apart comes from one place."""

from __future__ import annotations

import pytest

from skipcast.pipelines.calls import arguments


def test_every_image_has_its_prompt_and_seed() -> None:
    found = arguments({"negative_prompt": "", "strength": 0.5}, ["a", "b"], [3, 4], 20)
    assert (found["prompt"], found["negative_prompt"]) == (["a", "b"], ["", ""])
    assert (found["strength"], found["num_inference_steps"]) == (0.5, 20)
    assert [noise.initial_seed() for noise in found["generator"]] == [3, 4]


@pytest.mark.parametrize(("name", "words"), [("prompt", "give prompts"), ("generator", "give seeds")])
def test_a_call_replaces_nothing_of_an_image(name: str, words: str) -> None:
    with pytest.raises(ValueError, match=f"call={{'{name}': ...}} would replace what sets images apart; {words}"):
        arguments({name: "x"}, ["a"], [1])


def test_nor_does_it_replace_an_argument_that_each_image_has_of_its_own() -> None:
    with pytest.raises(ValueError, match="'class_labels'"):
        arguments({"class_labels": 3}, [{"class_labels": [1]}], [1])
