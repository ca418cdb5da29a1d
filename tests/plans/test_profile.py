"""Gram matrices against explicit tensors; profiles that survive a round trip through a file."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import save_file

from skipcast.plans.gram import Shelf, combination, grams
from skipcast.plans.plan import Origin
from skipcast.plans.profile import Profile, _digest
from support.fuzz import JSON, damage, places, replaced

N, PAIRS, SHAPE = 5, 3, (4, 6)


def drawn(count: int = N + 1, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.randn(count, PAIRS, *SHAPE, generator=torch.Generator().manual_seed(0)).to(dtype)


def shelved(batches: torch.Tensor, in_memory: int | None = None) -> Shelf:
    shelf = Shelf(in_memory)
    for batch in batches:
        shelf.append(batch)
    return shelf


@pytest.mark.parametrize("in_memory", [None, 1, 2, 100])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_grams_are_means_over_elements(in_memory: int | None, dtype: torch.dtype) -> None:
    batches = drawn(dtype=dtype)
    with shelved(batches, in_memory) as shelf:
        found = grams(shelf, range(len(shelf)))
        backwards = grams(shelf, [4, 0])
        assert all(torch.equal(shelf[i], batch) for i, batch in enumerate(batches))
    exact = batches.double().flatten(2).numpy()
    expected = np.einsum("kpe,lpe->pkl", exact, exact) / 24
    np.testing.assert_allclose(found, expected, rtol=1e-12, atol=1e-14)
    np.testing.assert_allclose(backwards, expected[:, [4, 0]][:, :, [4, 0]], rtol=1e-12, atol=1e-14)


def test_only_the_newest_stay_in_memory() -> None:
    """Files go also after an exception."""
    with pytest.raises(RuntimeError), shelved(drawn(), 2) as shelf:
        folder = Path(shelf._folder.name)
        assert sorted(shelf._held) == [N - 1, N]
        assert len(list(folder.iterdir())) == N - 1
        widest = max(block.numel() for _, block in shelf.blocks(range(N + 1)))
        assert widest <= 2 * PAIRS * 24
        raise RuntimeError
    assert not folder.exists()


@pytest.mark.parametrize("in_memory", [None, 1])
def test_combinations_are_exact(in_memory: int | None) -> None:
    batches, weights = drawn().double(), np.linspace(-1, 2, N + 1)
    with shelved(batches, in_memory) as shelf:
        found = combination(shelf, range(N + 1), weights)
    torch.testing.assert_close(found, torch.einsum("k,kpij->pij", torch.from_numpy(weights), batches))


def test_a_shelf_holds_one_shape() -> None:
    shelf = shelved(drawn())
    with pytest.raises(ValueError, match="as those before"):
        shelf.append(torch.zeros(1, 2))


def profile(reference: str = "default", *, keep: bool = True) -> Profile:
    k = N + 1 if reference == "default" else 2 * N + 1
    with shelved(drawn(k)) as shelf:
        table = grams(shelf, range(k))
    origin = Origin(
        pipeline="FluxPipeline",
        scheduler="FlowMatchEulerDiscreteScheduler",
        config={"shift": 3.0, "invert_sigmas": False, "shift_terminal": None},
        steps=N,
        reference=reference,
        call={"guidance_scale": 3.5},
        prompts=("a", "b", "ä"),
        seeds=(1, 2, 3),
        shape=SHAPE,
        versions={"torch": "2"},
    )
    return Profile(
        grams=table,
        states=np.eye(N + 1, k),
        timesteps=np.linspace(1000, 1, N) / 3,
        scale=np.ones(N),
        gain=np.array([0.25, 1 / 3, 1e-300]),
        origin=origin,
        trajectory=torch.randn(PAIRS, N + 1, *SHAPE) if keep else None,
    )


@pytest.mark.parametrize("reference", ["default", "converged"])
@pytest.mark.parametrize("keep", [True, False])
def test_a_file_gives_back_every_bit(tmp_path: Path, reference: str, keep: bool) -> None:
    made = profile(reference, keep=keep)
    made.save(tmp_path / "deep" / "p.safetensors")
    read = Profile.load(tmp_path / "deep" / "p.safetensors")
    for name in ("grams", "states", "timesteps", "scale", "gain"):
        np.testing.assert_array_equal(getattr(read, name), getattr(made, name))
    assert read.origin == made.origin
    assert (read.trajectory is None) == (not keep)
    if keep:
        assert torch.equal(read.trajectory, made.trajectory)
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["p.safetensors"]


def test_refuses_files_that_are_no_profiles(tmp_path: Path) -> None:
    path = tmp_path / "p.safetensors"
    with pytest.raises(FileNotFoundError, match="skipcast profile"):
        Profile.load(path)
    profile().save(path)
    whole = path.read_bytes()
    for content in (*(whole[:cut] for cut in (0, 7, 200, len(whole) - 1)), b"a text"):
        path.write_bytes(content)
        with pytest.raises(ValueError, match="is not a profile"):
            Profile.load(path)
    save_file({"weight": torch.zeros(2)}, path)
    with pytest.raises(ValueError, match=r"its about is \{\}"):
        Profile.load(path)
    for origin in ({}, {"origin": "{}"}, {"origin": "{"}):
        about = {"format": "skipcast-profile-1", **origin}
        save_file({"grams": torch.zeros(2)}, path, metadata={"about": json.dumps(about)})
        with pytest.raises(ValueError, match="is not a profile"):
            Profile.load(path)


def tensors_of(path: Path) -> tuple[dict[str, str], dict[str, torch.Tensor]]:
    with safe_open(path, framework="pt") as file:
        return json.loads(file.metadata()["about"]), {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118


def rewritten(path: Path, about: dict[str, str], tensors: dict[str, torch.Tensor]) -> None:
    """A file whose digest is right."""
    about = {key: value for key, value in about.items() if key != "sha256"}
    save_file(tensors, path, metadata={"about": json.dumps({**about, "sha256": _digest(about, tensors)})})


@given(st.data())
def test_a_damaged_file_is_never_another_profile(tmp_path: Path, data: st.DataObject) -> None:
    """Every flipped bit of the numbers is found."""
    path, made = tmp_path / "p.safetensors", profile()
    made.save(path)
    path.write_bytes(data.draw(damage(path.read_bytes())))
    with pytest.raises(ValueError, match="is not a profile: "):
        Profile.load(path)


NUMBER = st.sampled_from([0.0, -1.0, 1e308, -1e31, 5e-324, float("inf"), float("nan"), 1e-3])


@given(st.sampled_from(["grams", "states", "timesteps", "scale", "gain", "trajectory"]), st.data())
def test_other_numbers_and_kinds_are_a_profile_or_a_value_error(tmp_path: Path, name: str, data: st.DataObject) -> None:
    path = tmp_path / "p.safetensors"
    profile().save(path)
    about, tensors = tensors_of(path)
    what = data.draw(st.sampled_from(["number", "kind", "shape", "gone", "renamed"]))
    tensor = tensors.pop(name)
    if what == "number":
        number = torch.tensor(data.draw(NUMBER), dtype=torch.float64).to(tensor.dtype)
        tensor.view(-1)[data.draw(st.integers(0, tensor.numel() - 1))] = number
    elif what == "kind":
        kinds = [torch.bfloat16, torch.float8_e4m3fn, torch.float16, torch.int64, torch.bool, torch.complex64]
        tensor = tensor.to(data.draw(st.sampled_from(kinds)))
    elif what == "shape":
        tensor = data.draw(st.sampled_from([tensor.reshape(-1), tensor[:0], tensor[None], tensor[..., 1:]]))
    if what != "gone":
        tensors[name if what != "renamed" else "other"] = tensor.contiguous()
    rewritten(path, about, tensors)
    try:
        Profile.load(path)
    except ValueError as error:
        assert str(error).startswith(f"{path} is not a profile: ")  # noqa: PT017
        assert len(str(error)) < 500  # noqa: PT017


ORIGIN = json.loads(json.dumps(profile().origin.as_dict()))


@given(st.sampled_from(places(ORIGIN)), JSON)
def test_any_other_origin_is_a_profile_or_a_value_error(tmp_path: Path, place: tuple[Any, ...], value: Any) -> None:
    path = tmp_path / "p.safetensors"
    profile(keep=False).save(path)
    about, tensors = tensors_of(path)
    rewritten(path, {**about, "origin": json.dumps(replaced(ORIGIN, place, value))}, tensors)
    try:
        Profile.load(path)
    except ValueError as error:
        assert str(error).startswith(f"{path} is not a profile: ")  # noqa: PT017
        assert len(str(error)) < 500 + len(str(path))  # noqa: PT017


def test_a_file_without_a_digest_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "p.safetensors"
    profile().save(path)
    about, tensors = tensors_of(path)
    del about["sha256"]
    save_file(tensors, path, metadata={"about": json.dumps(about)})
    with pytest.raises(ValueError, match=r"carries no digest of its numbers .*record one with `skipcast profile"):
        Profile.load(path)
    for origin in ("[" * 100_000, '{"steps": ' + "1" * 5000 + "}", '{"seed": Infinity}', "null", "[]"):
        rewritten(path, {**about, "origin": origin}, tensors)
        with pytest.raises(ValueError, match="is not a profile"):
            Profile.load(path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"grams": np.full((PAIRS, N + 1, N + 1), np.nan)}, r"Profile\(grams=...\) holds numbers that are not finite"),
        ({"grams": np.tri(N + 1)[None].repeat(PAIRS, 0)}, "must be symmetric with positive diagonals"),
        ({"grams": np.zeros((PAIRS, N + 1, N + 1))}, "must be symmetric with positive diagonals"),
        ({"gain": -np.ones(PAIRS)}, "must not be negative"),
        ({"grams": np.zeros((PAIRS, N, N))}, r"Profile\(grams=...\) must be \(3, 6, 6\)"),
        ({"gain": np.ones(2)}, r"Profile\(gain=...\) must be \(3,\)"),
        ({"states": np.eye(N)}, r"Profile\(states"),
        ({"trajectory": torch.zeros(1)}, r"Profile\(trajectory"),
        ({"grams": np.zeros((0, N + 1, N + 1)), "gain": np.ones(0)}, "holds 0 pairs"),
    ],
)
def test_refuses_what_does_not_fit_together(change: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        replace(profile(), **change)
