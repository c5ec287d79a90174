"""Command that compares saved models."""

import os
from typing import Literal

from fastncf.cli.app import Common, Json, Lengths, PathArgument
from fastncf.cli.output import print_json, print_lines


def compare(
    first: PathArgument,
    *others: PathArgument,
    k: Lengths = None,
    num_candidates: int | None = None,
    full_ranking: bool | None = None,
    metrics: list[str] | None = None,
    candidate_sampling: Literal["uniform", "popularity"] | None = None,
    confidence: float = 0.95,
    seed: int = 0,
    format: Literal["text", "markdown", "latex"] = "text",
    json: Json = False,
    common: Common | None = None,
) -> None:
    """Measure saved models on the same users and candidates, and compare each pair of them user by user.

    Prints the metrics of each model with their standard errors over users, and the differences of each pair of models
    with confidence intervals and with p-values corrected for the number of differences. All models are measured by the
    first one's held-out items, candidates and settings; a model of another split is refused.

    Parameters
    ----------
    first
        Folder that ``fastncf fit --out`` wrote.
    others
        Folders of the other models.
    k
        Length of the ranking that metrics such as HR@k look at; several are separated by commas.
    num_candidates
        Negatives that a held-out item is ranked against.
    full_ranking
        Also rank against the whole catalogue.
    metrics
        Metrics, such as recall or hr,recall. By default those of the first model's fit.
    candidate_sampling
        How candidates are drawn: uniformly, or by popularity.
    confidence
        Confidence of the intervals, above 0 and below 1.
    seed
        Determines the draws of the intervals and p-values.
    format
        Form of the tables: text, markdown, or latex, which needs the package booktabs.
    """
    from fastncf.comparison import compare as compare_models

    found = compare_models(
        *(os.fspath(path) for path in (first, *others)),
        k=k,
        num_candidates=num_candidates,
        full_ranking=full_ranking,
        metrics=metrics,
        candidate_sampling=candidate_sampling,
        confidence=confidence,
        seed=seed,
    )
    if json:
        print_json(found.to_dict())
        return
    text = {"text": found.__str__, "markdown": found.to_markdown, "latex": found.to_latex}[format]()
    print_lines(*text.split("\n"))
