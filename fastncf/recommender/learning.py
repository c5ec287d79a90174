"""A fitted model that takes new interactions, or is trained on all of them."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, Self

from fastncf import distributed
from fastncf.checkpoints import open_checkpoint, recording
from fastncf.checkpoints.fingerprint import data_of, settings_of
from fastncf.config import require_count
from fastncf.data.accounts import add_counts
from fastncf.data.titles import move_titles
from fastncf.data.updates import join_others
from fastncf.errors import ConfigError, DataError, DivergedError, counted, type_name
from fastncf.further_training import train_on, trains_module
from fastncf.kernels.cpu.factors import Factors
from fastncf.numpy_errors import with_usual_errors
from fastncf.progress import progress_shown, require_callback
from fastncf.recommender.fitted import FittedModel
from fastncf.refit import train_on_all
from fastncf.serving.histories import is_table, read_rows
from fastncf.trainers.loop import Progress, ProgressReporter, TrainingLog
from fastncf.updating import KnownModel, add_items, add_rows, holds_factors


class Learning(FittedModel):
    """Updates and refits of a fitted model."""

    @with_usual_errors
    def update(
        self,
        new: Any,
        *,
        epochs: int = 0,
        unknown: Literal["error", "skip"] = "error",
        callback: Callable[[Progress], object] | None = None,
        progress: bool = True,
    ) -> Self:
        """Take new interactions of known and of new users into the histories, and train further on request.

        The vectors of these users are computed from their whole histories: what was trained on, what was held out of
        them, and the new interactions, which count as later ones. Metrics stay those of the fit; :meth:`evaluate` ranks
        held-out items of the other users.

        Args:
            new: a frame or a file with columns of users, items and, perhaps, times.
            epochs: passes over all interactions by which the model is trained further, with half of the learning rate
                of the fit at their start; Adam begins with moments of zeros. New items are then taken into the
                catalogue.
            unknown: what is done about rows that lack a user, an item or a time, and without epochs about rows with
                items that the model does not know: ``error``, or ``skip`` them.
            callback: called after each epoch, see :func:`fastncf.fit`.
            progress: show a bar, see :func:`fastncf.fit`.

        Returns:
            The recommender itself.

        Raises:
            DataNotFoundError: there is no such file.
            DataError: the source cannot be used, or with ``error`` holds an item that the model does not know.
            ConfigError: ``epochs`` is no integer from 0; the callback cannot be called; the model is a module that does
                not name the tables that new users or items need rows in; its trainer cannot train here; or it needs the
                order of its histories and was saved without it.
            DivergedError: the training led to numbers that are not finite; the recommender stays as it was.
        """
        if not is_table(new):
            raise DataError(f"update: got {type_name(new)}; expected a frame or a file of users and items")
        epochs = require_count("epochs", epochs, least=0)
        require_callback(callback, progress)
        if self.plan.uses_order and self.order is None:
            raise ConfigError("update: the model was saved without the order of the histories; expected a new fit")
        known = self._known_for_update(epochs)  # before anything is read
        rows = read_rows(
            new, self.users, self.items, unknown, "update", self._reading(updates=True), takes_new=epochs > 0
        )
        if len(rows.items) > len(self.items):
            known = add_items(known, self.plan.final, rows.items)
        known, log = add_rows(known, self.plan, rows), TrainingLog()
        if epochs:
            with progress_shown(callback, is_shown=progress) as shown:
                is_new = self.items.encode(known.items.ids) < 0
                known, log = train_on(known, self.plan, epochs, ProgressReporter(shown, epochs), is_new)
        if self.titles is not None and len(known.items) > len(self.items):
            self.titles = move_titles(self.titles, self.items, known.items)
        self.trained, self.encoder, self.users, self.items, self.split, self.order, self.pretrained = known
        self._factor_items = None
        self.plan = self.plan.with_everything(self.split)
        how = f"and all trained on for {counted(epochs, 'epoch')}" if log else "without training"
        self.protocol += f"; afterwards {counted(len(rows.item), 'interaction was', 'interactions were')} added {how}"
        last = self.training_log[-1]["epoch"] if self.training_log else 0
        self.training_log = self.training_log + [entry | {"epoch": entry["epoch"] + last} for entry in log]
        self.data = self.data | {
            "users": len(self.users),
            "items": len(self.items),
            **add_counts(self.data, rows.counts, self.split.num_interactions),
            "num_users_all_seen": self.split.num_users_all_seen,
            "num_items_unknown": int((~self.split.is_known()).sum()),
        }
        return self

    @with_usual_errors
    def refit(
        self,
        *,
        callback: Callable[[Progress], object] | None = None,
        progress: bool = True,
        checkpoint: str | Path | None = None,
        resume: bool = False,
    ) -> Self:
        """Train again on all interactions, the held-out ones included, by the plan that was measured.

        The metrics stay those that were measured before, and :attr:`protocol` says so; a model in which nothing is held
        out cannot be measured any more. The result is that of ``fit`` with ``holdout=None``, with as many epochs as an
        early stopping has kept. What :meth:`update` has added is trained on as well.

        Args:
            callback: called after each epoch, see :func:`fastncf.fit`.
            progress: show a bar, see :func:`fastncf.fit`.
            checkpoint: folder for the state of this training, see :func:`fastncf.fit`; not that of the fit.
            resume: go on from the state in ``checkpoint``, if there is one.

        Within a process group all ranks call it, as they do :func:`fastncf.fit`.

        Returns:
            The recommender itself, trained anew.

        Raises:
            ConfigError: the model is a module of the user's own, whose untrained parameters are gone; it was saved by
                a version that did not keep the order of the interactions; or a trainer of its plan cannot train here.
            DivergedError: the training led to numbers that are not finite; the recommender stays as it was.
        """
        self._require_refittable()
        split, order, users = join_others(self.split, self.order, self.users)
        with (
            distributed.together(),
            progress_shown(callback, is_shown=progress if distributed.is_first() else False) as shown,
            open_checkpoint(checkpoint, resume=resume) as kept,
        ):
            if kept is not None:
                kept.require_same(
                    settings={**settings_of(self.config, None), "epochs of the stages": list(self.num_kept)},
                    data=data_of(users, self.items, split, order),
                )
                kept.resumed_plan([self.plan])
            reporter = ProgressReporter(shown, sum(self.num_kept or (self.plan.num_epochs,)))
            with reporter.stage("train"), recording(kept, self.plan) as recorder:
                num_kept = self.num_kept or None
                found = train_on_all(self.plan, None, split, order, reporter, num_kept, recorder)
            if kept is not None and found.trained.divergence is None:
                kept.finish()
        if found.trained.divergence is not None or found.trained.model is None:
            raise DivergedError(found.trained.divergence or "", self)
        size = len(found.split.indices)
        self.trained, self.plan, self.split = found.trained.model, found.plan, found.split
        self.order, self.num_kept, self.encoder = found.order, found.trained.num_kept, found.trained.encoder
        self.pretrained = found.trained.pretrained
        self.users = users
        told = f"; afterwards trained on all {size:,} interactions by the same plan, nothing held out"
        self.protocol = self.protocol.removesuffix(told) + told  # once, however often it is trained again
        self.data = {**self.data, "users": len(users), "num_items_unknown": int((~self.split.is_known()).sum())}
        seconds = reporter.total()["total"]
        self.seconds = {**self.seconds, "refit": seconds, "total": self.seconds.get("total", 0.0) + seconds}
        return self

    def _known_for_update(self, epochs: int) -> KnownModel:
        """Return the model with the data that it knows: as a module where torch trains it, or has trained it.

        A matrix factorization by torch stays the module that it is, since its factors may have other dimensions.
        """
        if epochs and trains_module(self.plan):
            data = self.users, self.items, self.split, self.order
            return KnownModel(self._as_module(), self.encoder, *data, self.pretrained)
        known = self._known_model()
        if isinstance(self.trained, Factors) or not isinstance(known.trained, Factors):
            return known
        stays = not epochs and self.encoder is None and holds_factors(self.trained, known.trained)
        return known._replace(trained=self.trained) if stays else known

    def _require_refittable(self) -> None:
        """Raise a ConfigError for a model that cannot be trained anew from its plan and its data."""
        from fastncf import models
        from fastncf.trainers import require_trainer

        if self.plan.final.model not in models.names():
            raise ConfigError(
                f"refit: the model is a module of your own ({self.plan.final.model:.80}), whose untrained parameters "
                f"are gone; expected fit(data, model=..., holdout=None) with a new module"
            )
        if self.plan.uses_order and self.order is None:
            raise ConfigError(
                "refit: the model was saved without the order of the interactions, by an older version; expected "
                "fit(data, holdout=None)"
            )
        for stage in self.plan.stages:
            if stage.epochs:
                require_trainer(stage, "refit")
