"""Every protocol from outside: popularity's figures beside those of plain Python, on files in the shapes of papers."""

import math
from collections import Counter
from fractions import Fraction

import numpy as np
import polars as pl
import pytest

import fastncf
from fastncf.data.csr import Rows
from fastncf.data.holdout import Holdout, count_of_share
from fastncf.errors import ConfigError, DataError, UnusedSettingWarning
from tests.plain_protocols import from_time, histories, last_items, popularity_metrics, unseen, validated_from_time

pytestmark = pytest.mark.filterwarnings("ignore:validation=True. no effect")  # popularity, of whose split they tell

NAMES = ("hr", "ndcg", "mrr", "recall", "precision", "map")


def random_rows(seed: int = 0, rows: int = 900, users: int = 40, items: int = 60) -> list[tuple[int, int, int]]:
    """Rows with repeated pairs and many equal times; some items are far more popular than others."""
    generator = np.random.default_rng(seed)
    columns = (
        generator.integers(0, users, rows),
        (items * generator.random(rows) ** 2).astype(int),
        generator.integers(0, 200, rows),
    )
    return list(zip(*(column.tolist() for column in columns), strict=True))


ROWS = random_rows()
FRAME = pl.DataFrame(ROWS, schema=["user", "item", "time"], orient="row")
CATALOGUE = {item for _, item, _ in ROWS}


def check(rec: fastncf.Recommender, train: dict, test: dict, catalogue: set[int], k: int = 10) -> None:
    """Popularity's metrics in the whole catalogue, and its figures beside them, are those of plain Python."""
    counts = Counter(item for items in train.values() for item in items)
    expected = popularity_metrics(counts, test, unseen(catalogue, train, test), k)
    for name, value in expected.items():
        label = f"full/{name}" if name == "mrr" else f"full/{name}@{k}"
        assert rec.metrics[label] == pytest.approx(value, abs=1e-12), label
        assert rec.popularity[label] == pytest.approx(value, abs=1e-12)
    assert len(rec.evaluate().tables["full/"].values[f"hr@{k}"]) == len(test)
    assert f"{len(test)} users" in rec.protocol


def popular(data, **settings) -> fastncf.Recommender:
    return fastncf.fit(data, model="popularity", full_ranking=True, metrics=NAMES, **settings)


@pytest.mark.parametrize("ties", ["first", "last"])
@pytest.mark.parametrize("holdout", ["one", 3, 0.2, 0.5])
def test_the_last_items_of_each_user(holdout, ties):
    train, test = last_items(ROWS, 1 if holdout == "one" else holdout, ties)
    rec = popular(FRAME, holdout=holdout, ties=ties)
    check(rec, train, test, CATALOGUE)
    assert f"the {ties} row among equal times" in rec.protocol


def test_ties_change_what_is_held_out():
    metrics = [popular(FRAME, ties=ties).metrics for ties in ("first", "last")]
    assert metrics[0] != metrics[1]


def test_random_items_of_each_user():
    rec = popular(FRAME, holdout=0.3, split="random", seed=3)
    split, sizes = rec.split, {user: len(items) for user, items in histories(ROWS).items()}
    train = {u: split.indices[split.indptr[u] : split.indptr[u + 1]].tolist() for u in range(split.num_users)}
    test = {u: row.tolist() for u, row in enumerate(np.split(split.test_rows.items, split.test_rows.indptr[1:-1]))}
    for u, user in enumerate(rec.users.ids):
        assert len(test[u]) == max(1, math.floor(0.3 * sizes[user] + 0.5))
        assert not set(test[u]) & set(train[u])
        assert len(train[u]) + len(test[u]) == sizes[user]
    check(rec, train, test, set(range(split.num_items)))
    again, other = (popular(FRAME, holdout=0.3, split="random", seed=seed) for seed in (3, 4))
    assert again.metrics == rec.metrics != other.metrics


