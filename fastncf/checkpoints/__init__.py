"""Checkpoints of a fit: a folder from which a training that was stopped at any moment goes on with the same bits."""

import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, NoReturn

from fastncf import distributed
from fastncf.checkpoints.fingerprint import differences, libraries
from fastncf.checkpoints.folder import CheckpointFolder, Contents, SharedFolder, open_folder
from fastncf.config import show
from fastncf.errors import ConfigError, DataError, counted
from fastncf.persistence.plain import read_plain
from fastncf.plan import Plan
from fastncf.stage import Stage
from fastncf.trainers.recorder import Recorder, Snapshot

_MOST_SHOWN = 3


class Checkpoint:
    """The checkpoint of one training, see :func:`open_checkpoint`.

    Attributes:
        recorder: takes the snapshots of the training.
        plan: what is carried out.
    """

    def __init__(self, folder: CheckpointFolder, contents: Contents | None) -> None:
        self._folder, self._contents = folder, contents
        self._belongs_to: dict[str, Any] = {}
        self.plan: Plan | None = None
        self._place = "" if contents is None else str(contents.values.get("place"))
        restored = None if contents is None else Snapshot(contents.values["stages"], contents.arrays)
        self.recorder = Recorder(self._write, restored)

    def require_same(self, **belongs_to: dict[str, Any]) -> None:
        """Refuse to go on with other settings or data than before; the checkpoint belongs to those that are given.

        Args:
            **belongs_to: plain values by name, in parts, of which each is given when it is known.

        Raises:
            DataError: says what differs.
        """
        self._belongs_to |= belongs_to
        if self._contents is not None:
            for part, now in belongs_to.items():
                self._require_none(differences(self._contents.values[part], now))

    def resumed_plan(self, plans: list[Plan]) -> Plan | None:
        """Return the plan that was chosen when the training began, perhaps with more epochs; None where it begins now.

        Args:
            plans: those of which one was chosen.

        Raises:
            DataError: none of them is the plan of the checkpoint, or it has fewer epochs.

        Warns:
            UserWarning: there are more epochs than before, or a library has another version.
        """
        if self._contents is None:
            return None
        former = read_plain(Plan, self._contents.values["plan"], "plan")
        self._warn_of_libraries(self._contents.values.get("libraries", {}))
        now = next((plan for plan in plans if _has_stages_of(plan, former)), None)
        if now is None:
            pairs = zip(former.stages, plans[0].stages, strict=False)
            self._require_none(text for then, stage in pairs for text in _stage_differences(then, stage))
            self._refuse("its plan has other stages")
        finished = len(self._contents.values["stages"]["finished"])
        for number, (then, stage) in enumerate(zip(former.stages, now.stages, strict=True)):
            if stage.epochs < then.epochs or (number < finished and stage.epochs != then.epochs):
                self._refuse(f"epochs: {then.epochs} then, {stage.epochs} now; expected at least as many")
        epochs = [stage.epochs for stage in now.stages]
        resumed = replace(
            former, stages=tuple(replace(s, epochs=n) for s, n in zip(former.stages, epochs, strict=True))
        )
        if resumed != former:
            warnings.warn(
                f"{self._folder.path}: goes on to {counted(resumed.num_epochs, 'epoch')} in place of "
                f"{former.num_epochs}; those that are done had the learning rates of a training of {former.num_epochs}",
                stacklevel=4,
            )
            resumed = resumed.with_reason("epochs", f"as asked for; {former.num_epochs} when the training began")
        return resumed

    def result(self) -> dict[str, Any] | None:
        """Return what :meth:`finish` kept of the same plan; None where the fit is not finished."""
        result = self._folder.result()
        is_same = result is not None and self.plan is not None and result["num_epochs"] == self.plan.num_epochs
        return result if is_same else None

    def finish(self, **result: Any) -> None:
        """Mark the fit as finished, and keep plain values of its result; do nothing where there is no snapshot."""
        if self.plan is not None and self._folder.has_snapshot():
            self._folder.finish({"num_epochs": self.plan.num_epochs, **result})

    def how_to_go_on(self) -> str | None:
        """Return a sentence on how a fit that is interrupted now goes on; None where nothing is kept yet."""
        if not self._place:
            return None
        return f"{self._folder.path}: {self._place}; the same fit with resume=True goes on"

    def _write(self, snapshot: Snapshot, place: str) -> None:
        """Write a snapshot."""
        assert self.plan is not None
        values = {
            **self._belongs_to,
            "plan": self.plan.to_dict(),
            "place": place,
            "libraries": libraries(),
            "stages": snapshot.values,
        }
        self._folder.write(Contents(values, snapshot.arrays))
        self._place = place

    def _warn_of_libraries(self, former: dict[str, Any]) -> None:
        """Warn of libraries that have other versions than when the snapshot was taken."""
        now = libraries()
        found = [f"{name} {then} then, {now[name]} now" for name, then in former.items() if now.get(name, then) != then]
        if found:
            warnings.warn(
                f"{self._folder.path}: goes on with other libraries ({'; '.join(found)[:150]}); the last bits of the "
                f"result may differ from those of a fit that was not stopped",
                stacklevel=5,
            )

    def _require_none(self, found: Iterator[str]) -> None:
        """Refuse the checkpoint if there is a difference."""
        texts = list(found)
        if texts:
            more = f"; {len(texts) - _MOST_SHOWN} more" if len(texts) > _MOST_SHOWN else ""
            self._refuse("; ".join(texts[:_MOST_SHOWN]) + more)

    def _refuse(self, difference: str) -> NoReturn:
        """Raise an error for a checkpoint of another fit."""
        raise DataError(
            f"{str(self._folder.path)[:100]}: is the checkpoint of another fit ({difference}); expected the same data "
            f"and settings, or another folder"
        )


