"""The fitted recommender as one class."""

from fastncf.recommender.learning import Learning
from fastncf.recommender.measuring import Measuring
from fastncf.recommender.saving import Saving
from fastncf.recommender.vectors import Vectors


class Recommender(Vectors, Learning, Measuring, Saving):
    """A fitted model with its data: made by :func:`fastncf.fit` or :func:`fastncf.load`.

    Attributes:
        trained: an ``nn.Module``, or the factors that a kernel trained; see :attr:`model`.
        config: settings as they were asked for.
        plan: settings that were used, with reasons.
        users: raw user ids.
        items: raw item ids.
        split: training interactions and held-out items, as indices.
        metrics: e.g. ``{"hr@10": ..., "ndcg@10": ..., "mrr": ...}``; keys of the full ranking start with ``full/``.
        errors: standard error of each metric over users.
        popularity: the same metrics of the most popular items, in the same lists.
        protocol: how the metrics were measured, in words.
        data: counts: users, items, interactions, num_users_all_seen, num_users_too_short; num_rows, the rows that were
            read, and what became of those that are no interactions: num_duplicates, num_missing, num_low_rated,
            num_of_other_users (with ``user_fraction``) and num_skipped (in updates), which add up with the interactions
            to num_rows; what has no training interaction: num_items_unknown, num_test_items_unknown and
            num_candidates_unknown (entries of given candidates); num_candidates_seen, entries of given candidates that
            their user has seen.
        seconds: by section of the fit: read, split, tune, sample, train, evaluate, total; sampling may overlap
            with training.
        training_log: one dict per epoch: epoch, loss, seconds and, with validation, its metrics.
        encoder: computes users' vectors from histories, for an ``mf`` that uses them; otherwise None.
        pretrained: what an ``mlp`` or ``neumf`` keeps of the model that it was pretrained by, for new users.
        found: format, columns and rows that were recognised in the source.
        order: (N,) int32, for each user the positions in its row of the split from the oldest interaction to the
            latest; None where the model is trained without it.
        num_kept: for each stage of the plan, the number of epochs after which its parameters were kept.
        titles: (I,) String, titles of the items, null for one without; None where none were given.
    """
