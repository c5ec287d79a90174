"""The house has floors: imports run downward only, and each heavy library has its rooms."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import fastncf

PACKAGE = Path(fastncf.__file__).parent
FLOORS = [
    {"errors"},
    {"config", "hashing", "threads", "weights", "metrics"},
    {"loop"},
    {"tiles"},
    {"device"},
    {"codes", "sampler", "permutation", "datasets"},
    {"reading", "kernels"},
    {"interactions", "models"},
    {"split", "scoring"},
    {"descent", "epoch", "lists"},
    {"adam", "blocks", "fused", "histories", "perceptron", "evaluate"},
    {"factorization", "serve"},
    {"choice", "neural", "recommender"},
    {"loading", "train"},
    {"cli"},
]
ROOMS = {
    "polars": {"codes", "reading", "interactions", "datasets", "recommender", "loading"},
    "llvmlite": {"kernels"},
    "numba": {"kernels", "hashing", "codes", "weights", "permutation", "sampler", "split", "datasets"},
    "cyclopts": {"cli"},
    "rich": {"cli"},
    "triton": {"tiles"},
    "safetensors": {"recommender", "loading"},
}


def modules() -> dict[str, list[Path]]:
    """Every room with its files; a sub-package is one room."""
    rooms: dict[str, list[Path]] = {}
    for path in PACKAGE.rglob("*.py"):
        room = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
        if not room.startswith("__"):
            rooms.setdefault(room, []).append(path)
    return rooms


def imports(path: Path) -> set[str]:
    """Names of modules that a file imports anywhere, also lazily."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module)
    return found


def floor(room: str) -> int:
    return next(number for number, rooms in enumerate(FLOORS) if room in rooms)


def test_every_room_has_a_floor():
    assert set(modules()) == set().union(*FLOORS)


@pytest.mark.parametrize("room", sorted(set().union(*FLOORS)))
def test_imports_run_downward(room):
    for path in modules()[room]:
        for name in imports(path):
            parts = name.split(".")
            if parts[0] == "fastncf" and len(parts) > 1 and parts[1] != room:
                assert floor(parts[1]) < floor(room), f"{path.name} imports {name}"


@pytest.mark.parametrize("library", ROOMS)
def test_heavy_libraries_stay_in_their_rooms(library):
    users = {
        room
        for room, paths in modules().items()
        for path in paths
        if library in {n.split(".")[0] for n in imports(path)}
    }
    assert users <= ROOMS[library]


@pytest.mark.parametrize("code", ["import fastncf", "import fastncf.cli", "import fastncf; fastncf.Config.notebook()"])
def test_nothing_heavy_is_imported_before_it_is_needed(code):
    check = f"{code}; import sys; print(sorted({{'torch', 'numba', 'polars', 'pandas'}} & set(sys.modules)))"
    out = subprocess.run([sys.executable, "-c", check], capture_output=True, text=True, check=True, cwd=PACKAGE.parent)
    assert out.stdout.strip() == "[]"


def test_a_factorization_is_fitted_saved_and_evaluated_without_torch(tmp_path):
    """Its import takes longer than the fit of a small file."""
    code = f"""
import sys
import fastncf, polars
rows = [(user, item, item) for user in range(40) for item in range(user % 5, 30, 3)]
frame = polars.DataFrame(rows, schema=["user", "item", "time"], orient="row")
rec = fastncf.fit(frame, dim=8, epochs=2, validation=True, patience=1)
rec.save({str(tmp_path / "model")!r})
assert rec.evaluate(k=5).metrics["hr@5"] <= 1
assert "torch" not in sys.modules, "torch was imported"
assert type(rec.model).__name__ == "MF"
"""
    subprocess.run([sys.executable, "-c", code], check=True, cwd=PACKAGE.parent)


def test_public_names_exist_and_others_do_not():
    assert all(getattr(fastncf, name) is not None for name in fastncf.__all__)
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        fastncf.nothing  # noqa: B018