@contextmanager
def open_checkpoint(path: Any, *, resume: bool, name: str = "checkpoint") -> Iterator[Checkpoint | None]:
    """Open the folder of a checkpoint for the block, or do nothing where none was asked for.

    An interrupt that leaves the block gets a note on how to go on.

    Args:
        path: folder, or None.
        resume: go on from the snapshot in it, if there is one; otherwise there must be none.
        name: argument that the path was given as.

    Raises:
        ConfigError: the path is none, or there is nothing to resume from.
        DataError: the folder cannot be used, or holds a checkpoint and ``resume`` is false.
    """
    if not isinstance(resume, bool):
        raise ConfigError(f"resume={show(resume)}: expected True or False")
    if (ranks := distributed.current()) is not None:
        ranks.require_equal("checkpoints", None if path is None else f"{path}{', resumed' * resume}")
    if path is None:
        if resume:
            raise ConfigError("resume=True: expected checkpoint= beside it, the folder to go on from")
        yield None
        return
    if not isinstance(path, str | Path) or not str(path):
        raise ConfigError(f"{name}={show(path)}: expected the path of a folder")
    with _opened(Path(path)) as folder:
        if folder.has_snapshot() and not resume:
            raise DataError(
                f"{str(path)[:150]}: holds the checkpoint of a fit; expected resume=True to go on with it, or another "
                f"folder"
            )
        checkpoint = Checkpoint(folder, folder.read())
        try:
            yield checkpoint
        except KeyboardInterrupt as error:
            if (sentence := checkpoint.how_to_go_on()) is not None:
                error.add_note(sentence)
            raise


@contextmanager
def _opened(path: Path) -> Iterator[CheckpointFolder]:
    """Open a folder; of several processes that train together, the first one does, and the others see what it read.

    Raises:
        DataError: see :func:`open_folder`; on all ranks.
    """
    ranks = distributed.current()
    if ranks is None:
        with open_folder(path) as folder:
            yield folder
        return
    with ExitStack() as stack:
        opened: list[CheckpointFolder] = []

        def read() -> tuple[Contents | None, dict[str, Any] | None]:
            """Open the folder and return what it holds."""
            opened.append(stack.enter_context(open_folder(path)))
            return opened[0].read(), opened[0].result()

        contents, result = ranks.map_from_first(read)
        yield opened[0] if opened else SharedFolder(path, contents, result)


@contextmanager
def recording(checkpoint: Checkpoint | None, plan: Plan) -> Iterator[Recorder | None]:
    """Yield what takes the snapshots of the training of a plan within the block, in which signals wait for them."""
    if checkpoint is None:
        yield None
        return
    checkpoint.plan = plan
    with checkpoint.recorder.signals_wait():
        yield checkpoint.recorder


def _has_stages_of(plan: Plan, former: Plan) -> bool:
    """Return whether a plan leads to the stages of one that was carried out, epochs and a chosen l2 apart."""

    def comparable(stages: tuple[Stage, ...]) -> list[Stage]:
        stages = tuple(replace(stage, epochs=0) for stage in stages)
        return [replace(stages[0], l2=0.0) if plan.l2_trials else stages[0], *stages[1:]]

    return comparable(plan.stages) == comparable(former.stages)


def _stage_differences(then: Stage, now: Stage) -> Iterator[str]:
    """Yield which settings of a stage differ."""
    return differences(
        *({n: v for n, v in stage.to_dict().items() if n not in ("epochs", "l2")} for stage in (then, now))
    )
