"""Saving replaces a model in one step, whatever happens meanwhile, and nothing else."""

import errno
import os
import threading

import numpy as np
import pytest

import fastncf
from fastncf import files
from fastncf.errors import DataError, DataNotFoundError
from fastncf.persistence import require_savable
from fastncf.persistence.folder import MODEL
from fastncf.persistence.manifest import _new_draft
from tests.persistence.faults import ERRORS, FaultyOS, Killed, after_power_loss
from tests.persistence.saved import BEFORE, file_of, fitted, is_same, tree


@pytest.fixture(scope="module")
def old():
    return fitted(hidden=2)


@pytest.fixture(scope="module")
def new():
    return fitted(hidden=1)


@pytest.fixture
def faulty(monkeypatch):
    """Return a file system with faults that stands for ``os`` from now on."""

    def make(**faults) -> FaultyOS:
        double = FaultyOS(**faults)
        monkeypatch.setattr(files, "os", double)
        return double

    return make


def test_a_folder_has_three_files_with_the_permissions_of_the_umask(tmp_path, old):
    before = os.umask(0o027)
    try:
        old.save(tmp_path / "deep" / "model")
    finally:
        os.umask(before)
    found = {path.name: path.stat().st_mode & 0o777 for path in (tmp_path / "deep" / "model").iterdir()}
    assert sorted(name.split("-")[1] for name in found if name != "fastncf.json") == ["data", "model"]
    assert set(found.values()) == {0o640}
    assert (tmp_path / "deep" / "model").stat().st_mode & 0o777 == 0o750
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["model"]


def test_only_our_own_files_are_replaced(tmp_path, old, new):
    folder = tmp_path / "m"
    old.save(folder)
    folder_before = folder.stat().st_ino
    (folder / "notes.txt").write_text("mine")
    (folder / "model.safetensors").write_text("mine, too")
    (folder / "sub").mkdir()
    new.save(folder)
    assert folder.stat().st_ino == folder_before  # so it may be a mount point
    assert (folder / "notes.txt").read_text() == "mine"
    assert (folder / "model.safetensors").read_text() == "mine, too"
    assert len(list(folder.iterdir())) == 6
    assert is_same(fastncf.load(folder), new)


def test_the_files_of_an_older_format_are_replaced(tmp_path, old):
    for name in ("fastncf.json", "model.safetensors", "data.safetensors"):
        (tmp_path / name).write_bytes((BEFORE / "mf" / name).read_bytes())
    (tmp_path / "notes.txt").write_text("mine")
    old.save(tmp_path)
    assert len(tree(tmp_path)) == 4
    assert is_same(fastncf.load(tmp_path), old)


@pytest.fixture(params=["new", "nested", "empty", "model", "hidden", "mount", "here", "link", "dangling", "killed"])
def target(request, tmp_path, monkeypatch, old):
    """A path at which a model may be saved."""
    folder = tmp_path / "target"
    if request.param == "nested":
        return folder / "a" / "b"
    if request.param == "link":
        (tmp_path / "behind").mkdir()
    if request.param in ("link", "dangling"):
        folder.symlink_to(tmp_path / "behind")
    elif request.param != "new":
        folder.mkdir()
    if request.param == "model":
        old.save(folder)
    elif request.param == "hidden":
        (folder / ".gitignore").write_text("*")
    elif request.param == "mount":
        (folder / "lost+found").mkdir()
    elif request.param == "killed":
        (folder / "fastncf-model-0123456789abcdef.safetensors").write_text("half of a mod")
        (folder / "fastncf-description-0123456789abcdef.draft").write_text("")
    elif request.param == "here":
        monkeypatch.chdir(folder)
        return "."
    return folder


def test_each_kind_of_folder_is_savable(target, tmp_path, new):
    before = tree(tmp_path)
    require_savable(target)
    assert tree(tmp_path) == before
    new.save(target)
    assert is_same(fastncf.load(target), new)
    assert not list(tmp_path.rglob("*0123456789abcdef*"))
    assert all(name in tree(tmp_path) for name in before if "0123456789" not in name and "fastncf-" not in name)


def unusable(tmp_path):
    """Yield paths at which no model can be saved, each with a part of the message."""
    (tmp_path / "file").write_text("x")
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "thesis.tex").write_text("x")
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "fastncf.json").write_text('{"name": "a setting of another program"}')
    (tmp_path / "folder" / "fastncf.json").mkdir(parents=True)
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    yield from (
        (tmp_path / "file", "holds no fastncf model"),
        (tmp_path / "file" / "model", "Not a directory"),
        (tmp_path / "thesis", "holds no fastncf model"),
        (tmp_path / "other", "holds no fastncf model"),
        (tmp_path / "folder", "holds no fastncf model"),
        (tmp_path / "loop", "holds no fastncf model"),
        (tmp_path / ("x" * 300), "File name too long"),
        (tmp_path / "missing" / ("x" * 300), "File name too long"),
        (str(tmp_path) + "/a\0b", "null"),
        ("/proc/no-such-folder/model", r"Permission denied|No such file|Read-only|Not a directory"),
    )


