"""Models that earlier versions saved load, and rank and recommend as they did then."""

import json
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import get_args, get_type_hints

import pytest

import fastncf
from fastncf.persistence.description import _Plain
from fastncf.persistence.folder import FORMAT

SAVED = Path(__file__).parent / "golden" / "saved"
NAMES = sorted(path.parent.name for path in SAVED.glob("*/fastncf.json"))


@pytest.fixture(params=NAMES)
def loaded(request):
    """A recommender and what its version said of it."""
    return fastncf.load(SAVED / request.param), json.loads((SAVED / request.param / "expected.json").read_text())


def names_in(kind, prefix=""):
    """Names of all that a description holds: of the fields of a dataclass, and of those within them."""
    for field in fields(kind):
        yield (name := f"{prefix}{field.name}")
        hint = get_type_hints(kind)[field.name]
        for inner in (hint, *get_args(hint)):
            if is_dataclass(inner):
                yield from names_in(inner, f"{name}.")


def test_a_format_has_the_names_that_it_had_when_it_was_new():
    """A model of the same format that lacks a name is refused: for a new name, raise FORMAT and record the names."""
    recorded = json.loads((SAVED / "names.json").read_text())
    assert recorded == {"format": FORMAT, "names": sorted(names_in(_Plain))}


def test_models_are_there():
    assert NAMES == ["format3", "given", "mf", "mlp", "neumf", "popularity"]


def test_metrics_are_those_of_before(loaded):
    rec, expected = loaded
    assert rec.metrics == expected["metrics"]
    assert rec.evaluate().metrics == pytest.approx(expected["metrics"])


def test_recommendations_are_those_of_before(loaded):
    rec, expected = loaded
    users, items, scores, ranks = zip(*expected["recommend"], strict=True)
    frame = rec.recommend(list(dict.fromkeys(users)), k=5)
    assert list(zip(frame["user"], frame["item"], frame["rank"], strict=True)) == list(
        zip(users, items, ranks, strict=True)
    )
    assert frame["score"].to_list() == pytest.approx(scores, rel=1e-4)


def test_a_model_of_before_is_the_same_when_it_is_saved_again(loaded, tmp_path):
    rec, expected = loaded
    rec.save(tmp_path / "again")
    again = fastncf.load(tmp_path / "again")
    assert again.evaluate().metrics == pytest.approx(expected["metrics"])
    assert again.recommend(rec.users.ids[0], k=5).equals(rec.recommend(rec.users.ids[0], k=5))
