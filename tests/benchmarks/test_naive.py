"""Check that the notebook's loops and fastncf hold out the same items, find the same hits, and are as good."""

import numpy as np
import pytest
import torch

import fastncf
from benchmarks import naive
from fastncf.data.interactions import read_interactions
from fastncf.data.split import leave_one_out
from fastncf.evaluation.candidates import CandidateLists
from fastncf.evaluation.ranking import on_device, rank_candidates


@pytest.fixture(scope="module")
def frame(data_dir):
    return naive.read(data_dir / "ml-100k" / "u.data")


@pytest.fixture(scope="module")
def trained(frame):
    """Return the data, model and lists of the loops after one epoch on a tenth of the users."""
    random = np.random.RandomState(0)
    data = naive.Ratings(frame, 0.1, random)
    model, _ = naive.train(data, 1, random)
    return data, model, naive.candidates(data, random)


def test_both_evaluators_find_the_same_hits(trained):
    _, model, lists = trained
    users, positives = (np.array(column, np.int32) for column in zip(*lists, strict=True))
    negatives = np.array(list(lists.values()), np.int32)
    ranks = rank_candidates(model, on_device(CandidateLists(users, positives, negatives), torch.device("cpu")))
    assert (ranks < 10).int().tolist() == naive.hits(model, lists)


def test_both_splits_hold_out_the_same_items(trained):
    data = trained[0]
    interactions = read_interactions(data.ratings)
    split = leave_one_out(interactions)
    users = np.arange(split.num_users)
    assert dict(zip(interactions.users.decode(users), interactions.items.decode(split.test_item), strict=True)) == dict(
        zip(data.test["userId"], data.test["movieId"], strict=True)
    )


def test_the_notebook_recipe_and_the_literal_loops_agree(frame):
    """Compare HR@10 over seeds: a mean of three has a standard error near .015, so .05 is 2.4 of their difference."""
    seeds, fraction = range(3), 0.4
    literal = [naive.run(frame, fraction=fraction, epochs=5, seed=seed)[0] for seed in seeds]
    ours = [
        fastncf.fit(frame, config=fastncf.Config.notebook(seed=seed, user_fraction=fraction, device="cpu"))
        for seed in seeds
    ]
    assert np.mean(literal) == pytest.approx(np.mean([rec.metrics["hr@10"] for rec in ours]), abs=0.05)
    assert 0.35 < np.mean(literal) < 0.46
