"""Alignment in training: its terms, its end, its miniature, and the page made of the record."""

from __future__ import annotations

import functools
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import typer
from torch import Tensor, nn
from torch.nn import functional as F

from research.alignment import study as s
from research.alignment.page import checks, section
from research.pages import render
from research.pages.neighbours import FOLDER, page
from research.shapes_flux import alignment as shapes
from research.shapes_flux import text, transformer
from research.shapes_flux.teacher import PatchTeacher
from research.shapes_flux.train import train
from research.shapes_flux.transformer import Alignment, Latents, train_transformer
from research.training.alignment import Termination, attention_loss, feature_loss, gradient_cosine
from research.training.fit import Recipe, fit
from skipcast.models.load import load_model
from skipcast.models.scenes import sample_scene


def digits(count: int = s.HELD_OUT + 40) -> tuple[Tensor, Tensor]:
    rng = torch.Generator().manual_seed(0)
    return torch.rand(count, 8, 8, generator=rng) * 2 - 1, torch.randint(10, (count,), generator=rng)


def test_features_that_agree_are_minus_one_apart() -> None:
    x = torch.randn(2, 3, 8)
    assert feature_loss(3 * x, x).item() == pytest.approx(-1)
    assert feature_loss(-x, x).item() == pytest.approx(1)
    assert feature_loss(torch.tensor([[1.0, 0.0], [1.0, 0.0]]), torch.tensor([[0.0, 2.0], [1.0, 1.0]])).item() == (
        pytest.approx(-0.5 * 0.5**0.5)
    )


def test_attention_is_the_mean_cross_entropy_of_its_maps() -> None:
    rng = torch.Generator().manual_seed(0)
    teachers = [torch.randn(2, 3, 4, 4, generator=rng) for _ in range(2)]
    students = [torch.randn(2, 5, 4, 4, generator=rng) for _ in range(2)]  # two heads more
    each = [
        F.cross_entropy(student[b, h, q], teacher[b, h, q].softmax(0))
        for student, teacher in zip(students, teachers, strict=True)
        for b in range(2)
        for h in range(3)
        for q in range(4)
    ]
    torch.testing.assert_close(attention_loss(students, teachers), torch.stack(each).mean())
    entropy = -(teachers[0].softmax(-1) * teachers[0].log_softmax(-1)).sum(-1).mean()
    torch.testing.assert_close(attention_loss(teachers[:1], teachers[:1]), entropy)  # the least there is
    far = torch.tensor([[[[0.0, 2000.0]]]])
    assert attention_loss([far], [far.flip(-1)]).item() == 2000  # a softmax's logarithm would be infinite
    with pytest.raises(ValueError, match="got 1 and 2"):
        attention_loss(students[:1], teachers)
    with pytest.raises(ValueError, match=r"got 0 and 0"):
        attention_loss([], [])
    with pytest.raises(ValueError, match="at least its heads"):
        attention_loss(teachers, students)


def test_gradients_are_compared_sample_by_sample() -> None:
    inner = torch.zeros(3, 2, 1, requires_grad=True)
    a = torch.tensor([[[1e-9], [0.0]], [[1.0], [1.0]], [[1.0], [2.0]]])
    b = torch.tensor([[[1e-9], [1e-9]], [[-2.0], [-2.0]], [[0.0], [0.0]]])
    cosine = gradient_cosine((a * inner).sum(), (b * inner).sum(), inner)
    torch.testing.assert_close(cosine.float(), torch.tensor([0.5**0.5, -1.0, 0.0]))


def test_a_fixed_end_is_where_it_was_set_whatever_is_read() -> None:
    end = Termination(30, every=10)
    assert [end.ended(step) for step in (0, 29, 30, 31)] == [False, False, True, True]
    assert [step for step in range(50) if end.due(step)] == [9, 19, 29]
    assert end.smoothed is None
    for step in (9, 19, 29):
        end.read(step, -1.0)
    assert (end.end, end.smoothed) == (30, pytest.approx(-1.0))


