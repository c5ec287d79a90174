"""Limits of memory: what is left, and one sentence where it does not suffice."""

import errno
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch

import fastncf
from fastncf import memory
from fastncf.data.interactions import read_interactions
from fastncf.errors import ConfigError, InsufficientMemoryError
from fastncf.evaluation.paired import resampled_means
from fastncf.kernels.cpu import compiler_memory, compiling
from fastncf.sampling import loader
from tests.conftest import checkerboard

MEGABYTE = 1 << 20
SOFTMAX = {"loss": "softmax", "history": "sequence", "epochs": 1, "dim": 4, "device": "cpu"}


@pytest.fixture
def system(tmp_path, monkeypatch):
    """A system whose files are in a folder: all of its values may be set."""
    monkeypatch.setattr(memory, "_MACHINE", tmp_path / "meminfo")
    monkeypatch.setattr(memory, "_PROCESS", tmp_path)
    monkeypatch.setattr(memory, "_CGROUPS", tmp_path / "cgroups")
    monkeypatch.setattr(memory, "_physical_bytes", lambda: 64 << 30)
    return tmp_path


def write_group(folder, names, limit, usage, cache):
    folder.mkdir(parents=True, exist_ok=True)
    for name, value in zip(names, (limit, usage), strict=False):
        (folder / name).write_text(f"{value}\n")
    (folder / "memory.stat").write_text(f"anon 5\n{names[2]} {cache}\n")


V1 = "memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"
V2 = "memory.max", "memory.current", "inactive_file"


def test_the_machine_and_its_swap(system):
    assert memory.available_bytes() == 64 << 30  # nothing is said
    (system / "meminfo").write_text("MemTotal: 9000 kB\nMemAvailable:  3000 kB\nSwapFree: 500 kB\n")
    assert memory.available_bytes() == 3500 * 1024


@pytest.mark.parametrize(
    ("line", "root", "names"), [("0::/jobs/one", "", V2), ("4:memory,cpu:/jobs/one", "memory", V1)]
)
def test_the_least_limit_of_the_control_groups(system, line, root, names):
    (system / "cgroup").write_text(f"9:name=systemd:/\n{line}\n")
    groups = system / "cgroups" / root
    write_group(groups / "jobs/one", names, "max", 700, 0)
    assert memory.available_bytes() == 64 << 30
    write_group(groups / "jobs/one", names, 5000, 700, 100)
    assert memory.available_bytes() == 4400
    write_group(groups / "jobs", names, 1000, 900, 50)
    assert memory.available_bytes() == 150
    write_group(groups, names, 1000, 2000, 0)
    assert memory.available_bytes() == 0


@pytest.mark.parametrize(
    ("name", "require", "needed", "limit"),
    [
        ("polars", memory.require_libraries, 60_000_000, 175),
        ("torch", lambda: memory.require_torch("a fit"), 166_000_000, 290),
    ],
)
def test_no_library_is_imported_where_a_control_group_would_end_the_process(
    system, monkeypatch, name, require, needed, limit
):
    (system / "cgroup").write_text("0::/job\n")
    monkeypatch.delitem(sys.modules, name)
    write_group(system / "cgroups" / "job", V2, needed + 90_000_000, 101_000_000, 0)
    with pytest.raises(
        InsufficientMemoryError, match=rf"are needed to begin with, .* a memory limit of {limit}MB or more$"
    ):
        require()
    assert name not in sys.modules


def test_no_kernel_is_loaded_where_a_control_group_would_end_the_process(system, monkeypatch):
    (system / "cgroup").write_text("0::/job\n")
    monkeypatch.setattr(compiler_memory._Compiler, "has_loaded", False)
    kernel = compiling.njit(lambda x: x + 1)
    write_group(system / "cgroups" / "job", V2, 100_000_000, 70_000_000, 0)
    with pytest.raises(InsufficientMemoryError, match=r"^kernels: 32\.0 MB are needed .* limit of 111MB or more$"):
        kernel(1)
    write_group(system / "cgroups" / "job", V2, 900_000_000, 70_000_000, 0)
    assert kernel(1) == 2
    write_group(system / "cgroups" / "job", V2, 100_000_000, 95_000_000, 0)
    assert kernel(2.5) == 3.5


