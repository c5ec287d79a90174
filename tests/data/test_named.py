"""Data sets by name, fetched from a server on this machine: resumed, checked, kept, and shared by processes."""

import hashlib
import os
import subprocess
import sys
import threading
import zipfile
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from io import BytesIO
from pathlib import Path

import numpy as np
import polars as pl
import pytest

import fastncf
from fastncf import cli
from fastncf.data import named
from fastncf.data.interactions import read_interactions
from fastncf.data.named import DATASETS, ENVIRONMENT, Dataset, fetch, find_source
from fastncf.errors import DataError, DataNotFoundError

MEMBERS = {"ml-100k": "ml-100k/u.data", "ml-1m": "ml-1m/ratings.dat", "ml-20m": "ml-20m/ratings.csv"}


def ratings(seed: int = 0) -> pl.DataFrame:
    generator = np.random.default_rng(seed)
    pairs = generator.permutation(40 * 30)[:600]
    return pl.DataFrame(
        {
            "user": (pairs // 30 + 1).astype(np.int32),
            "item": (pairs % 30 + 1).astype(np.int32),
            "rating": (generator.integers(1, 11, 600) / 2).astype(np.float32),
            "time": np.arange(600) + 10**9,
        }
    )


def make_archive(name: str) -> bytes:
    """An archive of the form of the named release, with other files beside the ratings."""
    separator = DATASETS[name].separator
    lines = [separator.join(map(str, row)) for row in ratings().iter_rows()]
    header = ["userId,movieId,rating,timestamp"] if separator == "," else []
    buffer = BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr(f"{name}/README", os.urandom(3000))
        archive.writestr(MEMBERS[name], "\n".join(header + lines) + "\n")
        archive.writestr(f"{name}/movies", "1::One\n")
    return buffer.getvalue()


class Server(ThreadingHTTPServer):
    """A server of archives that notes the ranges it is asked for, and that may misbehave.

    Attributes:
        content: what it has, by path.
        cut_after: bytes of an answer after which it closes the connection, one entry for each answer.
        takes_ranges: whether it heeds the header ``Range``.
        shift: what is added to the begin of each range, as a broken server may.
        status: of its answers.
        tells_length: whether answers have ``Content-Length`` and ``Content-Range`` as they should.
        gate: an answer waits for it before its last byte.
        asked: the header ``Range``, or None, of each request.
    """

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.content: dict[str, bytes] = {}
        self.cut_after: list[int] = []
        self.takes_ranges, self.shift, self.tells_length, self.status = True, 0, True, 200
        self.gate = threading.Event()
        self.gate.set()
        self.asked: list[str | None] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        server, asked = self.server, self.headers["Range"]
        if server.status == 302:
            self.send_response(302)
            self.send_header("Location", self.path)
            self.end_headers()
            return
        server.asked.append(asked)
        content = server.content.get(self.path)
        if content is None or server.status != 200:
            self.send_error(404 if content is None else server.status)
            return
        begin = 0
        if asked and server.takes_ranges:
            begin = int(asked.removeprefix("bytes=").removesuffix("-")) + server.shift
            if begin >= len(content):
                self.send_error(416)
                return
            self.send_response(206)
            self.send_header("Content-Range", f"bytes {begin}-{len(content) - 1}/{len(content)}")
        else:
            self.send_response(200)
        body = content[begin:]
        if server.tells_length:
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        end = server.cut_after.pop(0) if server.cut_after else len(body)
        self.wfile.write(body[: end - 1])
        self.wfile.flush()
        server.gate.wait()
        self.wfile.write(body[end - 1 : end])

    def log_message(self, *_: object) -> None:
        """Print nothing."""


@pytest.fixture
def server() -> Iterator[Server]:
    with Server() as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, server: Server) -> Path:
    """The folder in which archives are kept, while the server is the mirror and has small archives."""
    for name in MEMBERS:
        content = make_archive(name)
        server.content[f"/{name}.zip"] = content
        monkeypatch.setitem(DATASETS, name, known(name, content))
    monkeypatch.setenv(ENVIRONMENT, server.url)
    monkeypatch.setattr(named, "user_cache_path", lambda *_, **__: tmp_path / "cache")
    return tmp_path / "cache" / "datasets"


def known(name: str, content: bytes) -> Dataset:
    dataset = DATASETS[name]
    digest = hashlib.sha256(content).hexdigest()
    return Dataset(name, 600, len(content), digest, dataset.separator, dataset.terms)


