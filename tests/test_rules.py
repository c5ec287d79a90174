"""Rules of the code that can be read off it: where models and optimizers are told apart, and how long a function is."""

import ast
from pathlib import Path

import pytest

import fastncf

PACKAGE = Path(fastncf.__file__).parent
FILES = {str(path.relative_to(PACKAGE)): ast.parse(path.read_text(encoding="utf-8")) for path in PACKAGE.rglob("*.py")}
LONGEST = 60


def comparisons(tree: ast.AST, names: set[str]) -> list[int]:
    """Return the lines in which a name, an attribute of that name, or its type is compared with something."""
    lines = []
    for node in ast.walk(tree):
        if not isinstance(node, ast.Compare):
            continue
        for side in (node.left, *node.comparators):
            if isinstance(side, ast.Call) and isinstance(side.func, ast.Name) and side.func.id == "type":
                side = side.args[0]
            name = getattr(side, "attr", None) or getattr(side, "id", None)
            if name in names and not any(
                isinstance(other, ast.Constant) and other.value is None for other in (node.left, *node.comparators)
            ):
                lines.append(node.lineno)
    return lines


@pytest.mark.parametrize("file", sorted(FILES))
def test_models_are_told_apart_by_models_and_trainers_alone(file):
    if not file.startswith(("models/", "trainers/")):
        tree = FILES[file]
        memberships = {
            node.lineno
            for node in ast.walk(tree)
            if isinstance(node, ast.Compare) and all(isinstance(op, ast.In | ast.NotIn) for op in node.ops)
        }
        assert not set(comparisons(tree, {"model"})) - memberships


@pytest.mark.parametrize("file", sorted(FILES))
def test_optimizers_are_told_apart_by_the_plan_and_trainers_alone(file):
    if file not in ("plan.py", "recipes.py") and not file.startswith("trainers/"):
        assert not comparisons(FILES[file], {"optimizer"})


@pytest.mark.parametrize("file", sorted(FILES))
def test_functions_fit_on_a_screen(file):
    for node in ast.walk(FILES[file]):
        if isinstance(node, ast.FunctionDef):
            body = node.body[1:] if ast.get_docstring(node) is not None else node.body
            length = (node.end_lineno or 0) - body[0].lineno + 1 if body else 0
            assert length <= LONGEST, f"{node.name} has {length} lines"


@pytest.mark.parametrize("file", sorted(FILES))
def test_threads_are_started_and_kernels_are_compiled_in_one_place(file):
    """Otherwise an interrupt may find a lock locked forever, or a thread that nobody ends."""
    for node in ast.walk(FILES[file]):
        if isinstance(node, ast.ImportFrom) and node.module == "numba":
            assert file == "kernels/cpu/compiling.py" or "njit" not in [alias.name for alias in node.names]
        if isinstance(node, ast.Attribute | ast.Name):
            name = node.attr if isinstance(node, ast.Attribute) else node.id
            assert name not in ("Thread", "ThreadPoolExecutor", "ProcessPoolExecutor") or file == "threads.py"


@pytest.mark.parametrize("file", sorted(FILES))
def test_files_are_replaced_and_removed_in_one_place(file):
    changing = {"rename", "renames", "unlink", "rmtree", "touch", "truncate", "symlink_to", "hardlink_to"}
    found = {
        f"{node.attr} in line {node.lineno}"
        for node in ast.walk(FILES[file])
        if isinstance(node, ast.Attribute)
        and (node.attr in changing or (node.attr in ("replace", "remove", "open") and ast.unparse(node.value) == "os"))
    }
    reads = {"streams.py": "open", "data/readers/files.py": "open", "download.py": "truncate"}
    reads["temporary.py"] = "truncate"  # a temporary file
    allowed = {text for text in found if text.startswith(reads.get(file, "-"))}
    assert file == "files.py" or found == allowed


_WRITERS_ELSEWHERE = {
    "files.py": "the layer itself",
    "download.py": "a part that is put in its place by files.py",
    "mapped.py": "a temporary file that processes share",
    "temporary.py": "the same",
    "streams.py": "the null device",
    "cli/__init__.py": "the null device",
}


def writes_itself(call: ast.Call) -> bool:
    """Return whether a call opens a file to write it, or saves arrays, tensors or a program of torch to one."""
    name = call.func.attr if isinstance(call.func, ast.Attribute) else getattr(call.func, "id", "")
    if name == "open":
        modes = [
            node.value for node in [*call.args, *(k.value for k in call.keywords)] if isinstance(node, ast.Constant)
        ]
        return any(isinstance(mode, str) and set(mode) <= set("rwxab+t") and set(mode) & set("wxa+") for mode in modes)
    if name == "save" and isinstance(call.func, ast.Attribute):  # that of safetensors, a name of its own, returns bytes
        return ast.unparse(call.func.value) != "recommender"  # which goes through the manifest
    return False


@pytest.mark.parametrize("file", sorted(FILES))
def test_files_are_written_where_they_are_replaced(file):
    writers = {"write_text", "write_bytes", "savetxt", "savez", "savez_compressed", "save_file", "tofile", "dump"}
    writers |= {f"{verb}_{kind}" for verb in ("write", "sink", "to") for kind in ("csv", "parquet", "ipc", "ndjson")}
    writers |= {"write_html", "write_json", "to_pickle", "to_feather", "NamedTemporaryFile"}
    for function in ast.walk(FILES[file]):
        if isinstance(function, ast.FunctionDef):
            attributes = {node.attr for node in ast.walk(function) if isinstance(node, ast.Attribute)}
            calls = [node for node in ast.walk(function) if isinstance(node, ast.Call)]
            found = (attributes & writers) | {ast.unparse(call) for call in calls if writes_itself(call)}
            is_elsewhere = file in _WRITERS_ELSEWHERE
            assert not found or is_elsewhere or "with replaced" in ast.unparse(function).replace("files.", ""), found


@pytest.mark.parametrize("file", sorted(name for name in FILES if name.startswith("serving/")))
def test_answers_need_no_blas(file):
    """Its threads take a hundred times as long where other threads or processes compute, see ``kernels.cpu.newton``."""
    assert not [node.lineno for node in ast.walk(FILES[file]) if isinstance(node, ast.MatMult)]
    names = {node.attr for node in ast.walk(FILES[file]) if isinstance(node, ast.Attribute)}
    assert not names & {"dot", "einsum", "inner", "linalg", "matmul", "tensordot", "vdot"}