@pytest.mark.parametrize("before", [150, "150", 150.0, "149.5"])
def test_a_point_in_time(before):
    train, test, later = from_time(ROWS, 150)
    rec = popular(FRAME, before=before)
    check(rec, train, test, CATALOGUE)
    assert rec.data["num_users_later"] == len(later)
    unknown = CATALOGUE - {item for items in train.values() for item in items}
    assert rec.data["num_items_unknown"] == len(unknown)
    assert rec.data["num_test_items_unknown"] == sum(item in unknown for items in test.values() for item in items)


def test_users_and_items_that_exist_only_later_are_counted_and_join_a_refit(tmp_path):
    rows = [(u, u + i, i) for u in range(6) for i in range(4)]
    rows += [(7, 1, 100), (7, 99, 101), (0, 99, 100), (1, 5, 100), (1, 1, 101)]
    frame = pl.DataFrame(rows, schema=["user", "item", "time"], orient="row")
    rec = fastncf.fit(frame, model="popularity", before=100)
    assert (rec.data["num_users_later"], rec.data["num_items_unknown"], rec.data["num_test_repeated"]) == (1, 1, 1)
    assert rec.data["num_test_items_unknown"] == 1
    assert "1 later user without an earlier interaction, not tested" in rec.protocol
    assert 7 not in rec.users.ids.to_list()
    rec.save(tmp_path / "model")
    loaded = fastncf.load(tmp_path / "model")
    assert loaded.evaluate() == rec.evaluate()
    loaded.refit()
    assert 7 in loaded.users.ids.to_list()
    pairs = {(u, i) for u, i, _ in rows}
    seen = loaded.recommend(7, k=50)["item"].to_list()
    assert set(seen).isdisjoint({1, 99})
    assert len(loaded.split.indices) == len(pairs)


@pytest.mark.parametrize("share", ["75%", "90 %", "12.5%", "7%"])
def test_a_share_of_all_interactions(share):
    """In floating point .07 of 900 rows are more than 63."""
    times = sorted(time for _, _, time in ROWS)
    point = times[math.ceil(Fraction(share.rstrip("% ")) * len(times) / 100)]
    train, test, _ = from_time(ROWS, point)
    check(popular(FRAME, before=share), train, test, CATALOGUE)


def test_shares_are_those_of_decimal_numbers():
    """In floating point .29 of 50 are less than 14.5."""
    assert Holdout(rule="latest", amount=0.29).count_of(50) == 15
    assert [count_of_share(0.29, 50), count_of_share(0.07, 50), count_of_share(1e-9, 3)] == [15, 4, 0]


DAY = 86_400
DATES = [(u, i, 1_600_000_000 + t * DAY) for u, i, t in random_rows(seed=5, rows=500)]


@pytest.mark.parametrize("form", ["unix", "milliseconds", "text", "datetime", "zone", "yyyymmdd", "float", "day first"])
def test_points_in_time_of_all_kinds_of_columns(form):
    """The same rows are held out from 2020-12-22, whatever the times are written as."""
    seconds = pl.Series([time - time % DAY for _, _, time in DATES])
    moments = pl.from_epoch(seconds)
    column = {
        "unix": seconds,
        "milliseconds": seconds * 1000,
        "text": moments.dt.strftime("%Y-%m-%d %H:%M"),
        "datetime": moments,
        "zone": moments.dt.replace_time_zone("UTC").dt.convert_time_zone("Asia/Tokyo"),
        "yyyymmdd": moments.dt.strftime("%Y%m%d").cast(pl.Int64),
        "float": seconds.cast(pl.Float64),
        "day first": moments.dt.strftime("%d.%m.%Y"),
    }[form]
    frame = pl.DataFrame({"user": [u for u, _, _ in DATES], "item": [i for _, i, _ in DATES], "time": column})
    point = 1_608_595_200
    rows = [(u, i, time) for (u, i, _), time in zip(DATES, seconds.to_list(), strict=True)]
    train, test, _ = from_time(rows, point)
    check(popular(frame, before="2020-12-22"), train, test, {i for _, i, _ in DATES})