def test_an_unusable_path_is_refused_before_the_fit_and_by_save(tmp_path, new):
    cases = list(unusable(tmp_path))
    before = tree(tmp_path)
    for path, message in cases:
        for attempt in (require_savable, new.save):
            with pytest.raises(DataError, match=message) as caught:
                attempt(path)
            assert str(caught.value).startswith(f"{path!s:.50}")
            assert tree(tmp_path) == before


@pytest.mark.parametrize("kept", ["", "fastncf.json"])
def test_files_of_another_user_are_neither_missing_nor_damaged(tmp_path, old, monkeypatch, kept):
    class Refusing(files.OpenFile):
        """Opens one file alone."""

        def __init__(self, path, *arguments):
            if path.name != kept:
                raise PermissionError(13, "Permission denied", str(path))
            super().__init__(path, *arguments)

    old.save(tmp_path / "model")
    monkeypatch.setattr(files, "OpenFile", Refusing)
    with pytest.raises(DataError, match=r"model: fastncf.* cannot be read \(Permission denied\); expected files that"):
        fastncf.load(tmp_path / "model")


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may write everywhere")
def test_a_read_only_folder_is_refused(tmp_path, new):
    tmp_path.chmod(0o555)
    for attempt in (require_savable, new.save):
        with pytest.raises(DataError, match="Permission denied"):
            attempt(tmp_path / "model")


@pytest.mark.parametrize("error", ERRORS)
def test_a_device_that_fails_is_a_sentence_and_leaves_the_old_model(tmp_path, old, new, faulty, error):
    folder = tmp_path / "model"
    number = num_failed = 0
    while True:
        old.save(folder)
        double = faulty(fail_at=number, error=error)
        message = ""
        try:
            new.save(folder)
        except DataError as found:
            message = str(found)
            num_failed += 1
        assert not message or f"{folder}: no model can be saved there ({ERRORS[error]}" in message
        faulty()
        is_moved = any(event.kind == "move" for event in double.events)
        assert is_same(fastncf.load(folder), new if is_moved else old)
        if double.num_calls <= number:
            break
        number += 1
    assert num_failed >= 9
    assert len(tree(folder)) == 3


@pytest.mark.parametrize("error", ERRORS)
def test_the_trial_before_a_fit_meets_the_faults_of_a_device(tmp_path, faulty, error):
    for number in range(6):
        faulty(fail_at=number, error=error)
        with pytest.raises(DataError, match=ERRORS[error]):
            require_savable(tmp_path / "a" / "model")
        faulty()
        assert not tree(tmp_path)


def test_a_save_that_is_killed_leaves_the_old_or_the_new_model_and_the_next_one_cleans_up(tmp_path, old, new, faulty):
    number, seen = 0, []
    while True:
        folder = tmp_path / str(number)
        old.save(folder)
        double = faulty(fail_at=number)
        try:
            new.save(folder)
            break
        except Killed:
            double.end()
        faulty()
        loaded = fastncf.load(folder)
        seen.append(is_same(loaded, new))
        assert seen[-1] or is_same(loaded, old)
        old.save(folder)
        assert len(tree(folder)) == 3
        number += 1
    assert seen == sorted(seen)
    assert set(seen) == {False, True}


@pytest.mark.parametrize("has_old", [False, True])
def test_a_loss_of_power_leaves_the_old_or_the_new_model(tmp_path, old, new, faulty, has_old):
    folder = tmp_path / "model"
    if has_old:
        old.save(folder)
    before = {path.name: path.read_bytes() for path in folder.iterdir()} if has_old else None
    double = faulty()
    new.save(folder)
    faulty()
    generator, results = np.random.default_rng(0), {}
    for end in range(len(double.events) + 1):
        for share in (0, 1, *generator.random(12)):
            state = after_power_loss(double.events[:end], before, folder, generator, share)
            key = None if state is None else frozenset(state.items())
            if key not in results:
                results[key] = outcome(tmp_path / f"state-{len(results)}", state, old, new)
            assert results[key] in (("old", "new") if has_old else ("none", "new")), double.events[:end]
            assert end < len(double.events) or results[key] == "new"  # save has returned
    assert len(results) > 15
    assert set(results.values()) == {"old" if has_old else "none", "new"}


