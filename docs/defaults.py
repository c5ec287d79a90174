"""The page of defaults, made from :mod:`fastncf.recipes`: ``python docs/defaults.py > docs/defaults.md``."""

from fastncf.recipes import (
    ADAM,
    ADAM_BY_MODEL,
    FAST_ADAM,
    FAST_FINE_TUNING,
    FAST_LAYERS,
    FAST_NEXT_ITEM,
    FAST_NEXT_ITEM_SPARSE,
    FAST_OTHER_ITEMS,
    FAST_SGD,
    FAST_SGD_SPARSE,
    FAST_STEPS,
    FINE_TUNING,
    FULL_EPOCHS_FROM,
    GENERAL,
    L2_FACTORS,
    L2_SEARCH_UP_TO,
    LARGE,
    LARGE_DROPOUT,
    LARGE_FROM,
    LARGE_POSITIONS,
    LARGE_SPARSE_DROPOUT,
    LOSS_TRIALS_UP_TO,
    NEXT_ITEM,
    NEXT_ITEM_SPARSE,
    OTHER_ITEMS,
    OTHER_ITEMS_SPARSE,
    PRETRAINING,
    PRETRAINING_FROM_DIM,
    SGD,
    SGD_SPARSE,
    SPARSE_BELOW,
)


def defaults_as_markdown() -> str:
    """Return the tables of defaults, as ``docs/defaults.md`` has them."""
    recipes = [
        GENERAL,
        *SGD.values(),
        *SGD_SPARSE.values(),
        FAST_SGD,
        FAST_SGD_SPARSE,
        NEXT_ITEM,
        NEXT_ITEM_SPARSE,
        FAST_NEXT_ITEM,
        FAST_NEXT_ITEM_SPARSE,
        OTHER_ITEMS,
        OTHER_ITEMS_SPARSE,
        FAST_OTHER_ITEMS,
        ADAM,
        ADAM_BY_MODEL["mf"],
        ADAM_BY_MODEL["mlp"],
        FAST_ADAM,
        FAST_LAYERS,
        FINE_TUNING,
        FAST_FINE_TUNING,
    ]
    names = list(dict.fromkeys(name for recipe in recipes for name in recipe.settings))
    lines = [
        "# Defaults",
        "",
        "Settings that are left out are chosen by `fastncf/plan.py` from the values of `fastncf/recipes.py`. This page",
        "is generated from them: `python docs/defaults.py`. `fastncf plan FILE` prints what is chosen for a file, and",
        "why. If several rows of the table apply, a row holds only what differs from the rows above it.",
        "",
        f"| default | {' | '.join(f'`{name}`' for name in names)} |",
        f"|---|{'---|' * len(names)}",
    ]
    for situation, settings in recipes:
        cells = [str(settings.get(name, "")) for name in names]
        lines.append(f"| {situation} | {' | '.join(cells)} |")
    lines += [
        "",
        f"- Data with fewer than {SPARSE_BELOW} training interactions per item are sparse.",
        f"- The epochs of an `mlp` that starts from an `mf` are for {FULL_EPOCHS_FROM:,} interactions and more; with",
        "  fewer they are multiplied by the cube root of that number divided by the number of interactions.",
        f"- Softmax with histories and a fast budget takes more epochs until they have {FAST_STEPS:,} steps, up to",
        f"  {NEXT_ITEM.settings['epochs']}. On more than {LARGE_FROM:,} training interactions softmax with histories",
        f"  takes {LARGE['best']['num_negatives']} negatives, or {LARGE['fast']['num_negatives']} with a fast budget,",
        f"  {LARGE['best']['dim']} dimensions, dropout {LARGE_DROPOUT}, or {LARGE_SPARSE_DROPOUT} if sparse,",
        "  and as many epochs as visit",
        f"  {LARGE_POSITIONS['best']:,}, or {LARGE_POSITIONS['fast']:,}, interactions in all, at least one.",
        f'- Up to {L2_SEARCH_UP_TO:,} training interactions, with `budget="best"` and no `l2` given, the `l2` of `sgd`',
        f"  is the recipe's multiplied by {', '.join(map(str, L2_FACTORS[:-1]))} or {L2_FACTORS[-1]}: the one that",
        "  best ranks items that are taken out of the training for this choice and put back afterwards.",
        "- For an `mf` without a given `loss`, `optimizer` or `l2`, on histories, `loss` is `softmax`, and up to",
        f"  {LOSS_TRIALS_UP_TO:,} training interactions `bce` where that ranks held-out items better. On more of them",
        "  without an order it is `bce`, which takes less time.",
        f"- `optimizer` is `pretrain` for {' and '.join(f'`{name}`' for name in PRETRAINING)} (`dim` of "
        f"{PRETRAINING_FROM_DIM} or more), `sgd` where one of",
        "  its trainers takes the model, otherwise `adam`. An `mlp` starts from an `mf`; a `neumf` is the weighted sum",
        "  of a `gmf` and an `mlp`.",
        "- `history` is `sequence` where the data have times, what is held out is not drawn at random, and items that",
        "  follow each other in one user's history do so in others'; otherwise `bag`. `adam` trains no histories.",
        "- `device` is the CPU for what `sgd` trains, otherwise CUDA where it is available.",
        "- `precision` is `bfloat16` on CUDA devices that multiply in it themselves, otherwise `float32`.",
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    print(defaults_as_markdown())
