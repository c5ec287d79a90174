"""Vectors in a page: as exact as the size allows."""

import base64

import numpy as np
import pytest

from fastncf.report.tables import pack_tables, quantize


def decode(data: dict) -> np.ndarray:
    """Return the table that the script of a page makes."""
    values = np.frombuffer(
        base64.b64decode(data["values"]), dtype={"float32": "<f4", "int16": "<i2", "int8": "i1"}[data["dtype"]]
    )
    vectors = values.reshape(-1, data["dim"]).astype(np.float32)
    if "scale" in data:
        vectors *= np.frombuffer(base64.b64decode(data["scale"]), dtype="<f4")[:, None]
    return vectors


@pytest.fixture
def vectors() -> np.ndarray:
    generator = np.random.default_rng(0)
    vectors = generator.normal(size=(100, 16)) * generator.lognormal(size=(100, 1))
    vectors[5] = 0
    return vectors.astype(np.float32)


@pytest.mark.parametrize(
    ("max_bytes", "dtype", "kept", "error"),
    [(6400, "float32", 100, 0), (6399, "int16", 100, 2**-15), (3599, "int8", 100, 2**-7), (1000, "int8", 50, 2**-7)],
)
def test_the_most_exact_form_that_fits(vectors, max_bytes, dtype, kept, error):
    counts = np.random.default_rng(1).integers(0, 1000, 100)
    packed = pack_tables([vectors], counts, max_bytes)
    assert packed.dtype == packed.data[0]["dtype"] == dtype
    assert len(packed.items) == kept
    assert (np.diff(packed.items) > 0).all()
    assert counts[packed.items].min() >= np.delete(counts, packed.items).max(initial=0)
    chosen = vectors[packed.items]
    assert (np.abs(decode(packed.data[0]) - chosen) <= error * np.abs(chosen).max(axis=1, keepdims=True)).all()
    assert (
        sum(len(base64.b64decode(packed.data[0][name])) for name in ("values", "scale") if name in packed.data[0])
        <= max_bytes
    )


def test_several_vectors_of_an_item_have_scales_of_their_own(vectors):
    counts = np.arange(50)
    packed = pack_tables([vectors.reshape(50, 2, 16)], counts, 3600)
    assert (packed.dtype, packed.data[0]["each"], len(packed.items)) == ("int16", 2, 50)
    assert (np.abs(decode(packed.data[0]) - vectors) <= 2**-15 * np.abs(vectors).max(axis=1, keepdims=True)).all()
    assert pack_tables([vectors.reshape(50, 2, 16)], counts, 1000).items.tolist() == list(range(25, 50))


def test_what_is_lost_is_said(vectors):
    counts = np.arange(100)
    assert pack_tables([vectors], counts, 6400).describe(100) == ""
    assert "rounded to 16 bits" in pack_tables([vectors], counts, 6000).describe(100)
    assert "only the 50 of 100 items with the most interactions" in pack_tables([vectors], counts, 1000).describe(100)


def test_needed_items_are_kept_whatever_their_interactions(vectors):
    packed = pack_tables([vectors], np.arange(100), 1000, np.array([3, 7, 3]))
    assert packed.items.tolist() == [3, 7, *range(52, 100)]
    assert "only 50 of 100 items are here, 2 that stand for the negatives" in packed.describe(100)
    assert len(pack_tables([vectors], np.arange(100), 1000, np.arange(60)).items) == 60


@pytest.mark.parametrize("bits", [8, 16])
def test_quantize_uses_the_whole_range(vectors, bits):
    integers, scale = quantize(vectors, bits)
    assert integers.dtype.itemsize * 8 == bits
    assert set(np.abs(integers).max(axis=1)) == {0, 2 ** (bits - 1) - 1}
    assert scale[5] == 0


def test_tables_of_several_widths_share_their_items_and_their_form(vectors):
    counts = np.arange(100)
    packed = pack_tables([vectors, vectors[:, None, :8]], counts, 6000)
    assert [data["dtype"] for data in packed.data] == ["int16"] * 2
    assert [data["dim"] for data in packed.data] == [16, 8]
    assert len(pack_tables([vectors, vectors[:, :8]], counts, 2000).items) == 2000 // (16 + 4 + 8 + 4)