def outcome(folder, state, old, new) -> str:
    """Return what is loaded from a folder with some files, and check that a model can be saved there again."""
    for name, content in (state or {}).items():
        folder.mkdir(exist_ok=True)
        (folder / name).write_bytes(content)
    try:
        loaded = fastncf.load(folder)
    except DataNotFoundError:
        loaded = None
    old.save(folder)
    assert len(tree(folder)) == 3
    if loaded is None:
        return "none"
    return "old" if is_same(loaded, old) else "new" if is_same(loaded, new) else "mixed"


def test_savers_and_readers_at_once(tmp_path, old, new):
    folder = tmp_path / "model"
    old.save(folder)
    errors, is_over = [], threading.Event()

    def work(step) -> None:
        try:
            step()
        except BaseException as error:
            errors.append(error)

    def read() -> None:
        while not is_over.is_set():
            loaded = fastncf.load(folder)
            assert is_same(loaded, old) or is_same(loaded, new)

    savers = [
        threading.Thread(target=work, args=(lambda rec=rec: [rec.save(folder) for _ in range(12)],))
        for rec in (old, new, old)
    ]
    readers = [threading.Thread(target=work, args=(read,)) for _ in range(2)]
    for thread in savers + readers:
        thread.start()
    for thread in savers:
        thread.join()
    is_over.set()
    for thread in readers:
        thread.join()
    assert not errors
    assert len(tree(folder)) == 3


def test_files_of_a_save_that_is_running_are_left_alone(tmp_path, old):
    draft, number = _new_draft(tmp_path, MODEL)
    other = tmp_path / f"fastncf-model-{number}.safetensors"
    with draft:
        other.write_text("being written")
        old.save(tmp_path)
        assert other.exists()
        assert draft.path.exists()
    old.save(tmp_path)
    assert len(tree(tmp_path)) == 3


def test_without_locks_nothing_of_a_save_that_may_be_running_is_removed(tmp_path, old, monkeypatch):
    monkeypatch.setattr(files, "fcntl", None)
    (tmp_path / "fastncf-description-0123456789abcdef.draft").write_text("")
    for _ in range(2):
        old.save(tmp_path)
    assert len(tree(tmp_path)) == 4
    assert is_same(fastncf.load(tmp_path), old)


def test_short_reads_and_writes_are_continued(tmp_path, new, faulty):
    double = faulty(largest_read=777, largest_write=999)
    new.save(tmp_path)
    assert is_same(fastncf.load(tmp_path), new)
    assert sum(event.kind == "write" for event in double.events) > 6


def test_an_interrupt_is_no_data_error_and_leaves_no_files(tmp_path, new, monkeypatch):
    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(files, "sync_folder", interrupt)
    tmp_path.joinpath("model").mkdir()
    with pytest.raises(KeyboardInterrupt):
        new.save(tmp_path / "model")
    assert list(tree(tmp_path)) == ["model"]


def test_nothing_is_saved_that_would_not_load(tmp_path):
    rec = fitted()
    rec.save(tmp_path)
    before = fastncf.load(tmp_path)
    rec.trained.user_vectors[0, 0] = np.nan
    with pytest.raises(DataError, match=r"'user_embedding.weight' holds numbers that are not finite"):
        rec.save(tmp_path)
    rec.trained.user_vectors[0, 0] = 0
    rec.found["object"] = object()
    with pytest.raises(DataError, match="cannot be written as JSON: a object is no number"):
        rec.save(tmp_path)
    del rec.found["object"]
    rec.metrics["note"] = "good"
    with pytest.raises(DataError, match="is 'good'; expected a finite number"):
        rec.save(tmp_path)
    del rec.metrics["note"]
    rec.split.indptr[1] = -5
    with pytest.raises(DataError, match="indptr does not ascend"):
        rec.save(tmp_path)
    assert is_same(fastncf.load(tmp_path), before)


def test_numbers_of_numpy_and_those_that_are_not_finite_are_kept(tmp_path):
    rec = fitted()
    rec.metrics |= {"hr@10": np.float32(0.5), "extra": float("nan")}
    rec.training_log[0]["loss"] = float("inf")
    rec.save(tmp_path)
    again = fastncf.load(tmp_path)
    assert again.metrics["hr@10"] == 0.5
    assert np.isnan(again.metrics["extra"])
    assert np.isnan(again.training_log[0]["loss"])


def test_files_are_named_in_the_description(tmp_path, old):
    old.save(tmp_path)
    content = file_of(tmp_path, "model").read_bytes()
    assert files.sha256(content) in (tmp_path / "fastncf.json").read_text()


def test_a_file_that_another_machine_removes_while_it_is_read_is_looked_for_again(tmp_path, new, faulty):
    new.save(tmp_path)
    number, device = 0, faulty()
    while number <= device.num_reads:
        device = faulty(fail_read_at=number, error=errno.ESTALE)
        device.open = os.open  # of an open file alone
        assert is_same(fastncf.load(tmp_path), new)
        number += 1
    assert number > 6