def test_gradients_end_it_once_their_smoothed_cosine_is_not_positive() -> None:
    end = Termination("gradient", minimum=40, every=10, decay=0.5)
    told = {9: 0.8, 19: -0.8, 29: -0.8, 39: 0.9, 49: -0.1, 59: -0.9, 69: 1.0}
    read = []
    for step in range(100):
        if end.due(step):
            end.read(step, told[step])
            read.append(step)
    # Means of 0.8, -0.27 and -0.57 come before 40 steps; 0.21 and 0.05 after them are positive still.
    assert read == [9, 19, 29, 39, 49, 59]
    assert end.end == 60
    assert [end.ended(step) for step in (59, 60)] == [False, True]
    mean = (-0.9 * 32 - 0.1 * 16 + 0.9 * 8 - 0.8 * 4 - 0.8 * 2 + 0.8) / (32 + 16 + 8 + 4 + 2 + 1)
    assert end.smoothed == pytest.approx(mean)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"until": "never"}, "until must be a step"),
        ({"until": -1}, "until must be a step"),
        ({"until": True}, "until must be a step"),
        ({"until": 1.5}, "until must be a step"),
        ({"until": 5, "every": 0}, "every at least 1"),
        ({"until": 5, "decay": 1.0}, "decay in"),
    ],
)
def test_an_end_that_is_none_is_refused(given: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Termination(**given)
    if "every" not in given and "decay" not in given:
        with pytest.raises(ValueError, match=message):
            Alignment(until=given["until"])


def test_a_killed_run_ends_its_alignment_where_the_whole_one_does(tmp_path: Path) -> None:
    """Aligned until the readings, which fall with the step, are no longer positive; killed before and behind that."""

    def problem() -> tuple[nn.Linear, Termination, Any]:
        torch.manual_seed(0)
        model, end = nn.Linear(4, 1), Termination("gradient", minimum=0, every=2, decay=0.5)

        def loss(step: int) -> tuple[Tensor, dict[str, float]]:
            x = torch.randn(8, 4, generator=torch.Generator().manual_seed(step))
            value = (model(x) - 1).square().mean()
            if end.ended(step):
                return value, {}
            if end.due(step):
                end.read(step, 1 - step / 10)
            return value + model(x).mean(), {}

        return model, end, loss

    recipe = Recipe(steps=30, rate=0.05, warmup=5)
    whole, expected, loss = problem()
    fit("whole", tmp_path, [whole], loss, recipe, states=[expected])
    assert expected.end is not None
    assert 10 < expected.end < 20
    for killed_at in (9, 25):
        model, end, loss = problem()

        def dying(step: int, loss: Any = loss, last: int = killed_at) -> tuple[Tensor, dict[str, float]]:
            if step == last:
                raise KeyboardInterrupt
            return loss(step)  # type: ignore[no-any-return]

        name = f"part {killed_at}"
        with pytest.raises(KeyboardInterrupt):
            fit(name, tmp_path, [model], dying, recipe, every=0.0, states=[end])
        model, end, loss = problem()
        fit(name, tmp_path, [model], loss, recipe, states=[end])
        assert (end.end, end.smoothed) == (expected.end, expected.smoothed)
        assert torch.equal(model.weight, whole.weight)


@pytest.mark.parametrize("until", ["never", "-1", "2.5"])
def test_a_training_without_an_end_is_refused_before_it_begins(tmp_path: Path, until: str) -> None:
    with pytest.raises(typer.BadParameter, match="until must be a step"):
        train(tmp_path / "work", until=until)
    assert not (tmp_path / "work").exists()


@pytest.mark.parametrize("until", [3, "gradient"])
def test_the_recipe_aligns_to_its_end_and_is_plain_behind_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, until: Any
) -> None:
    """The cosine is that of the formula; gradients end it where they disagree at once."""
    monkeypatch.setattr(transformer, "BATCH", 2)

    def opposed(*given: Tensor) -> Tensor:
        cosine = gradient_cosine(*given)
        assert cosine.shape == (2,)
        assert (cosine.abs() > 0).all()
        return -cosine.abs()

    monkeypatch.setattr(transformer, "gradient_cosine", opposed)
    monkeypatch.setattr(transformer, "Termination", lambda end: Termination(end, minimum=0, every=3))
    projected, seen = [], transformer.feature_loss

    def watched(guess: Tensor, features: Tensor) -> Tensor:
        loss = seen(guess, features)
        assert loss.item() == -F.cosine_similarity(guess.float(), features.float(), dim=-1).mean().item()
        projected.append(loss.item())
        return loss

    monkeypatch.setattr(transformer, "feature_loss", watched)
    data = Latents(
        torch.randn(8, 16, 64).half(), sample_scene(8, np.random.default_rng(0)), torch.randn(8, 16, 12).half()
    )
    clip, t5 = text.build_clip_tokenizer(), text.build_t5_tokenizer()
    encoders, recipe = ((clip, text.build_clip(clip)), (t5, text.build_t5(t5))), Recipe(steps=5, rate=1e-3)
    alignment = Alignment(until=until)
    _, log = train_transformer(tmp_path, data, *encoders, recipe=recipe, alignment=alignment, compiled=False)
    assert len(projected) == 3
    assert log[-1]["loss"] == log[-1]["flow"]
    assert "cosine" not in log[-1]


def test_patches_are_put_together_again() -> None:
    images = digits(5)[0]
    tokens = s.tokens_of(images)
    assert torch.equal(tokens[0, 1], images[0, :2, 2:4].flatten())
    assert torch.equal(s.images_of(tokens), images)