@pytest.mark.parametrize(("holdout", "ties"), [("one", "first"), (0.4, "last")])
def test_users_who_are_left_out(holdout, ties):
    rec = popular(FRAME, test_users=0.25, holdout=holdout, ties=ties, seed=2)
    train, test = last_items(ROWS, 1 if holdout == "one" else holdout, ties)
    drawn = set(rec.split.others.users.ids.to_list())
    assert len(drawn) == 10
    assert drawn.isdisjoint(rec.users.ids.to_list())
    counts = Counter(item for user, items in histories(ROWS).items() if user not in drawn for item in items)
    test = {user: items for user, items in test.items() if user in drawn}
    expected = popularity_metrics(counts, test, unseen(CATALOGUE, train, test), 10)
    for name, value in expected.items():
        assert rec.metrics["full/mrr" if name == "mrr" else f"full/{name}@10"] == pytest.approx(value, abs=1e-12)
    assert rec.data["num_users_left_out"] == 10
    assert "10 users left out of the training" in rec.protocol


@pytest.mark.parametrize("settings", [{}, {"loss": "softmax"}, {"loss": "softmax", "optimizer": "adam"}])
def test_users_who_are_left_out_are_ranked_by_their_histories(tmp_path, settings):
    rec = fastncf.fit(FRAME, test_users=12, budget="fast", epochs=2, full_ranking=True, k=3, **settings)
    others = rec.split.others
    hits = 0
    for row, user in enumerate(others.users.ids):
        history = others.histories.items[others.histories.indptr[row] : others.histories.indptr[row + 1]]
        best = rec.recommend(history=rec.items.decode(history).to_list(), k=3)["item"].to_list()
        (item,) = rec.items.decode(others.test.items[others.test.indptr[row] : others.test.indptr[row + 1]])
        hits += item in best
        with pytest.raises(DataError, match="not in the training data"):
            rec.recommend(user)
    assert rec.metrics["full/hr@3"] == hits / 12
    rec.save(tmp_path / "model")
    loaded = fastncf.load(tmp_path / "model")
    assert loaded.evaluate() == rec.evaluate()
    known = others.users.ids[0]
    loaded.update(pl.DataFrame({"user": [known], "item": [int(rec.items.ids[0])]}))
    assert len(loaded.split.others.users) == 11
    assert known in loaded.users.ids.to_list()
    assert set(loaded.recommend(known, k=100)["item"]).isdisjoint(histories(ROWS)[known])
    rec.refit()
    assert len(rec.users) == 40


def test_validation_looks_at_what_is_left_of_the_training():
    """The validation item is the latest training item, for each rule."""
    whole = histories(ROWS)
    for settings in ({"holdout": 2}, {"test_users": 5}, {}):
        rec = popular(FRAME, validation=True, **settings)
        split = rec.split
        tests = split.tests()
        for u, user in enumerate(rec.users.ids):
            train = set(rec.items.decode(split.indices[split.indptr[u] : split.indptr[u + 1]]))
            test = set(rec.items.decode(tests.items[tests.indptr[u] : tests.indptr[u + 1]]))
            validation = rec.items.ids[int(split.validation_item[u])] if split.validation_item[u] >= 0 else None
            assert not test & {validation, *train}
            left = [item for item in whole[user] if item not in test]
            assert validation == (left[-1] if len(left) > 1 else None)


