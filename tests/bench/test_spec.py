"""A spec is read whole or refused at its line."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml  # type: ignore[import-untyped]
from hypothesis import given
from hypothesis import strategies as st

from skipcast.bench.grid import cells, derived_seed, requested, states
from skipcast.bench.rows import check
from skipcast.bench.run import size
from skipcast.bench.spec import read_spec
from support.fuzz import JSON, damage

BOMB = "a0: &a0 [x, y]\n" + "".join(f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]\n" for i in range(1, 9))
EXAMPLE = Path(__file__).parents[2] / "research" / "specs" / "shapes-flux.yaml"


def test_the_example_is_a_grid_in_its_stated_order() -> None:
    spec = read_spec(EXAMPLE)
    found = states(spec)
    assert [state.label for state in found] == ["shapes-flux, default scheduler, 50 steps, guidance 2"]
    rows, left = requested(spec, found[0])
    assert not left
    assert size(spec).cells == (len(rows) + 2) * 4 * 4
    labels = [(cell.pairs[0].index, cell.pairs[0].number, cell.row.label) for cell in cells(spec, found[0], rows)]
    assert [label for _, _, label in labels[:2]] == ["converged", "reference"]
    assert [place[:2] for place in labels] == sorted(place[:2] for place in labels)
    assert pickle.loads(pickle.dumps(spec)) == spec


def test_digests_tell_all_cells_apart_and_stay(grid: Path) -> None:
    spec = read_spec(grid)
    (state,) = states(spec)
    rows, _ = requested(spec, state)
    made = [cell.digest for cell in cells(spec, state, rows)]
    assert len(set(made)) == len(made) == 5 * 4
    assert made == [cell.digest for cell in cells(read_spec(grid), states(read_spec(grid))[0], rows)]


def test_seeds_depend_on_the_run_seed_and_the_prompt_alone(write: Callable[[str], Path]) -> None:
    one = read_spec(write("models: [tiny]\nprompts: [a, b]\nseeds: 2\n"))
    more = read_spec(write("models: [tiny]\nprompts: [c, b, a]\nseeds: 3\n"))

    def drawn(spec: object) -> dict[tuple[str, int], int]:
        (state,) = states(spec)  # type: ignore[arg-type]
        return {(c.pairs[0].prompt, c.pairs[0].number): c.pairs[0].seed for c in cells(spec, state, [])}  # type: ignore[arg-type]

    assert drawn(one).items() <= drawn(more).items()
    assert len(set(drawn(more).values())) == 9
    assert derived_seed(0, "a", 0) != derived_seed(1, "a", 0)
    assert 0 <= derived_seed(0, "a", 0) < 2**48


@pytest.mark.parametrize(
    "text, line, words",
    [
        ("", 1, "empty"),
        ("models: [tiny\nsteps: [5]\n", 2, "not YAML"),
        ("models: [tiny]\n\tsteps: 5\n", 2, "not YAML"),
        ("- tiny\n", 1, "must be a mapping"),
        ("steps: [5]\n", 1, "`models` is missing"),
        ("models: [tiny]\nstep: [5]\n", 2, "Did you mean 'steps'?"),
        ("models: [tiny]\nseeds: 1\nseeds: 2\n", 3, "given twice"),
        ("models: [tiny]\n3: 4\n", 2, "must be a text"),
        ("models: [tiny, 3]\n", 1, "model must be a valid string, got 3"),
        ("models:\n  model: tiny\n  size: 4\n", 3, "size must be greater than or equal to 8, got 4"),
        ("models: [tiny]\ncall:\n  a: 1\n  a: 2\n", 4, "given twice"),
        ("models: [tiny]\ncall:\n  a: 1\n  b: [2]\n", 4, "b must be a plain value"),
        ("models: [tiny]\ncall:\n  a: 1\n  prompt: x\n", 4, "prompt is set for every image; give prompts"),
        ("models: [tiny]\ncall: {num_inference_steps: 3}\n", 2, "give steps"),
        ("models: [tiny]\ncall: {output_type: pil}\n", 2, "output_type is set"),
        ("models: [tiny]\nmethods: []\n", 2, "methods is empty"),
        ("models: [tiny]\ntiming: 3\n", 2, "timing must be a mapping"),
        ("models: [tiny]\nbudgets: [1]\nseeds: 0\nsteps: [1]\n", 3, "seeds"),
        ("models: [tiny]\nschedulers: [3]\n", 2, "unknown schedulers: '3'"),
        ("models: &all [*all]\n", 1, "or itself, by its aliases"),
        ("a: &a [1, 2]\nb: [*a]\nmodels: tiny\n", 1, "unknown key of the spec: 'a'"),
        ("a: &a {seeds: 1}\n<<: *a\nmodels: tiny\n", 1, "unknown key of the spec: 'a'"),
        (BOMB, 6, "more than the 100000 values"),
        (BOMB.replace("[*", "{<<: [*").replace("]\n", "]}\n").replace("y]}", "y]"), 6, "more than the 100000 values"),
        ("models: tiny\nseeds: " + "9" * 5000 + "\n", 2, "is no value (Exceeds the limit"),
        ("models: tiny\nseeds: 2026-13-45\n", 2, "'2026-13-45' is no value (month"),
        ("models: tiny\nseeds: 1_000_001\n", 2, "less than or equal to 1000000"),
        ("models: tiny\nsteps: [8, 1000000000000]\n", 2, "less than or equal to 10000"),
        ("models: tiny\nguidance: [.nan]\n", 2, "guidance must be"),
        ("models: tiny\nguidance: .inf\n", 2, "guidance must be"),
        ("models: tiny\ncall: {a: .inf}\n", 2, "a must be a plain value"),
        ("models: tiny\nseed: 99999999999999999999\n", 2, "seed must be"),
        ("models: " + "x" * 100_000 + "\n", 1, "no model 'xxxx"),
        ("models:\n  model: tiny\n  ? " + "k" * 100_000 + "\n  : 1\n", 3, "unknown key of"),
        ("models: [tiny]\nmetrics: [" + "p" * 100_000 + "]\n", 2, "unknown metrics: 'pppp"),
        ("models: [tiny]\nprompts: {file: " + "p" * 100_000 + "}\n", 2, "File name too long"),
        ("models: [tiny]\nplans: [" + "p" * 5_000 + "]\n", 2, "File name too long"),
        ("? [a, b]\n: 1\n", 1, "not YAML"),
        ("models: tiny\nx: " + "[" * 5_000 + "\n", 1, "not YAML"),
        ("models: [tiny]\nseeds: 0\n", 2, "seeds must be greater than or equal to 1, got 0"),
        ("models: [tiny]\nseeds: many\n", 2, "seeds must be a valid integer, got 'many'"),
        ("models: [tiny]\nsteps:\n  - 8\n  - true\n", 4, "steps must be a valid integer, got True"),
        ("models: [tiny]\nsteps: [8, 8]\n", 2, "twice"),
        ("models: [tiny]\nsteps: []\n", 2, "steps"),
        ("models: [tiny]\nsteps: [8]\nbudgets: [9]\n", 3, "more than the 8 steps"),
        ("models: [tiny]\nmetrics:\n  - psnr\n  - pnsr\n", 4, "Did you mean 'psnr'?"),
        ("models: [tiny]\nmethods:\n  - euler\n  - resilfase\n", 4, "resilphase"),
        ("models: [tiny]\nsteps: [6]\nbudgets: [2]\nmethods:\n  - resilphase\n", 5, "warm-up"),
        ("models: [tiny]\nplans:\n  - missing.plan.json\n", 3, "missing.plan.json"),
        ("models: [tiny]\nschedulers: [EulerDiscretScheduler]\n", 2, "EulerDiscreteScheduler"),
        ("models: [tiny]\nschedulers:\n  - default\n  - {shfit: 2.0}\n", 4, "Did you mean 'shift'?"),
        ("models: [tiny]\nprompts: {file: none.txt}\n", 2, "none.txt"),
        ("models: [tiny]\nconverged_steps: 60\n", 2, "at least twice"),
        ("models: [tiny]\ntiming: {repeat: 3}\n", 2, "'repeats'"),
        ("models:\n  - tiny\n  - nowhere\n", 3, "nor a folder"),
        ("models: [tiny]\nguidance: [high]\n", 2, "guidance must be a valid number, got 'high'"),
        ("models: [tiny]\nbatch: 0\n", 2, "batch must be greater than or equal to 1, got 0"),
        ("models: [tiny]\nbatch: [4]\n", 2, "batch must be a valid integer, got [4]"),
        ("models: [tiny]\nseeds: 2\nimages: some\n", 3, "images must be a valid boolean, got 'some'"),
        ("models: [tiny]\nfps: 0\n", 2, "fps must be greater than or equal to 1, got 0"),
        ("models: [tiny]\nsamples: some\n", 2, "references, all"),
        ("models:\n  - {model: tiny, dtype: float61}\n", 2, "Did you mean 'float16'?"),
    ],
)
def test_errors_name_file_and_line(write: Callable[[str], Path], text: str, line: int, words: str) -> None:
    path = write(text)
    with pytest.raises(ValueError) as caught:
        check(read_spec(path))
    assert str(caught.value).startswith(f"{path}, line {line}: ")
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 1500


WORDS = st.sampled_from(
    ["models", "steps", "seeds", "tiny", "call", "plans", "methods", "prompts", "file", "metrics", "timing", "guidance",
     "schedulers", "budgets", "euler", "psnr", "8", "-1", ".nan", ".inf", "1e400", "9" * 400, "9" * 5000, "2026-13-45",
     "12:30:99", "&a", "*a", "<<", "!!python/object:os.system", "!!binary", "!!set", "!!float", "~", "true", "0xff",
     "[", "]", "{", "}", ",", "?", "|", ">", "%", "@", "'", "\0", "\u2028", "\ufeff", "\u00e9", "\t", "---", "x" * 3000]
)  # fmt: skip
VALID = "models: tiny\nsteps: [8, 9]\nseeds: 2\ncall: {a: 1}\nprompts: [a, b]\nmetrics: [psnr]\n"


GAPS = st.sampled_from([": ", "\n", " ", "\n- ", "\n  "])


@given(st.lists(WORDS, max_size=9), st.lists(GAPS, min_size=9, max_size=9))
def test_any_text_is_a_spec_or_told_by_line(tmp_path: Path, words: list[str], between: list[str]) -> None:
    path = tmp_path / "grid.yaml"
    path.write_text(VALID + "".join(word + gap for word, gap in zip(words, between, strict=False)), encoding="utf-8")
    told(path)


@given(st.data())
def test_a_damaged_spec_is_a_spec_or_told_by_line(tmp_path: Path, data: st.DataObject) -> None:
    path = tmp_path / "grid.yaml"
    path.write_bytes(data.draw(damage(VALID.encode())))
    told(path)


@given(st.sampled_from([line.partition(":")[0] for line in VALID.splitlines()]), JSON)
def test_any_other_value_is_a_spec_or_told_by_line(tmp_path: Path, key: str, value: Any) -> None:
    path = tmp_path / "grid.yaml"
    path.write_text(yaml.safe_dump({**yaml.safe_load(VALID), key: value}), encoding="utf-8", errors="surrogateescape")
    told(path)


def told(path: Path) -> None:
    """Read a spec whose model is nowhere: all of it is looked at before that is said."""
    with pytest.raises(ValueError) as caught:
        read_spec(path)
    assert str(caught.value).startswith(f"{path}, line "), caught.value
    assert len(str(caught.value)) < 1500 + len(str(path))
    assert "\n" not in str(caught.value)


def test_missing_weights_are_named_at_the_model(write: Callable[[str], Path], tmp_path: Path) -> None:
    path = write("seeds: 1\nmodels:\n  - hollow\n")
    (tmp_path / "hollow" / "transformer").mkdir(parents=True)
    with pytest.raises(ValueError, match=r"grid.yaml, line 3: .*model_index.json is missing"):
        check(read_spec(path))
    (tmp_path / "hollow" / "model_index.json").write_text("{}")
    (tmp_path / "hollow" / "transformer" / "config.json").write_text("{}")
    with pytest.raises(ValueError, match=r"grid.yaml, line 3: the weights of .*transformer are missing"):
        check(read_spec(path))


def test_a_file_that_is_no_text_is_refused(write: Callable[[str], Path]) -> None:
    path = write("")
    path.write_bytes(b"models: [tiny]\n# \xff\n")
    with pytest.raises(ValueError, match="line 2: not UTF-8"):
        check(read_spec(path))