@pytest.mark.parametrize("name", MEMBERS)
def test_each_form_is_loaded_and_fitted(cache, server, name, tmp_path):
    frame = fastncf.datasets.load(name)
    assert frame.equals(ratings())
    assert frame.schema == pl.Schema({"user": pl.Int32, "item": pl.Int32, "rating": pl.Float32, "time": pl.Int64})
    by_name, by_frame = (read_interactions(source) for source in (name, frame))
    for role in ("user", "item", "time"):
        assert (getattr(by_name, role) == getattr(by_frame, role)).all()
    assert fastncf.fit(name, epochs=1, dim=4).data["interactions"] == 600
    assert len(server.asked) == 1  # everything after the first call is read from the cache


def test_the_licence_is_shown_where_something_is_downloaded(cache, capsys):
    fetch("ml-1m")
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "no commercial use" in captured.err
    assert "movielens/ml-1m-README.txt" in captured.err
    fetch("ml-1m")
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("cuts", [[1000], [1000, 500, 700]])
def test_an_interrupted_download_goes_on_by_itself(cache, server, cuts):
    server.cut_after = list(cuts)
    content = fetch("ml-1m").read_bytes()
    assert content == server.content["/ml-1m.zip"]
    ends = np.cumsum(cuts)
    assert server.asked == [None, *(f"bytes={end}-" for end in ends)]


def test_a_later_call_goes_on_where_an_earlier_one_was_interrupted(cache, server):
    server.cut_after = [1000] + [1] * 9
    server.takes_ranges = False  # no progress beyond the first thousand bytes
    with pytest.raises(DataError, match=r"interrupted after [\d,]+ of [\d,]+ bytes.*FASTNCF_DATASETS"):
        fetch("ml-1m")
    assert not (cache / "ml-1m.zip").exists()
    server.cut_after, server.takes_ranges, server.asked = [], True, []
    (cache / "ml-1m.zip.part").write_bytes(server.content["/ml-1m.zip"][:2000])
    assert fetch("ml-1m").read_bytes() == server.content["/ml-1m.zip"]
    assert server.asked == ["bytes=2000-"]


PARTS = {
    "of another version": (lambda content: b"x" * 2000, ["bytes=2000-", None]),
    "too long": (lambda content: content + b"more", [None]),
    "complete": (lambda content: content, []),
    "complete and wrong": (lambda content: b"x" * len(content), [None]),
    "empty": (lambda content: b"", [None]),
}


@pytest.mark.parametrize("part", PARTS)
def test_any_partial_file_ends_in_the_right_one(cache, server, part):
    make, asked = PARTS[part]
    cache.mkdir(parents=True)
    content = server.content["/ml-1m.zip"]
    (cache / "ml-1m.zip.part").write_bytes(make(content))
    assert fetch("ml-1m").read_bytes() == content
    assert server.asked == asked
    assert not (cache / "ml-1m.zip.part").exists()


@pytest.mark.parametrize("fault", ["takes_ranges", "shift", "tells_length"])
def test_servers_that_do_ranges_badly(cache, server, fault):
    server.cut_after = [1500]
    setattr(server, fault, 7 if fault == "shift" else False)
    assert fetch("ml-1m").read_bytes() == server.content["/ml-1m.zip"]
    # an answer that begins elsewhere than was asked is thrown away, and the file asked for anew
    assert server.asked == [None, "bytes=1500-"] + [None] * (fault == "shift")


WRONG = {
    "same length": lambda content: content[:-1] + bytes([content[-1] ^ 1]),
    "shorter": lambda content: content[:-1],
    "longer": lambda content: content + b"x",
    "a page": lambda content: b"<html>please log in</html>",
}


@pytest.mark.parametrize("tells_length", [True, False])
@pytest.mark.parametrize("wrong", WRONG)
def test_a_wrong_file_is_never_used(cache, server, wrong, tells_length):
    right = server.content["/ml-1m.zip"]
    server.content["/ml-1m.zip"] = WRONG[wrong](right)
    server.tells_length = tells_length
    with pytest.raises(DataError, match=r"ml-1m: http.*(expected [\d,]+ bytes with the SHA-256|interrupted after)"):
        fetch("ml-1m")
    assert not (cache / "ml-1m.zip").exists()
    server.content["/ml-1m.zip"], server.tells_length = right, True
    assert fetch("ml-1m").read_bytes() == right


def test_a_damaged_file_of_the_cache_is_fetched_again(cache, server):
    path = fetch("ml-1m")
    content = bytearray(path.read_bytes())
    content[100] ^= 1
    path.write_bytes(content)
    assert fetch("ml-1m").read_bytes() == server.content["/ml-1m.zip"]
    assert len(server.asked) == 2