@pytest.mark.parametrize(("seed", "point"), [(0, 150), (5, 30), (6, 199)])
def test_validation_before_a_point_in_time_is_in_time_itself(tmp_path, seed, point):
    """It is the last part of the past, and nothing of it, or of later users, is trained on."""
    rows = [*random_rows(seed), (90, 3, point - 1), (90, 5, point)]  # a user who exists in validation and test alone
    frame = pl.DataFrame(rows, schema=["user", "item", "time"], orient="row")
    rec = popular(frame, before=point, validation=True)
    train, validation, test, others = validated_from_time(rows, point)
    found = [{} for _ in range(3)]
    for sets, part in zip(
        found, (Rows(rec.split.indptr, rec.split.indices), rec.split.validations(), rec.split.tests()), strict=True
    ):
        for user, item in zip(rec.users.decode(part.owner), rec.items.decode(part.items), strict=True):
            sets.setdefault(user, set()).add(item)
    assert found == [train, validation, test]
    assert others == set(rec.split.others.users.ids) >= {90}
    counts = Counter(item for items in train.values() for item in items)
    catalogue = {item for _, item, _ in rows}
    known = {user: items | validation.get(user, set()) for user, items in train.items()}
    expected = popularity_metrics(counts, test, unseen(catalogue, known, test), 10)
    assert rec.metrics["full/ndcg@10"] == pytest.approx(expected["ndcg"], abs=1e-12)
    assert sum(rec.data[name] for name in ("interactions", "num_duplicates", "num_test_repeated")) == len(rows)
    rec.save(tmp_path / "model")
    loaded = fastncf.load(tmp_path / "model")
    assert loaded.evaluate() == rec.evaluate()
    (user,) = list(validation)[:1]
    loaded.refit()
    assert set(loaded.recommend(user, k=100)["item"]).isdisjoint(histories(rows)[user])
    assert len(loaded.split.indices) == len({(u, i) for u, i, _ in rows})


def test_validation_in_time_stops_a_training_and_outlasts_updates():
    rec = fastncf.fit(FRAME, before=150, validation=True, patience=1, loss="bce", dim=8, epochs=3, progress=False)
    assert {"hr@10", "ndcg@10"} <= set(rec.training_log[0])
    user = rec.users.decode(rec.split.validations().owner)[0]
    num_others = (
        len(rec.split.validations().items) - rec.split.validations().lengths[rec.users.encode(pl.Series([user]))[0]]
    )
    rec.update(pl.DataFrame({"user": [user], "item": [3]}))
    assert len(rec.split.validations().items) == num_others
    assert set(rec.recommend(user, k=100)["item"]).isdisjoint({3, *histories(ROWS)[user]})


@pytest.mark.parametrize(
    ("times", "message"),
    [
        ([0, 0, 0, 0, 9, 9], "the interactions before '9' have one time"),
        ([0, 1, 1, 1, 9, 9], "fewer than two users have interactions before the items of validation=True"),
        ([0, 0, 1, 1, 9, 9], "no user has a new item in the last part of the interactions before '9'"),
    ],
)
def test_pasts_that_are_too_short_for_validation(times, message):
    frame = pl.DataFrame({"user": [1, 2, 1, 2, 1, 2], "item": [1, 2, 1, 2, 3, 1], "time": times})
    with pytest.raises(DataError, match=message):
        popular(frame, before=9, validation=True)


