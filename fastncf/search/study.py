"""``tune()``: trials of plans within a budget of time, kept in a study file from which they can go on."""

import hashlib
import json
import numbers
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Unpack

from fastncf import files, locks
from fastncf.asked import Asked, read_asked, takes_asked
from fastncf.checkpoints.fingerprint import data_of
from fastncf.config import Config, show
from fastncf.errors import ConfigError, DataError, DataNotFoundError, FastNCFError
from fastncf.numpy_errors import usual_errors
from fastncf.plan import make_plan
from fastncf.search.interrupted import FIRST_BYTES, trials_noted
from fastncf.search.result import Tuned
from fastncf.search.space import Space
from fastncf.search.trial import Examination, TrialEndedError, run_trial
from fastncf.train import Prepared, prepare

if TYPE_CHECKING:
    import optuna
    from optuna.storages.journal import JournalFileBackend

_NAME = "fastncf"
_TIME_IS_OVER = "the time is over before its last epoch"

_RANDOM_TRIALS = 5
"""Trials before those that the optimiser's model draws, the defaults included."""


def require_packages() -> None:
    """Check that the optimiser is installed.

    Raises:
        FastNCFError: it is not.
    """
    try:
        import optuna  # noqa: F401
    except ImportError as error:
        raise FastNCFError(
            f"tune needs the package {error.name}, which is not installed; expected: pip install 'fastncf[tune]'"
        ) from None


@takes_asked
def tune(
    train: Any,
    *,
    minutes: float,
    study: str | Path | None = None,
    model: str | None = None,
    callback: "Callable[[int, float | None, float | None], object] | None" = None,
    **asked: Unpack[Asked],
) -> Tuned:
    """Search for settings that rank held-out items better than the default ones, within a budget of time.

    The test items of the fit are not looked at. One more item of each user, the latest where times are known, is held
    out for the search, and settings are compared by the NDCG@k of these items in the whole catalogue. The first trials
    are the defaults; the others are drawn around them by Optuna's tree-structured Parzen estimator (Bergstra et al.
    2011), one after the other on all threads. A trial that is worse than the median of the others after a quarter, a
    half or three quarters of its epochs is ended.

    Args:
        train: see :func:`fastncf.fit`.
        minutes: budget of this call, above 0. The trial that is running when it is over is ended and not counted.
        study: file that keeps the trials. An existing one is continued if it is of the same data and settings.
        model: name of a model; otherwise the default one.
        callback: called after each trial with its number from 1, its NDCG, or None where it was ended early, and the
            best NDCG so far, or None; returning True ends the search.
        **asked: data and settings by name, see :func:`fastncf.fit`; what is given is not searched.

    Raises:
        FastNCFError: Optuna is not installed.
        ConfigError: the budget is no number above 0, the file is no study or one of other data or settings, or nothing
            is left to search; and what :func:`fastncf.fit` raises for settings and data.
    """
    require_packages()
    if model is not None and not isinstance(model, str):
        raise ConfigError(
            f"tune: model={show(model)}: a module is trained in place, so that it serves one fit; expected the name of "
            f"a model"
        )
    deadline = _deadline(minutes)
    with usual_errors(), trials_noted(study):
        config, inputs = read_asked(model, asked)
        data, _ = prepare(train, inputs, config, stacklevel=3)
        space = Space.of(config, data.facts)
        examination = Examination.of(data.split, data.order, max(config.cutoffs), config.seed)
        fingerprint = _fingerprint(config, data)
        with _in_use(study):
            opened = _open(study, fingerprint, config.seed)
            _enqueue_defaults(opened, space)
            _search(opened, space, examination, deadline, callback)
            return Tuned.of(opened, space, study)


def _enqueue_defaults(study: "optuna.Study", space: Space) -> None:
    """Let the next trials be those of the default settings that are not decided yet.

    A trial that was killed, or for which the time did not suffice, says nothing about its settings.
    """
    from optuna.trial import TrialState

    decided = []
    for trial in study.get_trials(deepcopy=False):
        if trial.state == TrialState.WAITING:
            decided.append(trial.system_attrs.get("fixed_params"))
        elif trial.state == TrialState.COMPLETE or trial.user_attrs.get("ended", _TIME_IS_OVER) != _TIME_IS_OVER:
            decided.append(trial.params)
    for parameters in space.defaults():
        if parameters not in decided:
            study.enqueue_trial(parameters)


def _search(
    study: "optuna.Study",
    space: Space,
    examination: Examination,
    deadline: float,
    callback: "Callable[[int, float | None, float | None], object] | None",
) -> None:
    """Run trials until the time is over, or the callback ends the search."""
    while _search_time_left(deadline) > 0:
        trial = study.ask()
        value = _run(study, trial, space, examination, deadline)
        if callback is not None and callback(trial.number + 1, value, _best(study)) is True:
            return


def _deadline(minutes: Any) -> float:
    """Return the end of the budget, as :func:`time.monotonic` counts.

    Raises:
        ConfigError: the budget is no number above 0.
    """
    is_number = isinstance(minutes, numbers.Real) and not isinstance(minutes, bool)
    if not is_number or not 0 < minutes < float("inf"):
        raise ConfigError(f"minutes={show(minutes)}: expected a finite number above 0")
    return time.monotonic() + 60 * float(minutes)


