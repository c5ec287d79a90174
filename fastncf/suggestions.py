"""The name that was meant by an unknown one: of a setting, an option or a command."""

import difflib
from collections.abc import Iterable

_SYNONYMS = {
    "batch-size": ("batch", "bs", "minibatch", "minibatch-size"),
    "callback": ("callbacks", "on-epoch-end", "hook"),
    "deterministic": ("reproducible", "cudnn-deterministic"),
    "device": ("accelerator", "cuda", "gpu", "gpus", "use-cuda", "use-gpu"),
    "dim": (
        *("d", "dimension", "dimensions", "emb-dim", "emb-size", "embed-dim", "embed-size", "embedding-dim"),
        *("embedding-size", "factors", "latent-dim", "n-components", "n-factors", "num-factors", "rank"),
    ),
    "drop-missing": ("dropna", "skip-missing"),
    "dropout": ("drop-rate", "dropout-rate"),
    "encoding": ("charset",),
    "epochs": (
        *("epoch", "iter", "iterations", "iters", "max-epochs", "max-iter", "n-epochs", "n-iter", "nb-epoch"),
        *("nb-epochs", "num-epochs", "num-iterations"),
    ),
    "full-ranking": ("full", "full-rank", "rank-all"),
    "include-seen": ("keep-seen", "seen", "with-seen"),
    "init-std": ("init", "init-scale", "sigma", "std"),
    "item": ("iid", "item-col", "item-column", "item-id", "itemid", "item-key", "movie", "movie-id", "movieid"),
    "k": ("cutoff", "limit", "n", "num-items", "top", "top-k", "top-n", "topk", "topn"),
    "l2": ("decay", "l2-reg", "lambda", "reg", "reg-lambda", "regularization", "regularisation", "wd", "weight-decay"),
    "layers": ("hidden", "hidden-dims", "hidden-layers", "hidden-sizes", "hidden-units", "mlp-layers"),
    "learning-rate": ("alpha", "eta", "lr", "lrate", "rate", "step-size"),
    "loss": ("criterion", "loss-fn", "objective"),
    "model": ("algo", "algorithm", "arch", "architecture", "net"),
    "num-candidates": ("eval-negatives", "n-candidates", "num-neg-test", "num-test-negatives", "test-negatives"),
    "num-negatives": (
        *("n-neg", "n-negatives", "neg", "neg-ratio", "neg-samples", "negative-samples", "negs", "num-neg", "num-ng"),
        *("num-negs", "negative-ratio"),
    ),
    "optimizer": ("opt", "optim", "optimiser", "solver"),
    "out": ("dest", "model-dir", "o", "output", "save", "save-to"),
    "patience": ("early-stop", "early-stopping", "early-stopping-patience"),
    "precision": ("amp", "bf16", "dtype", "fp16", "half", "mixed-precision"),
    "progress": ("progress-bar", "progressbar", "show-progress", "tqdm", "verbose"),
    "quiet": ("silent",),
    "schedule": ("lr-schedule", "lr-scheduler", "scheduler"),
    "seed": ("manual-seed", "random-seed", "random-state", "rng"),
    "test": ("test-data", "test-file", "test-set", "testset"),
    "time": ("date", "time-col", "time-column", "timestamp", "timestamp-col"),
    "time-format": ("date-format", "datetime-format"),
    "user": ("uid", "user-col", "user-column", "user-id", "userid", "user-key"),
    "user-fraction": ("frac", "fraction", "sample", "sample-fraction", "subsample"),
    "validation": ("val", "valid", "validate"),
    "evaluate": ("eval", "score", "test"),
    "fit": ("learn", "train"),
    "generate": ("make-data", "synthesize"),
    "info": ("describe", "inspect", "show", "summary"),
    "plan": ("dry-run", "preview"),
    "recommend": ("infer", "inference", "predict", "rec", "topk"),
    "similar": ("neighbors", "neighbours", "nearest", "related"),
    "update": ("add", "partial-fit"),
    "datasets": ("data", "list-datasets"),
}
"""Names that other programs have for settings, options and commands of fastncf, with dashes between words."""


def nearest_name(name: str, known: Iterable[str]) -> str | None:
    """Return the name that is meant by an unknown one, or None.

    Names are compared with dashes and with underscores alike. What other programs call the same thing is tried first,
    then initials, a prefix, whole words, and last similar letters.

    Args:
        name: the unknown name, without dashes at its start.
        known: names that are known.
    """
    name = name.lower().replace("_", "-")
    words = set(name.split("-"))
    candidates = {other.replace("_", "-"): other for other in known}
    is_negated = name.startswith("no-")
    candidates = {dashed: other for dashed, other in candidates.items() if dashed.startswith("no-") == is_negated}
    tests = (
        lambda other: name in _SYNONYMS.get(other, ()),
        lambda other: name == other,
        lambda other: len(name) > 1 and name == "".join(word[0] for word in other.split("-")),
        lambda other: len(name) > 2 and (other.startswith(name) or (len(other) > 2 and name.startswith(other))),
        lambda other: len(other) > 2 and set(other.split("-")) <= words,
    )
    for is_meant in tests:
        if found := [other for other in candidates if is_meant(other)]:
            return candidates[min(found, key=len)]
    close = difflib.get_close_matches(name, candidates, n=1) if len(name) > 3 else []
    return candidates[close[0]] if close else None
