"""Whatever the text, the outcome is a recipe or lines that name the file or the argument."""

from __future__ import annotations

import copy
import random
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from detcli.errors import RecipeError
from detcli.recipe import dump_yaml, load_recipe, recipe_from_dict
from detcli.recipe.explain import all_keys
from tests.paths import ROOT

FILES = sorted((ROOT / "recipes").glob("*.yaml"))
TEXTS = [path.read_text(encoding="utf-8") for path in FILES]
KEYS = all_keys()
FUZZ = settings(
    max_examples=120,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)

SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(10**30), 10**30),
    st.floats(),
    st.text(max_size=8),
    st.sampled_from(
        ["1x", "atss", "fcos", "retinanet", "coco", "step", "cosine", "", "\x00", "a\nb"]
    ),
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.one_of(
        st.lists(inner, max_size=4),
        st.dictionaries(
            st.one_of(st.text(max_size=6), st.sampled_from(["name", "lr"])), inner, max_size=4
        ),
    ),
    max_leaves=8,
)


def loads_or_says_where(path: Path, *overrides: str) -> None:
    """Load; a failure must be lines that each begin with the file or an argument."""
    try:
        loaded = load_recipe(path, overrides)
    except RecipeError as error:
        lines = str(error).splitlines()
        assert lines
        for line in lines:
            assert line.startswith((f"{path}:", "argument ")), line
            assert line.isprintable(), line
    else:
        path.write_text(dump_yaml(loaded.recipe), encoding="utf-8")
        assert load_recipe(path).recipe == loaded.recipe


def nodes(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The path of everything in a nest of mappings and lists."""
    found = [path]
    items: Any = value.items() if isinstance(value, dict) else ()
    if isinstance(value, list):
        items = enumerate(value)
    for key, inner in items:
        found += nodes(inner, (*path, key))
    return found


def mutate(values: Any, value: Any, chance: random.Random) -> None:
    """Replace, rename, remove or add one thing somewhere."""
    *parents, last = chance.choice(nodes(values)[1:])
    holder = values
    for part in parents:
        holder = holder[part]
    action = chance.choice(["replace", "replace", "rename", "remove", "add"])
    if action == "replace" or isinstance(holder, list):
        holder[last] = value
    elif action == "rename":
        holder[str(last)[:-1] + chance.choice("aeiou")] = holder.pop(last)
    elif action == "remove":
        del holder[last]
    else:
        holder[chance.choice(KEYS).rsplit(".", 1)[-1]] = value


@FUZZ
@given(st.sampled_from(TEXTS), st.lists(VALUES, min_size=1, max_size=3), st.randoms())
def test_mutated_recipes_load_or_fail_in_named_lines(
    tmp_path: Path, text: str, new: list[Any], chance: random.Random
) -> None:
    values = copy.deepcopy(yaml.safe_load(text))
    for value in new:
        mutate(values, value, chance)
    path = tmp_path / "fuzz.yaml"
    path.write_text(yaml.safe_dump(values, allow_unicode=False), encoding="utf-8")
    loads_or_says_where(path)
    try:
        recipe_from_dict(values, "run/last.pt")
    except RecipeError as error:
        lines = str(error).splitlines()
    else:
        lines = ["run/last.pt: "]
    assert lines
    assert [line for line in lines if not line.startswith("run/last.pt: ")] == []


@FUZZ
@given(st.sampled_from(TEXTS), st.integers(0, 4000), st.integers(0, 40), st.binary(max_size=12))
def test_damaged_text_loads_or_fails_in_named_lines(
    tmp_path: Path, text: str, start: int, length: int, new: bytes
) -> None:
    content = text.encode()
    start %= len(content)
    path = tmp_path / "fuzz.yaml"
    path.write_bytes(content[:start] + new + content[start + length :])
    loads_or_says_where(path)


@FUZZ
@given(st.sampled_from(TEXTS), st.floats(0, 1))
def test_truncated_text_loads_or_fails_in_named_lines(
    tmp_path: Path, text: str, share: float
) -> None:
    path = tmp_path / "fuzz.yaml"
    path.write_text(text[: int(len(text) * share)], encoding="utf-8")
    loads_or_says_where(path)


@FUZZ
@given(st.one_of(st.binary(max_size=200), st.text(max_size=200).map(str.encode)))
def test_random_bytes_fail_in_lines_that_name_the_file(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "fuzz.yaml"
    path.write_bytes(content)
    with pytest.raises(RecipeError) as caught:
        load_recipe(path)
    assert str(caught.value).startswith(f"{path}:")


ARGUMENTS = st.one_of(
    st.text(max_size=30),
    st.builds("{}={}".format, st.sampled_from(KEYS), st.text(max_size=10)),
    st.builds(
        "{}={}".format,
        st.sampled_from([*KEYS, "model", "train.ema", "data.augment", "model.assigner", "optim.x"]),
        VALUES.map(lambda value: yaml.safe_dump(value, default_flow_style=True)),
    ),
)


@FUZZ
@given(st.sampled_from(TEXTS), st.lists(ARGUMENTS, min_size=1, max_size=4))
def test_random_overrides_load_or_fail_in_named_lines(
    tmp_path: Path, text: str, arguments: list[str]
) -> None:
    path = tmp_path / "fuzz.yaml"
    path.write_text(text, encoding="utf-8")
    loads_or_says_where(path, *arguments)


@FUZZ
@given(st.text(max_size=300))
def test_random_names_fail_in_one_line(name: str) -> None:
    with pytest.raises(RecipeError) as caught:
        load_recipe(f"absent {name}")
    assert len(str(caught.value).splitlines()) == 1