def test_what_is_refused_names_the_limit_that_would_do(system):
    (system / "cgroup").write_text("0::/job\n")
    write_group(system / "cgroups" / "job", V2, 100_000_000, 70_000_000, 0)
    with pytest.raises(InsufficientMemoryError, match=r"needs 45\.0 MB .* or a memory limit of 125MB or more$"):
        memory.require_memory("rows", 45_000_000, "fewer rows")
    (system / "meminfo").write_text("MemAvailable: 20000 kB\nSwapFree: 0 kB\n")
    with pytest.raises(InsufficientMemoryError, match=r"expected: fewer rows, or more memory$"):
        memory.require_memory("rows", 45_000_000, "fewer rows")


def test_a_comparison_is_refused_where_its_draws_do_not_fit(system):
    (system / "meminfo").write_text("MemAvailable: 15000 kB\nSwapFree: 0 kB\n")
    with pytest.raises(InsufficientMemoryError, match=r"^compare: draws of users: needs 17\.0 MB"):
        resampled_means(np.arange(100.0), 10_000, np.random.default_rng(0))


def test_bytes_as_people_write_them():
    assert [memory.format_bytes(n) for n in (0, 5_200_000, 2_100_000_000, 480 * 10**12)] == [
        *("0.0 MB", "5.2 MB", "2.1 GB", "480.0 TB")
    ]


class PanicException(BaseException):
    """Named as that of Polars, which is no Exception either."""


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        MemoryError("Unable to allocate 1.2 TiB for an array"),
        RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 8 bytes"),
        OSError(errno.ENOMEM, "Cannot allocate memory"),
        ImportError("libtorch_cpu.so: failed to map segment from shared object"),
        PanicException("memory: Cannot allocate memory"),
    ],
)
def test_errors_of_all_libraries_become_one_sentence(error):
    sentence = r"^train: the memory does not suffice.*9 GB in all were expected, and .* available; expected: less of it"
    with (
        pytest.raises(InsufficientMemoryError, match=sentence) as raised,
        memory.translate_exhaustion("train", "less of it", "9 GB"),
    ):
        raise error
    assert isinstance(raised.value, MemoryError)
    assert raised.value.__cause__ is error


def test_a_thread_that_cannot_be_started_is_named():
    with (
        pytest.raises(InsufficientMemoryError, match=r"^read: no thread could be started .*FASTNCF_NUM_THREADS=1"),
        memory.translate_exhaustion("read", "less"),
    ):
        raise RuntimeError("can't start new thread")


@pytest.mark.parametrize(
    "error", [ConfigError("dim=0"), ValueError("x"), RuntimeError("x"), OSError(errno.ENOSPC, "x"), KeyboardInterrupt()]
)
def test_other_errors_stay_what_they_are(error):
    with pytest.raises(type(error)) as raised, memory.translate_exhaustion("train", "less"):
        raise error
    assert raised.value is error


@pytest.mark.parametrize(
    ("settings", "what"),
    [
        ({"dim": 10**9}, "mf with dim=1000000000"),
        ({"dim": 2 * 10**9, "model": "gmf", "history": "none"}, "gmf with dim=2000000000"),
        ({"model": "mlp", "layers": (2 * 10**9,)}, "mlp with"),
        ({"num_candidates": 2 * 10**9}, "num_candidates=2,000,000,000 for 60 held-out items"),
        ({"num_negatives": 10**9}, "mf with .*num_negatives=1000000000"),
        ({"num_negatives": 10**9, "optimizer": "adam"}, "mf with .*num_negatives=1000000000"),
    ],
)
def test_what_cannot_fit_is_refused_before_it_is_allocated(settings, what, monkeypatch):
    monkeypatch.setattr(memory, "_machine_bytes", lambda: 16 << 30)
    monkeypatch.setattr("fastncf.train.train_stages", lambda *_, **__: pytest.fail("the training began"))
    with pytest.raises(InsufficientMemoryError, match=rf"^{what}.*: needs .* of memory, and .* are available"):
        fastncf.fit(checkerboard(), **settings)


@pytest.mark.parametrize("settings", [{"dim": 10**6}, {"dim": 10**6, "batch_size": 64, "num_negatives": 8}])
def test_the_buffers_of_a_batch_of_states_count(settings, monkeypatch):
    monkeypatch.setattr(memory, "_machine_bytes", lambda: 2 << 30)
    monkeypatch.setattr("fastncf.train.train_stages", lambda *_, **__: pytest.fail("the training began"))
    with pytest.raises(InsufficientMemoryError, match=r"^mf with dim=1000000.*: needs .*a smaller dim, batch_size"):
        fastncf.fit(checkerboard(), **SOFTMAX | settings)


