"""Imports run downward through the folders, and each heavy library is imported in few places only."""

import ast
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import fastncf

PACKAGE = Path(fastncf.__file__).parent
LEVELS = [
    {"errors"},
    {"files", "locks", "network", "temporary"},
    {"rank_variables"},
    {
        "accelerators",
        "distributed",
        "download",
        "numpy_errors",
        "processes",
        "rng",
        "stage",
        "streams",
        "suggestions",
        "threads",
    },
    {"launcher", "memory"},
    {"mapped"},
    {"kernels.cpu", "cost"},
    {"kernels.cuda"},
    {"device"},
    {"data"},
    {"sampling", "models"},
    {"evaluation"},
    {"config"},
    {"recipes", "trainers", "serving"},
    {"plan"},
    {"persistence"},
    {"report"},
    {"checkpoints", "measuring", "plan_file", "progress", "tuning"},
    {"plan_memory"},
    {"refit", "updating"},
    {"further_training"},
    {"calibration", "datasets", "recommender", "unused"},
    {"asked"},
    {"comparison", "train"},
    {"repetitions", "search"},
    {"cli"},
]
"""Modules and folders from the lowest to the highest; a file imports from its own folder and from lower levels only."""

LIBRARIES = {
    "polars": {"comparison", "data", "datasets", "persistence", "recommender", "report", "search", "serving"},
    "optuna": {"search"},
    "llvmlite": {"kernels.cpu"},
    "numba": {"kernels.cpu"},
    "cyclopts": {"cli"},
    "rich": {"cli", "progress"},
    "filelock": {"locks"},
    "platformdirs": {"data"},
    "triton": {"kernels.cuda"},
    "safetensors": {"persistence"},
    "altair": {"report"},
    "vl_convert": {"report"},
}


def place(module: str) -> str:
    """Return the entry of ``LEVELS`` for a module below ``fastncf``, such as ``data`` for ``data.split``."""
    parts = module.split(".")
    return ".".join(parts[:2]) if parts[0] == "kernels" and len(parts) > 1 else parts[0]


def modules() -> dict[str, list[Path]]:
    """Return the files of each place."""
    found: dict[str, list[Path]] = {}
    for path in PACKAGE.rglob("*.py"):
        parts = path.relative_to(PACKAGE).with_suffix("").parts
        if not parts[0].startswith("__") and parts != ("kernels", "__init__"):
            found.setdefault(place(".".join(parts)), []).append(path)
    return found


def imports(path: Path) -> set[str]:
    """Return the names of the modules that a file imports anywhere, also inside functions."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= names if node.module in ("fastncf", "fastncf.kernels") else {node.module}
    return found


def level(name: str) -> int:
    return next(number for number, names in enumerate(LEVELS) if name in names)


def test_every_place_has_a_level():
    assert set(modules()) == set().union(*LEVELS)


@pytest.mark.parametrize("name", sorted(set().union(*LEVELS)))
def test_imports_run_downward(name):
    for path in modules()[name]:
        for imported in imports(path):
            package, _, rest = imported.partition(".")
            if package == "fastncf" and rest and place(rest) != name:
                assert level(place(rest)) < level(name), f"{path.relative_to(PACKAGE)} imports {imported}"


@pytest.mark.parametrize("library", LIBRARIES)
def test_heavy_libraries_are_imported_in_few_places(library):
    users = {
        name
        for name, paths in modules().items()
        for path in paths
        if library in {imported.split(".")[0] for imported in imports(path)}
    }
    assert users <= LIBRARIES[library]


@pytest.mark.parametrize("code", ["import fastncf", "import fastncf.cli", "import fastncf; fastncf.Config.notebook()"])
def test_nothing_heavy_is_imported_before_it_is_needed(code):
    check = f"{code}; import sys; print(sorted({{'torch', 'numba', 'polars', 'pandas'}} & set(sys.modules)))"
    out = subprocess.run([sys.executable, "-c", check], capture_output=True, text=True, check=True, cwd=PACKAGE.parent)
    assert out.stdout.strip() == "[]"


def test_mf_is_fitted_saved_and_evaluated_without_torch(tmp_path):
    """Importing torch takes longer than such a fit of a small file."""
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


@pytest.mark.parametrize("path", sorted((PACKAGE.parent / "benchmarks").glob("*.py")), ids=lambda path: path.name)
def test_the_extra_for_benchmarks_installs_what_they_import(path):
    project = tomllib.loads((PACKAGE.parent / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = project["optional-dependencies"]
    suite = path.name == "conftest.py" or path.name.startswith("test_")  # pytest runs it, as developers do
    declared = [*project["dependencies"], *extras["compare"], *(extras["dev"] if suite else [])]
    installed = {re.match(r"[\w-]+", one)[0].removeprefix("py-") for one in declared}
    tree = ast.parse(path.read_text(encoding="utf-8"))
    names = {node.module or "" for node in tree.body if isinstance(node, ast.ImportFrom)}
    names |= {alias.name for node in tree.body if isinstance(node, ast.Import) for alias in node.names}
    others = {name.partition(".")[0] for name in names} - set(sys.stdlib_module_names) - {"fastncf", "benchmarks"}
    assert others <= installed