@pytest.mark.parametrize(
    ("path", "message"), [("/ml-1m.zip", "the server answered 404"), ("closed", "cannot be reached")]
)
def test_no_file_and_no_server(cache, server, monkeypatch, path, message):
    if path == "closed":
        monkeypatch.setenv(ENVIRONMENT, "http://127.0.0.1:9")
    else:
        del server.content[path]
    with pytest.raises(DataError if path == "closed" else DataNotFoundError, match=message) as caught:
        fetch("ml-1m")
    assert ENVIRONMENT in str(caught.value)


@pytest.mark.parametrize(("status", "kind"), [(403, DataError), (410, DataNotFoundError), (503, DataError)])
def test_a_server_that_refuses(cache, server, status, kind):
    server.status = status
    with pytest.raises(kind, match=f"the server answered {status}"):
        fetch("ml-1m")
    server.status = 302
    with pytest.raises(DataError, match=r"the server answered 302 [^\n\\]*; FASTNCF_DATASETS may name a mirror"):
        fetch("ml-1m")
    server.status = 200
    assert fetch("ml-1m").exists()


def test_a_part_that_is_longer_than_what_the_server_has(cache, server):
    right = server.content["/ml-1m.zip"]
    cache.mkdir(parents=True)
    (cache / "ml-1m.zip.part").write_bytes(right[:2000])
    server.content["/ml-1m.zip"] = right[:1500]
    with pytest.raises(DataError, match=r"the server sent a file of 1,500 bytes; expected [\d,]+ bytes"):
        fetch("ml-1m")
    assert server.asked == ["bytes=2000-", None]


def test_offline_once_cached(cache, server, monkeypatch):
    first = fetch("ml-1m")
    monkeypatch.setenv(ENVIRONMENT, "http://127.0.0.1:9")
    assert fetch("ml-1m") == first
    cache.joinpath("ml-1m.zip.part").write_bytes(b"of another process")
    assert fetch("ml-1m") == first


def test_a_folder_in_place_of_the_cache(cache, server, monkeypatch, tmp_path):
    folder = tmp_path / "shared"
    folder.mkdir()
    (folder / "ml-1m.zip").write_bytes(server.content["/ml-1m.zip"])
    monkeypatch.setenv(ENVIRONMENT, str(folder))
    assert fetch("ml-1m") == folder / "ml-1m.zip"
    assert [path.name for path in folder.iterdir()] == ["ml-1m.zip"]  # not even a lock
    assert server.asked == []
    assert not cache.exists()


def test_another_file_in_a_folder_of_the_user_is_left_alone(cache, server, monkeypatch, tmp_path):
    (tmp_path / "ml-1m.zip").write_bytes(b"packed by myself")
    monkeypatch.setenv(ENVIRONMENT, str(tmp_path))
    with pytest.raises(DataError, match=r"ml-1m\.zip: is not the archive of ml-1m; expected [\d,]+ bytes"):
        fetch("ml-1m")
    assert (tmp_path / "ml-1m.zip").read_bytes() == b"packed by myself"


def test_a_folder_that_cannot_be_written(cache, server, monkeypatch, tmp_path):
    folder = tmp_path / "shared"
    folder.write_text("a file where a folder should be")  # nobody can write there, root neither
    monkeypatch.setenv(ENVIRONMENT, str(folder))
    with pytest.raises(DataError, match=r"ml-1m: is not in .*shared, which cannot be written"):
        fetch("ml-1m")


def test_a_read_only_folder_with_the_archive(cache, server):
    path = fetch("ml-1m")
    for lock in cache.glob("*.lock"):
        lock.unlink()
    cache.chmod(0o555)
    try:
        assert fetch("ml-1m") == path
        assert fastncf.datasets.load("ml-1m").height == 600
        if os.geteuid():  # root writes anywhere
            with pytest.raises(DataError, match="cannot be written"):
                fetch("ml-20m")
    finally:
        cache.chmod(0o755)


def test_an_address_of_another_kind(monkeypatch):
    monkeypatch.setenv(ENVIRONMENT, "ftp://example.org/data")
    with pytest.raises(DataError, match=r"FASTNCF_DATASETS=ftp://example\.org/data: expected an address"):
        fetch("ml-1m")


def test_without_a_home(monkeypatch):
    monkeypatch.delenv(ENVIRONMENT, raising=False)
    monkeypatch.setattr(named, "user_cache_path", lambda *_, **__: Path("~/.cache/fastncf"))
    with pytest.raises(DataError, match="no home directory"):
        fetch("ml-1m")


