"""What describes a store, a checkpoint or a configuration may hold anything; refusals are lines."""

import copy
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from diffplan.config.config import Config, config_from_dict, config_to_dict
from diffplan.data.episodes import Episodes
from diffplan.data.header import read_json
from diffplan.data.info import ObservationLayout
from diffplan.errors import DiffplanError

ANYTHING: st.SearchStrategy[Any] = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(10**20), 10**20)
    | st.floats()
    | st.text(max_size=4)
    | st.sampled_from([[], {}, -1, 0, 1e308, "auto", "none"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=4,
)
MANY = settings(max_examples=50, suppress_health_check=[HealthCheck.function_scoped_fixture])


def outcome(do: Callable[[], Any]) -> Any:
    """What comes of it, or the one line in which it is refused."""
    try:
        return do()
    except DiffplanError as error:
        assert "\n" not in str(error)
        return str(error)


def places(tree: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Paths to every entry of nested dictionaries and lists."""
    inner = tree.items() if isinstance(tree, dict) else enumerate(tree)
    found = []
    for key, value in inner:
        found.append((*path, key))
        if isinstance(value, dict | list):
            found += places(value, (*path, key))
    return found


def changed(tree: Any, path: tuple[Any, ...], value: Any) -> Any:
    tree = copy.deepcopy(tree)
    inner = tree
    for key in path[:-1]:
        inner = inner[key]
    inner[path[-1]] = value
    return tree


@MANY
@given(data=st.data(), value=ANYTHING)
def test_any_entry_of_a_configuration(data: st.DataObject, value: Any) -> None:
    plain = config_to_dict(Config())
    path = data.draw(st.sampled_from(places(plain)))
    found = outcome(lambda: config_from_dict(changed(plain, path, value)))
    assert isinstance(found, Config | str)


@MANY
@given(data=st.data(), value=ANYTHING)
def test_any_entry_of_a_store(
    tmp_path: Path, tiny_episodes: Episodes, data: st.DataObject, value: Any
) -> None:
    store = tmp_path / "store"
    if not store.exists():
        tiny_episodes.save(store)
        (tmp_path / "plain.json").write_text((store / "episodes.json").read_text())
    plain = json.loads((tmp_path / "plain.json").read_text())
    path = data.draw(st.sampled_from(places(plain)))
    (store / "episodes.json").write_text(json.dumps(changed(plain, path, value)))
    found = outcome(lambda: Episodes.load(store).validate())
    assert isinstance(found, Episodes | str)


@MANY
@given(data=st.data(), at=st.integers(0, 10**6), value=st.integers(0, 255))
def test_any_byte_of_a_store(
    tmp_path: Path, tiny_episodes: Episodes, data: st.DataObject, at: int, value: int
) -> None:
    store = tmp_path / "store"
    if not store.exists():
        tiny_episodes.save(store)
    file = data.draw(st.sampled_from(sorted(store.iterdir())))
    whole = file.read_bytes()
    # headers are where the damage tells
    at %= min(len(whole), 200)
    file.write_bytes(whole[:at] + bytes([value]) + whole[at + 1 :])
    try:
        found = outcome(lambda: Episodes.load(store).validate())
    finally:
        file.write_bytes(whole)
    assert isinstance(found, Episodes | str)


@MANY
@given(given=ANYTHING | st.lists(st.floats(), min_size=3, max_size=3).map(np.array))
@pytest.mark.parametrize(
    "layout",
    [
        ObservationLayout(3),
        ObservationLayout(3, offset=(0.0, 1.7e9, 0.0)),
        ObservationLayout(3, 1, (2,), (), ("observation",), (0.0, 0.0, 4.5e6)),
    ],
)
def test_any_observation(layout: ObservationLayout, given: Any) -> None:
    if layout.dict_keys:
        given = {"observation": given, "desired_goal": given}
    found = outcome(lambda: layout.split(given))
    if not isinstance(found, str):
        assert found[0].shape[-1] == 3 and np.isfinite(found[0]).all()


def test_json_is_read_from_a_regular_file_of_a_bounded_size(tmp_path: Path) -> None:
    file = tmp_path / "config.json"
    for text, message in (
        ("[" * 100_000, "damaged or not JSON"),
        ("1" * 10_000, "damaged or not JSON"),
        ("{}" + " " * (1 << 24), "bytes, expected at most"),
    ):
        file.write_text(text)
        assert message in outcome(lambda: read_json(file))
    file.unlink()
    os.mkfifo(file)  # reading it would wait for ever
    assert "no regular file" in outcome(lambda: read_json(file))