def test_updates_keep_the_several_test_items_of_other_users():
    rec = fastncf.fit(FRAME, holdout=3, budget="fast", epochs=1)
    user = rec.users.ids[4]
    before = rec.evaluate()
    rec.update(pl.DataFrame({"user": [user, "new"], "item": [3, 4]}, strict=False))
    assert len(rec.split.test_rows.items) == 40 * 3 - 3
    assert set(rec.recommend(user, k=100)["item"]).isdisjoint(histories(ROWS)[user])
    values, kept = rec.evaluate().tables[""].values["recall@10"], before.tables[""].values["recall@10"]
    assert len(values) == len(kept) - 1
    rec.refit()
    assert rec.split.num_interactions == len({(u, i) for u, i, _ in ROWS} | {(user, 3)}) + 1


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        ({"before": 10_000}, DataError, "no interaction is from before='10000' on"),
        ({"before": -1}, DataError, "every interaction is from before='-1' on"),
        ({"before": "soon"}, ConfigError, "before='soon': expected a number such as 199, a date such as 2020-01-31"),
        (
            {"before": "2020-01-31"},
            ConfigError,
            "expected a number from 0 to 199, since the column is not in unix time",
        ),
        ({"before": "100%"}, ConfigError, "before='100%': expected a share above 0% and below 100%"),
        ({"before": "0%"}, ConfigError, "before='0%': expected a share"),
        ({"before": True}, ConfigError, "before=True: expected a time"),
        ({"before": 100, "holdout": 2}, ConfigError, "before='100': holds out all that is not earlier, and holdout=2"),
        ({"before": 100, "holdout": None}, ConfigError, "and holdout='none' something else"),
        ({"before": 100, "split": "random"}, ConfigError, "and split='random' something else"),
        ({"before": 100, "test_users": 3}, ConfigError, "test_users=3: leaves users out of the training"),
        ({"holdout": 0}, ConfigError, "holdout=0: expected one, none, an integer of at least 1, or a share"),
        ({"holdout": 1.5}, ConfigError, "holdout=1.5: expected one"),
        ({"holdout": True}, ConfigError, "holdout=True: expected one"),
        ({"holdout": "two"}, ConfigError, "holdout='two': expected one"),
        ({"holdout": float("nan")}, ConfigError, "holdout=nan: expected one"),
        ({"test_users": 40}, ConfigError, "test_users=40: leaves 0 of 40 users to train on; expected at least two"),
        ({"test_users": -1}, ConfigError, "test_users=-1: expected an integer of at least 1"),
        ({"test_users": 2, "holdout": None}, ConfigError, "and holdout=None nobody; expected one of them"),
        ({"test_users": 2, "test": FRAME}, ConfigError, "and test= gives the test set"),
        ({"holdout": 2, "test": FRAME}, ConfigError, "holdout=2: says how many items are held out, and test= gives"),
        ({"before": 2, "test": FRAME}, ConfigError, "before='2': says which items are held out, and test= gives them"),
        ({"rows_in_order": True}, ConfigError, "rows_in_order=True: the frame has times in column 'time'"),
        ({"k": []}, ConfigError, "k=(): expected"),
        ({"k": [5, 0]}, ConfigError, r"k=\(5, 0\): expected an integer of at least 1, or several such as"),
        ({"metrics": ["auc"]}, ConfigError, "metrics: 'auc' is unknown; expected some of hr, ndcg"),
        ({"metrics": "hr"}, ConfigError, "metrics='hr': expected a list of some of"),
        ({"candidate_sampling": "best"}, ConfigError, "candidate_sampling='best': expected one of uniform, popularity"),
    ],
)
def test_what_cannot_be_held_out_is_one_sentence(settings, error, message):
    with pytest.raises(error, match=message.replace("()", r"\(\)")) as caught:
        fastncf.fit(FRAME, **{"model": "popularity", **settings})
    assert len(str(caught.value)) <= 500


@pytest.mark.parametrize(
    ("rows", "settings", "message"),
    [
        (
            [(user, user % 3, 0) for user in range(20)],
            {"test_users": 3, "holdout": 0.2},
            "no user of test_users=3 has two different items, .* at least one user of test_users=3 with two",
        ),
        (
            [(0, 9, 0), (1, 9, 0), *((user, user + 20 * (time > 4), time) for user in range(2, 6) for time in (3, 5))],
            {"before": 5},
            "none of the 4 test items from the point in time on has a training interaction; expected another point",
        ),
        (
            [(user, (user + item) % 9, item) for user in range(9) for item in range(4)],
            {"holdout": 3, "validation": True},
            "no user has two different items beside those that are held out for the test",
        ),
    ],
)
def test_a_message_is_about_the_protocol_that_was_asked_for(rows, settings, message):
    frame = pl.DataFrame(rows, schema=["user", "item", "time"], orient="row")
    with pytest.raises((DataError, ConfigError), match=message):
        fastncf.fit(frame, epochs=1, **settings)


def test_settings_without_effect_are_said():
    with pytest.warns(UnusedSettingWarning, match="ties='last': no effect, since neither the held-out items"):
        fastncf.fit(FRAME, model="popularity", split="random", ties="last")


def test_data_without_times(tmp_path):
    frame = FRAME.sort("user", "time", maintain_order=True).select("user", "item")
    with pytest.raises(DataError, match="time"):
        fastncf.fit(frame, model="popularity", before="90%")
    rows = [(u, i, at) for at, (u, i) in enumerate(frame.iter_rows())]
    train, test = last_items(rows, 1)
    check(popular(frame, rows_in_order=True), train, test, CATALOGUE)