@pytest.mark.parametrize("name", ["batch_size", "num_negatives"])
def test_a_batch_of_states_is_no_larger_than_the_data(name, monkeypatch):
    monkeypatch.setattr(memory, "_machine_bytes", lambda: 4 << 30)
    assert fastncf.fit(checkerboard(), **SOFTMAX | {name: 2**31 - 1}).plan.cost.memory_bytes < 1 << 30


def test_evaluate_refuses_lists_that_cannot_fit():
    rec = fastncf.fit(checkerboard(), epochs=1, dim=4)
    with pytest.raises(InsufficientMemoryError, match="num_candidates=2,147,483,647 for 60 held-out items"):
        rec.evaluate(num_candidates=2**31 - 1)


def test_memory_that_runs_out_in_the_training_names_the_section(monkeypatch):
    def no_memory(*_, **__):
        raise MemoryError("Unable to allocate 3.00 GiB")

    monkeypatch.setattr("fastncf.train.train_stages", no_memory)
    with pytest.raises(InsufficientMemoryError, match=r"^train: .*3\.00 GiB.*expected: a smaller dim, layers"):
        fastncf.fit(checkerboard(), epochs=1)


LIMITED = """
import resource, sys
resource.setrlimit(resource.RLIMIT_AS, (int(sys.argv[1]),) * 2)
from fastncf import cli
cli.main(sys.argv[2:])
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="other systems do not enforce the limit")
@pytest.mark.parametrize(
    ("megabytes", "settings", "codes"),
    [
        (150, [], {4}),
        (600, [], {4}),
        (1000, [], {4}),
        (2000, ["--optimizer", "adam"], {4}),
        (3000, ["--dim", "4000000"], {4}),
        (16000, ["--dim", "4"], {0}),
    ],
)
def test_under_a_limit_of_address_space_a_fit_succeeds_or_says_one_sentence(tmp_path, megabytes, settings, codes):
    ratings = tmp_path / "ratings.csv"
    checkerboard().write_csv(ratings)
    command = [sys.executable, "-c", LIMITED, str(megabytes * MEGABYTE), "fit", ratings, "--epochs", "1", *settings]
    out = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert out.returncode in codes, out.stderr[-500:]
    if out.returncode:
        assert out.stdout == ""
        *notes, sentence = out.stderr.splitlines()
        assert all(note.startswith("compiling kernels") for note in notes)
        assert sentence.startswith("fastncf: ")
        assert "expected: " in out.stderr


def test_a_fit_that_exceeds_max_memory_is_refused_with_the_figure_and_fits_with_it():
    data, settings = checkerboard(), {"model": "mlp", "epochs": 1, "dim": 4, "layers": (4,), "l2": 0.01}
    fastncf.fit(data, **settings)  # what libraries take is there by now
    for limit in ("1KB", memory.resident_bytes() - 10 * MEGABYTE):
        with pytest.raises(
            InsufficientMemoryError, match=r"max_memory=\d+: the process has .* before anything is read"
        ):
            fastncf.fit(data, max_memory=limit, **settings)
    limit = memory.resident_bytes() + 100 * MEGABYTE
    with pytest.raises(InsufficientMemoryError, match=r"mlp with dim=200000.*expected: max_memory=\d+MB") as error:
        fastncf.fit(data, max_memory=limit, **(settings | {"dim": 200_000}))
    needed = int(str(error.value).split("expected: max_memory=")[1].split("MB")[0])
    assert 300 < needed - limit / 1e6 + 100 < 1_500  # two tables, three times, and what the mf takes
    assert fastncf.fit(data, max_memory=limit, **settings).metrics
    assert memory.bytes_within_limits() > 1 << 50  # the limit has ended with the fit


def test_trainings_of_a_fitted_model_keep_a_limit():
    data = checkerboard()
    recommender = fastncf.fit(data, model="gmf", optimizer="sgd", dim=8, epochs=1)
    before = recommender.recommend(data["user"][0], k=3)
    wide = replace(recommender.plan.stages[-1], dim=2_000_000)
    plan, recommender.plan = recommender.plan, replace(recommender.plan, stages=(wide,))
    with memory.limited_memory(memory.resident_bytes() + 100_000_000):
        for train in (recommender.refit, lambda: recommender.update(data.head(2), epochs=1)):
            with pytest.raises(
                InsufficientMemoryError, match=r"is expected to need .* expected: max_memory=\d+MB or more$"
            ):
                train()
    recommender.plan = plan
    assert recommender.recommend(data["user"][0], k=3).equals(before)


@pytest.mark.parametrize("wrong", ["x", "4 PB", "-4GB", "1e9", 0, -5, True, float("nan"), float("inf"), [4]])
def test_a_limit_that_is_no_number_of_bytes(wrong):
    with pytest.raises(ConfigError, match=r"max_memory=.*expected a number of bytes, such as '4GB'"):
        fastncf.fit(checkerboard(), max_memory=wrong)


def test_numbers_of_bytes():
    texts = {"4GB": 4 * 10**9, "1.5 KiB": 1536, "2mb": 2_000_000, "7 B": 7, "1TB": 10**12}
    assert {text: memory.parse_bytes("limit", text) for text in texts} == texts
    assert memory.parse_bytes("limit", np.int64(5) + 0) == 5


def test_the_limit_of_a_container_is_found_and_refuses_at_once(system, monkeypatch):
    (system / "cgroup").write_text("0::/job\n")
    group = system / "cgroups" / "job"
    write_group(group, V2, 600 * MEGABYTE, 500 * MEGABYTE, 0)
    assert fastncf.fit(checkerboard(), epochs=1, dim=4, loss="bce").metrics
    with pytest.raises(
        InsufficientMemoryError,
        match=r"the memory limit of the container.* is 629\.1 MB, .* a memory limit of 7\d\dMB or more",
    ):
        fastncf.fit(checkerboard(), epochs=1, dim=100_000, loss="bce")


@pytest.mark.parametrize(
    ("name", "row", "message"),
    [
        ("ratings.csv", "{u},{i},5,{t}", r"about (99,9|100,0)\d\d rows: needs 45\.0 MB"),
        ("ratings.tsv", "{u}\t{i}\t5\t{t}", r"about (99,9|100,0)\d\d rows: needs 45\.0 MB"),
        ("ratings.jsonl", '{{"user": {u}, "item": {i}, "time": {t}}}', r"about (99,9|100,0)\d\d rows: needs 45\.0 MB"),
        ("text.csv", "{u},i{i},5,{t}", r"100,000 rows with ids or times that are no integers: needs 48\.5 MB"),
    ],
)
def test_a_text_that_does_not_fit_is_refused_before_it_is_read(tmp_path, monkeypatch, name, row, message):
    head = [] if name.endswith("jsonl") else ["user\titem\trating\ttime".replace("\t", "," if "csv" in name else "\t")]
    rows = [row.format(u=100_000 + n // 10, i=1_000 + n % 100, t=1_000_000_000 + n) for n in range(100_000)]
    (tmp_path / name).write_text("\n".join([*head, *rows, ""]))
    available = 46 * 10**6 if name == "text.csv" else 44 * 10**6
    monkeypatch.setattr(memory, "available_bytes", lambda: available)
    with pytest.raises(InsufficientMemoryError, match=message + r" of memory.*expected: fewer rows, a Parquet file"):
        read_interactions(tmp_path / name)
    monkeypatch.setattr(memory, "available_bytes", lambda: 49 * 10**6)
    assert read_interactions(tmp_path / name).num_rows == 100_000


def test_negatives_drawn_one_epoch_at_a_time_are_the_same(monkeypatch):
    settings = {"model": "gmf", "optimizer": "adam", "dim": 4, "epochs": 3}
    expected = fastncf.fit(checkerboard(), **settings)
    buffers = []
    prefetch = loader.PrefetchSampler.prefetch

    def count(sampler, number):
        buffers.append(len(sampler.buffers))
        return prefetch(sampler, number)

    monkeypatch.setattr(loader.PrefetchSampler, "prefetch", count)
    monkeypatch.setattr(loader, "bytes_within_limits", lambda: 100_000)
    found = fastncf.fit(checkerboard(), **settings)
    assert set(buffers) == {1}
    for name, tensor in expected.model.state_dict().items():
        assert torch.equal(tensor, found.model.state_dict()[name])