def _search_time_left(deadline: float) -> float:
    """Return the seconds in which another trial may begin."""
    return _seconds_left(deadline)


def _seconds_left(deadline: float) -> float:
    """Return the seconds that are left of the budget."""
    return deadline - time.monotonic()


def _fingerprint(config: Config, data: Prepared) -> str:
    """Return a hash of the settings that are not searched, and of the data with their order and weights."""
    facts = config.to_dict(), data_of(data.interactions.users, data.interactions.items, data.split, data.order)
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()


@contextmanager
def _in_use(path: str | Path | None) -> Iterator[None]:
    """Let no other process use a study file in the block, since each takes unfinished trials for those of an ended one.

    Raises:
        ConfigError: the path is none, or another process uses the file.
        DataNotFoundError: there is no such folder.
        DataError: it cannot be written to.
    """
    if path is None:
        yield
        return
    if not isinstance(path, str | Path):
        raise ConfigError(f"study={show(path)}: expected the path of a file")
    if not Path(path).absolute().parent.is_dir():  # which the lock would make
        raise DataNotFoundError(f"{path}: there is no such folder; expected a file in one that exists")
    name = Path(f"{path}.in-use")
    try:
        lock = locks.take(name)
    except locks.BusyError:
        raise ConfigError(
            f"{path}: another process searches with this study file; expected a file of its own"
        ) from None
    except OSError as error:
        raise DataError(f"{path}: cannot be written ({error.strerror})") from None
    try:
        yield
    finally:
        lock.release()
        with suppress(OSError):
            files.remove(name)


def _journal(path: str | Path) -> "JournalFileBackend":
    """Return the file of a study without Optuna's locks: :func:`_in_use` keeps other processes out.

    Those are symbolic links, which not all file systems have; one that a kill leaves is waited for, or stays.
    """
    from optuna.storages.journal import JournalFileBackend, JournalFileOpenLock

    class Held(JournalFileOpenLock):
        """A lock that is held all the time."""

        def acquire(self) -> bool:
            """Return that it is held."""
            return True

        def release(self) -> None:
            """Keep it."""

    return JournalFileBackend(str(path), Held(str(path)))


def _open(path: str | Path | None, fingerprint: str, seed: int) -> "optuna.Study":
    """Return a new study, or that of a file.

    Raises:
        ConfigError: the file is no study, or one of other data or settings.
        DataError: the file cannot be written.
    """
    import optuna
    from optuna.storages import InMemoryStorage, JournalStorage

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    try:
        if path is not None:
            files.cut_torn_line(Path(path), FIRST_BYTES)
        storage = InMemoryStorage() if path is None else JournalStorage(_journal(path))
        study = optuna.create_study(
            storage=storage,
            study_name=_NAME,
            direction="maximize",
            load_if_exists=True,
            pruner=optuna.pruners.MedianPruner(n_startup_trials=_RANDOM_TRIALS - 1),
        )
    except OSError as error:
        raise DataError(f"{path}: cannot be written ({error.strerror})") from None
    except (ValueError, KeyError, TypeError):
        raise ConfigError(f"{path}: is no study; expected a file that tune has written, or a new one") from None
    known = study.user_attrs.get("fingerprint")
    if known is None:
        study.set_user_attr("fingerprint", fingerprint)
    elif known != fingerprint:
        raise ConfigError(f"{path}: is a study of other data or settings; expected the same ones, or a new file")
    for trial in study.get_trials(deepcopy=False, states=(optuna.trial.TrialState.RUNNING,)):
        study.tell(trial.number, state=optuna.trial.TrialState.FAIL)  # of a process that was ended
    drawn_with = (seed + len(study.trials)) % 2**32  # NumPy's RandomState, which the sampler seeds, takes 32 bits
    study.sampler = optuna.samplers.TPESampler(seed=drawn_with, n_startup_trials=_RANDOM_TRIALS)
    return study


def _run(
    study: "optuna.Study", trial: "optuna.Trial", space: Space, examination: Examination, deadline: float
) -> float | None:
    """Run a trial, tell the study, and return its NDCG; None where it was ended early."""
    from optuna.trial import TrialState

    start = time.monotonic()
    first_end = start

    def after_epoch(done: int, of: int) -> None:
        nonlocal first_end
        if done == 1:  # it may have compiled kernels, and tells nothing about the others
            first_end = time.monotonic()
        per_epoch = (time.monotonic() - first_end) / max(done - 1, 1)
        if per_epoch * (of - done) > _seconds_left(deadline):
            raise TrialEndedError(_TIME_IS_OVER)

    def report(ndcg: float, step: int) -> None:
        trial.report(ndcg, step)
        if trial.should_prune():
            raise TrialEndedError("it is worse than the median")

    try:
        plan = make_plan(space.suggest(trial), space.facts)
        value = run_trial(plan, examination, after_epoch, report)
    except (ConfigError, TrialEndedError) as error:
        trial.set_user_attr("ended", str(error))
        state = TrialState.PRUNED if isinstance(error, TrialEndedError) else TrialState.FAIL
        study.tell(trial, state=state)
        return None
    trial.set_user_attr("seconds", time.monotonic() - start)
    study.tell(trial, value)
    return value


def _best(study: "optuna.Study") -> float | None:
    """Return the best NDCG so far; None where no trial has ended."""
    values = [trial.value for trial in study.get_trials(deepcopy=False) if trial.value is not None]
    return max(values, default=None)