@pytest.mark.parametrize("point", ["2020-05-01", np.datetime64("2020-05-01"), np.datetime64("2020-05-01", "ns")])
def test_dates_of_libraries_are_points_in_time(point):
    assert fastncf.Config(before=point).before.startswith("2020-05-01")


def test_the_protocol_names_what_was_left_out_of_the_data_and_of_the_catalogue():
    frame = pl.DataFrame([(u, (u + i) % 9, i, 1 + i % 5) for u in range(20) for i in range(7)], orient="row")
    frame.columns = ["user", "item", "time", "rating"]
    settings = {"model": "popularity", "full_ranking": True}
    said = fastncf.fit(frame, min_rating=2, user_fraction=0.5, validation=True, **settings).protocol
    assert said.startswith("interactions rated 2 or more, 50 % of the users drawn at random, leave-one-out, ")
    assert "10 users, 1 + 99 candidates" in said
    assert said.endswith("without training and validation items")
    said = fastncf.fit(frame, holdout=2, num_candidates=1, **settings).protocol
    assert "the items of each user together with 1 candidate drawn" in said
    assert said.endswith("without training items")
    said = fastncf.fit(frame, test_users=2, **settings).protocol
    assert said.endswith("without the user's other items")


def test_several_k_and_metrics_in_one_pass():
    rec = popular(FRAME, holdout=2, k=[20, 5, 10])
    assert rec.config.k == (5, 10, 20)
    for k in (5, 10, 20):
        one = popular(FRAME, holdout=2, k=k)
        assert {name: rec.metrics[name] for name in one.metrics} == one.metrics
        assert {name: rec.errors[name] for name in one.errors} == one.errors
    assert list(rec.metrics)[:3] == ["hr@5", "ndcg@5", "mrr"]
    found, protocol = rec.evaluate(k=[3], metrics=["mrr@k"])
    assert list(found) == ["mrr@3", "full/mrr@3"]
    assert "the latest 2 of the interactions of each user held out" in protocol


def test_errors_are_those_of_means_over_users():
    rec = popular(FRAME)
    values = rec.evaluate().tables[""].values["ndcg@10"]
    assert rec.errors["ndcg@10"] == pytest.approx(values.std(ddof=1) / math.sqrt(len(values)))
    assert rec.popularity == rec.metrics


@pytest.mark.parametrize("has_times", [True, False])
@pytest.mark.parametrize("holdout", ["one", 3])
def test_validation_beside_a_given_test_set_holds_out_a_training_item(holdout, has_times):
    train, test = last_items(ROWS, 1 if holdout == "one" else holdout, "first")
    rows = [(user, item, place) for user, items in train.items() for place, item in enumerate(items)]
    frame = pl.DataFrame(rows, schema=["user", "item", "time"], orient="row").sample(fraction=1, shuffle=True, seed=1)
    given = pl.DataFrame([(u, i) for u, items in test.items() for i in items], schema=["user", "item"], orient="row")
    frame = frame if has_times else frame.drop("time")
    rec = fastncf.fit(frame, test=given, validation=True, patience=2, epochs=2, dim=4, history="none")
    split, users = rec.split, rec.users.ids.to_list()
    for number, user in enumerate(users):
        trained = rec.items.decode(split.indices[slice(*split.indptr[number : number + 2])]).to_list()
        held_out = rec.items.decode(split.validations().items[slice(*split.validations().indptr[number : number + 2])])
        expected = [train[user][-1]] if len(train[user]) > 1 else []
        assert (held_out.to_list() == expected) if has_times else (len(held_out) == len(expected))
        assert sorted([*trained, *held_out]) == sorted(train[user])
    assert {"ndcg@10", "hr@10"} <= rec.training_log[0].keys()
    assert rec.evaluate(full_ranking=True).protocol.endswith("without training and validation items")
    assert len(rec.refit().split.indices) == len(rows) + given.height
    alone = frame.unique("user", keep="any")
    with pytest.raises(DataError, match="no user has two training items, of which validation=True holds one out"):
        fastncf.fit(alone, test=given.join(alone, on=["user", "item"], how="anti"), validation=True)
