"""Check the benchmark of sets of items on generated files."""

import numpy as np

from benchmarks import sets


def test_all_test_items_of_a_user_are_ranked(tmp_path, monkeypatch):
    monkeypatch.setattr(sets, "SETTINGS", {"most popular": {"model": "popularity"}})
    random = np.random.default_rng(0)
    lines = [random.permutation(30 + np.arange(10) if user % 2 else np.arange(10)) for user in range(40)]
    for name, part in (("train", slice(0, 7)), ("test", slice(7, 10))):
        text = "".join(f"{user} {' '.join(map(str, items[part]))}\n" for user, items in enumerate(lines))
        (tmp_path / f"gowalla-{name}.txt").write_text(text)
    rows = sets.measure_files(tmp_path, "gowalla", seeds=1)
    assert rows[0]["recall"] == [1]  # 13 items are left, of which 20 are looked at
    assert 0.3 < rows[0]["ndcg"][0] < 1
    found = {"date": "2026-05-04", "machine": "a CPU", "sets": {"gowalla": rows}}
    text = "\n".join(sets.table(found))
    assert "| fastncf most popular | **1.0000**" in text
    assert "MF, BSL" in text