CHILD = """
import sys
from fastncf.data import named
from fastncf.data.named import DATASETS, Dataset, fetch
named.user_cache_path = lambda *_, **__: __import__("pathlib").Path(sys.argv[1])
old = DATASETS["ml-1m"]
DATASETS["ml-1m"] = Dataset("ml-1m", 600, int(sys.argv[2]), sys.argv[3], old.separator, old.terms)
print(fetch("ml-1m").stat().st_size)
"""


def test_two_processes_at_once(cache, server):
    """The second one waits for the first, and downloads nothing."""
    dataset = DATASETS["ml-1m"]
    words = [sys.executable, "-c", CHILD, str(cache.parent), str(dataset.num_bytes), dataset.sha256]
    server.gate.clear()
    first = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    while not server.asked:
        assert first.poll() is None, first.stderr.read()
    second = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert "waiting for another process" in second.stderr.readline()
    server.gate.set()
    outputs = [process.communicate(timeout=60) for process in (first, second)]
    assert [process.returncode for process in (first, second)] == [0, 0], outputs
    assert {out.strip() for out, _ in outputs} == {str(dataset.num_bytes)}
    assert len(server.asked) == 1


def test_a_killed_process_leaves_a_part_that_the_next_one_uses(cache, server):
    dataset = DATASETS["ml-1m"]
    words = [sys.executable, "-c", CHILD, str(cache.parent), str(dataset.num_bytes), dataset.sha256]
    server.gate.clear()
    killed = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    part = cache / "ml-1m.zip.part"
    while not (part.exists() and part.stat().st_size):
        assert killed.poll() is None
    killed.kill()
    killed.wait()
    server.gate.set()
    begun = part.stat().st_size
    assert fetch("ml-1m").stat().st_size == dataset.num_bytes
    assert server.asked == [None, f"bytes={begun}-"]


@pytest.mark.parametrize("kind", ["file", "folder", "broken link"])
def test_what_is_on_this_machine_wins(cache, server, tmp_path, monkeypatch, kind):
    monkeypatch.chdir(tmp_path)
    path = Path("ml-1m")
    if kind == "file":
        ratings(seed=1).write_csv(path)
        assert (read_interactions("ml-1m").user != read_interactions(ratings()).user).any()
    elif kind == "folder":
        path.mkdir()
    else:
        path.symlink_to("nowhere")
    assert find_source("ml-1m") == path
    assert server.asked == []


@pytest.mark.parametrize(
    "name", ["ml1m", "ML-1M", "movielens-1m", "MovieLens 1M", "ml_1m", "ml-1000000", "ml-1-million"]
)
def test_names_that_are_almost_right(cache, name):
    with pytest.raises(DataNotFoundError, match=r"did you mean ml-1m\? expected a file or one of ml-100k, ml-1m"):
        read_interactions(name)


@pytest.mark.parametrize("name", ["movielens", "ml-latest"])
def test_names_of_no_single_release(cache, name):
    with pytest.raises(DataNotFoundError, match=r"no data set of this name; expected a file or one of ml-100k"):
        read_interactions(name)


@pytest.mark.parametrize("name", ["ratings.csv", "data/ml1m", "m", "ml.csv"])
def test_other_names_are_paths(cache, name):
    assert find_source(name) == Path(name)


def test_unknown_names(cache):
    with pytest.raises(DataNotFoundError, match=r"'netflix': no such data set; expected one of ml-100k"):
        fastncf.datasets.load("netflix")
    with pytest.raises(DataNotFoundError, match=r"'ML_20M': no such data set; did you mean ml-20m\? expected one of"):
        fastncf.datasets.load("ML_20M")


def test_command_line(cache, server, capsys, tmp_path):
    def run(*words: str) -> str:
        with pytest.raises(SystemExit) as stopped:
            cli.main(list(words))
        assert not stopped.value.code
        return capsys.readouterr().out

    before = run("datasets")
    assert all(name in before for name in DATASETS)
    assert "licence: for research" in before
    assert "downloaded" not in before
    run("plan", "ml-1m")
    run("fit", "ml-1m", "--epochs", "1", "--dim", "4", "--out", str(tmp_path / "model"))
    assert len(server.asked) == 1
    assert [line.split()[0] for line in run("datasets").splitlines() if " downloaded " in line] == ["ml-1m"]


def test_what_is_known_of_each_data_set():
    for name, dataset in DATASETS.items():
        assert dataset.name == name
        assert len(bytes.fromhex(dataset.sha256)) == 32
        assert dataset.separator in ("\t", "::", ",")
    assert len({dataset.sha256 for dataset in DATASETS.values()}) == len(DATASETS)
