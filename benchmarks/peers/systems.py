"""The systems of the comparison: where each comes from, and the settings that are tried for it.

The first settings of a system are its library's defaults. RecTools' SASRec begins with smaller ones, as its paper has
them, and ends with the defaults, which are made for GPUs. All are tried on validation items, in their order, for as
long as the budget lasts.
"""

from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class System:
    """A system.

    Attributes:
        label: what the tables call it.
        adapter: module of ``benchmarks.peers.adapters``.
        name: class in it.
        environment: name of the environment that it runs in; None for that of fastncf.
        trials: settings, the first ones first.
    """

    label: str
    adapter: str
    name: str
    environment: str | None
    trials: tuple[dict[str, Any], ...] = field(default=({},))


ENVIRONMENTS: dict[str, tuple[str, ...]] = {
    "plain": ("numpy==2.4.6", "scipy==1.17.1"),
    "implicit": ("implicit==0.7.3", "threadpoolctl==3.8.0"),
    "lenskit": ("lenskit==2025.8.1",),
    "cornac": ("cornac==3.0.1", "torch==2.13.0"),
    "rectools": ("rectools[torch]==0.19.0", "torch==2.13.0"),
    "recbole": ("recbole==1.2.1", "numpy==1.26.4", "pandas==2.1.4", "torch==2.13.0"),  # 1.2.1 fails with NumPy 2
    "notebook": ("pandas", "torch==2.13.0"),
}
"""Packages of each environment, by names and versions of PyPI."""

SYSTEMS: dict[str, System] = {
    "fastncf": System("fastncf `mf`, the default", "fastncf_models", "FastNCF", None),
    "fastncf-fast": System('fastncf `mf`, `budget="fast"`', "fastncf_models", "FastNCF", None, ({"budget": "fast"},)),
    "fastncf-mf": System('fastncf `mf`, `history="none"`', "fastncf_models", "FastNCF", None, ({"history": "none"},)),
    "fastncf-bce": System('fastncf `mf`, `loss="bce"`', "fastncf_models", "FastNCF", None, ({"loss": "bce"},)),
    "fastncf-neumf": System("fastncf `neumf`", "fastncf_models", "FastNCF", None, ({"model": "neumf"},)),
    "popularity": System("popularity", "plain", "Popularity", "plain"),
    "ease": System("EASE", "plain", "EASE", "plain", tuple({"l2": l2} for l2 in (500, 200, 1000, 100, 2000))),
    "item-knn": System(
        "item kNN (implicit)",
        "implicit_models",
        "ItemKNN",
        "implicit",
        tuple(
            {"similarity": similarity, "neighbours": neighbours}
            for neighbours in (20, 100, 300)
            for similarity in ("cosine", "tfidf", "bm25")
        ),
    ),
    "implicit-als": System(
        "implicit ALS",
        "implicit_models",
        "ALS",
        "implicit",
        tuple(
            {"factors": factors, "regularization": regularization, "alpha": alpha, "iterations": 15}
            for factors, regularization, alpha in (
                (100, 0.01, 1.0),
                (64, 10, 5.0),
                (128, 10, 5.0),
                (64, 1, 10.0),
                (128, 1, 20.0),
                (256, 10, 5.0),
            )
        ),
    ),
    "implicit-bpr": System(
        "implicit BPR",
        "implicit_models",
        "BPR",
        "implicit",
        tuple(
            {"factors": factors, "learning_rate": rate, "regularization": regularization, "iterations": iterations}
            for factors, rate, regularization, iterations in (
                (100, 0.01, 0.01, 100),
                (64, 0.05, 0.01, 100),
                (64, 0.05, 0.001, 100),
                (64, 0.01, 0.001, 300),
                (128, 0.1, 0.01, 100),
            )
        ),
    ),
    "lenskit-als": System(
        "LensKit ALS",
        "lenskit_models",
        "ALS",
        "lenskit",
        tuple(
            {"embedding_size": size, "weight": weight, "regularization": regularization, "epochs": epochs}
            for size, weight, regularization, epochs in (
                (50, 40, 0.1, 10),
                (64, 5, 0.1, 10),
                (64, 5, 10, 10),
                (128, 10, 1, 10),
            )
        ),
    ),
    "lenskit-knn": System(
        "LensKit item kNN",
        "lenskit_models",
        "ItemKNN",
        "lenskit",
        tuple({"max_nbrs": count} for count in (20, 50, 100)),
    ),
    "cornac-bpr": System(
        "Cornac BPR",
        "cornac_models",
        "BPR",
        "cornac",
        tuple(
            {"k": k, "learning_rate": rate, "lambda_reg": l2, "max_iter": epochs}
            for k, rate, l2, epochs in (
                (10, 0.001, 0.01, 100),
                (64, 0.05, 0.01, 100),
                (64, 0.05, 0.001, 100),
                (64, 0.01, 0.001, 200),
            )
        ),
    ),
    "cornac-neumf": System(
        "Cornac NeuMF",
        "cornac_models",
        "NeuMF",
        "cornac",
        tuple(
            {"num_factors": factors, "layers": layers, "batch_size": size, "lr": rate, "num_epochs": 20}
            for factors, layers, size, rate in (
                (8, (64, 32, 16, 8), 256, 0.001),
                (32, (128, 64, 32), 2048, 0.002),
                (64, (256, 128, 64), 4096, 0.005),
            )
        ),
    ),
    "recbole-neumf": System(
        "RecBole NeuMF",
        "recbole_models",
        "NeuMF",
        "recbole",
        tuple(
            {"mf_embedding_size": size, "mlp_embedding_size": size, "learning_rate": rate, "train_batch_size": batch}
            for size, rate, batch in ((64, 0.001, 2048), (64, 0.005, 8192), (32, 0.002, 4096))
        ),
    ),
    "recbole-sasrec": System(
        "RecBole SASRec",
        "recbole_models",
        "SASRec",
        "recbole",
        tuple(
            {"hidden_size": size, "inner_size": 4 * size, "learning_rate": rate, "train_batch_size": batch}
            for size, rate, batch in ((64, 0.001, 2048), (64, 0.003, 512))
        ),
    ),
    "rectools-sasrec": System(
        "RecTools SASRec",
        "rectools_models",
        "SASRec",
        "rectools",
        tuple(
            {"n_factors": factors, "session_max_len": length, "lr": rate, "batch_size": size, "loss": loss}
            for factors, length, rate, size, loss in (
                (64, 50, 0.001, 128, "softmax"),
                (64, 50, 0.003, 128, "softmax"),
                (128, 100, 0.002, 128, "softmax"),
                (256, 100, 0.001, 128, "softmax"),
            )
        ),
    ),
    "notebook": System("the notebook's loops", "notebook", "Notebook", "notebook", ({"epochs": 5},)),
}
"""The systems, by the names that ``--systems`` takes."""
