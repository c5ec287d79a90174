"""The README's Python lines run as they stand, beside a ratings.csv."""

import re
from pathlib import Path

from fastncf.data.synthetic import write_synthetic_movielens

README = Path(__file__).parents[1] / "README.md"


def test_python_lines_run(tmp_path, monkeypatch):
    blocks = re.findall(r"```python\n(.*?)```", README.read_text(encoding="utf-8"), flags=re.DOTALL)
    assert blocks
    write_synthetic_movielens(tmp_path / "ratings.csv", 300, 200, 9000)
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {}
    for block in blocks:
        exec(compile(block, "README.md", "exec"), names)
    assert (tmp_path / "model").is_dir()