class Counted(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.teacher, self.calls = s.Teacher(), 0

    def forward(self, images: Tensor) -> Any:
        self.calls += 1
        return self.teacher(images)


def test_behind_the_end_the_loss_is_the_plain_one_and_no_teacher_is_called() -> None:
    images, teacher = digits()[0], Counted()
    plain = s.Training(s.Run("none", until=0), images, teacher, 20, seed=3)
    stopped = s.Training(s.Run("both", True, True, until=4), images, teacher, 20, seed=3)
    told = s.trained(stopped, [6], [2, 4, 6], lambda student: 0.0)
    assert (teacher.calls, told["calls"], told["distance"]) == (4, 4, {"6": 0.0})
    plain.student.load_state_dict(stopped.student.state_dict())
    for step in (6, 7):
        loss, other = stopped.loss(step), plain.loss(step)
        assert torch.equal(loss, other)
        gradients = (torch.autograd.grad(x, list(t.student.blocks.parameters())) for x, t in
                     ((loss, stopped), (other, plain)))  # fmt: skip
        assert all(torch.equal(a, b) for a, b in zip(*gradients, strict=True))
    assert teacher.calls == 4
    before = s.Training(s.Run("both", True, True, until=9), images, teacher, 20, seed=3)
    before.student.load_state_dict(stopped.student.state_dict())
    assert before.loss(6) != plain.loss(6)
    assert teacher.calls == 5


def test_runs_of_one_seed_begin_alike() -> None:
    images, teacher = digits()[0], s.Teacher()
    trainings = [s.Training(run, images, teacher, 10, seed=1) for run in s.runs(4)]
    for one in trainings[1:]:
        assert all(map(torch.equal, one.student.parameters(), trainings[0].student.parameters()))
        assert all(map(torch.equal, one.batch(3), trainings[0].batch(3)))
    assert not torch.equal(trainings[0].batch(3)[1], trainings[0].batch(4)[1])


def test_the_miniature_makes_its_section() -> None:
    images, labels = digits()
    scale = s.Scale(images, labels, 1)
    assert scale(images[: -s.HELD_OUT]) == pytest.approx(0, abs=1e-3)
    given: dict[str, Any] = {"at": (2, 4), "stop": 2, "samples": 100, "iterations": 1}
    found = {
        "about": {"command": "python -m research.alignment", "scikit_learn": "0"},
        "at": (2, 4), "stop": 2, "samples": 100, "eye": scale.accuracy, "floor": scale.floor,
        "seeds": [s.study(images, labels, 0, scale, **given)],
    }  # fmt: skip
    rows = found["seeds"][0]["rows"]
    assert [row["calls"] for row in rows] == [0, 4, 4, 2, 2]
    for whole, stopped in ((1, 3), (2, 4)):
        assert rows[whole]["distance"]["2"] == rows[stopped]["distance"]["2"]
    text = section(json.loads(json.dumps(found)))
    assert "| REPA + attention, stopped at 2 |" in text
    assert text.count("yes |") + text.count("**no** |") == len(list(checks(json.loads(json.dumps(found)))))


def test_missing_digits_are_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    with pytest.raises(s.NotInstalled, match="pip install scikit-learn"):
        s.digits()


@pytest.mark.skipif(not (FOLDER / "alignment.json").is_file(), reason="not measured")
def test_the_page_is_made_of_the_record() -> None:
    found = json.loads((FOLDER / "alignment.json").read_text())
    assert FOLDER.with_suffix(".md").read_text() == page()
    assert all(each["rows"][0]["calls"] == 0 for each in found["seeds"])


@pytest.mark.slow
def test_runs_on_the_reference_model_are_compared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transformer, "BATCH", 4)
    monkeypatch.setattr(shapes, "SAMPLING", 2)
    monkeypatch.setattr(shapes, "CHUNK", 8)
    eager = functools.partial(train_transformer, compiled=False)
    monkeypatch.setattr(shapes, "train_transformer", eager)
    model = load_model("shapes-flux")
    data, scale = shapes.encoded(model.pipe.vae, PatchTeacher().eval(), 8), shapes.Scale(model, 3)
    rows = shapes.compare(tmp_path, data, scale, at=(1, 2), stop=1, report=lambda note: None)
    assert [row["name"] for row in rows] == list(shapes.runs(1))
    assert [set(row["at"]) for row in rows] == [{"1", "2"}] * 4
    again = shapes.compare(tmp_path, data, scale, at=(1, 2), stop=1, report=lambda note: None)
    assert again == rows  # a command that is given twice measures once
    first = [row["at"]["1"]["distance"] for row in rows]
    assert first[2] == first[3] != first[0]  # stopped runs part later
    found: dict[str, Any] = {
        "about": {"command": "python"}, "teacher": {"shape": 0.9, "colour": 1.0, "background": 1.0}, "floor": 1.0,
        "samples": 3, "images": 8, "batch": 4, "at": (1, 2), "stop": 1, "sampling": 2, "rows": rows,
    }  # fmt: skip
    text_of = render("neighbours-alignment-shapes", **found)
    assert "| REPA + attention, stopped at 1 |" in text_of
    assert "trained anew for 2 steps of 4 images" in text_of
