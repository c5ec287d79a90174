"""Memory that a plan needs, refused in one sentence before it is allocated; of kernels before the data are read."""

from collections.abc import Sequence

from fastncf.cost import growth_bytes, least_bytes, loaded_bytes
from fastncf.data.split import Split
from fastncf.errors import InsufficientMemoryError, counted
from fastncf.evaluation.candidates import require_candidate_memory
from fastncf.kernels.cpu.compiler_memory import bytes_to_compile, compiler_error
from fastncf.kernels.cpu.text import find_fields, scan_records
from fastncf.measuring import TestSet
from fastncf.memory import format_bytes, require_memory, tightest_limit
from fastncf.plan import Plan
from fastncf.stage import BY_STATES, Stage
from fastncf.trainers import get


def require_compiler_memory(plans: Sequence[Plan | None], *, has_text: bool) -> None:
    """Refuse a fit whose kernels are not compiled yet where a limit leaves too little memory for the compiler.

    Args:
        plans: likely plans of the fit, of which one is carried out; None stands for no plan.
        has_text: whether the data may be a text.

    Raises:
        InsufficientMemoryError: says how much the limit would have to be.
    """
    limit = tightest_limit()
    stages = [stage for plan in plans if plan is not None for stage in plan.stages]
    needed = bytes_to_compile(_kernels_of(stages), (find_fields, scan_records) if has_text else ())
    if needed and needed + loaded_bytes(stages) > limit.left:
        raise compiler_error(needed + loaded_bytes(stages), limit)


def require_plan_memory(plan: Plan, split: Split) -> None:
    """Refuse a plan whose training or evaluation needs more memory than is available.

    Raises:
        InsufficientMemoryError: says how much is needed, and what would need less.
    """
    _require_within_limits(plan, plan.evaluation.num_candidates, ", or a smaller dim, num_negatives or num_candidates")
    _require_least(plan)
    if split.test_candidates is None and split.holdout != "none":
        require_candidate_memory(len(TestSet.of(split).users), plan.evaluation.num_candidates)


def require_training_memory(plan: Plan) -> None:
    """Refuse to train the stages of a plan, which is given, where that needs more memory than is available.

    Raises:
        InsufficientMemoryError: says how much is needed.
    """
    _require_within_limits(plan, 0, "")
    _require_least(plan)


def _require_least(plan: Plan) -> None:
    """Refuse a plan of which the parameters of a stage alone exceed the memory that is available.

    Raises:
        InsufficientMemoryError: says how much is needed, and what would need less.
    """
    data = plan.data
    for stage in plan.stages:
        if stage.device == "cpu":
            needed = least_bytes(
                stage, num_users=data.num_users, num_items=data.num_items, num_interactions=data.num_interactions
            )
            require_memory(
                f"{stage.model} with dim={stage.dim}, layers={stage.layers!r:.80} and "
                f"num_negatives={stage.num_negatives} for {counted(data.num_users, 'user')}, "
                f"{counted(data.num_items, 'item')} and {counted(data.num_interactions, 'interaction')}",
                needed,
                f"a smaller dim, {'batch_size' if stage.trainer in BY_STATES else 'layers'} or num_negatives",
            )


def _require_within_limits(plan: Plan, num_candidates: int, alternative: str) -> None:
    """Refuse a plan that is expected to need more memory than a limit of the fit or of a container leaves.

    Args:
        plan: what is trained.
        num_candidates: negatives that each held-out item is ranked against.
        alternative: what could be done beside a higher limit, in words.

    Raises:
        InsufficientMemoryError: says how much the limit would have to be.
    """
    data, stages = plan.data, tuple(stage for stage in plan.stages if stage.device == "cpu")
    if not stages:
        return
    compiling = bytes_to_compile(_kernels_of(stages))
    needed = (
        compiling
        + loaded_bytes(stages)
        + growth_bytes(
            stages,
            num_users=data.num_users,
            num_items=data.num_items,
            num_interactions=data.num_interactions,
            num_candidates=num_candidates,
            is_tight=True,
        )
    )
    if needed > (limit := tightest_limit()).left:
        once = f", {format_bytes(compiling)} of them to compile kernels, the first time only" if compiling else ""
        raise InsufficientMemoryError(
            f"{plan.final.model} with dim={plan.final.dim} and num_negatives={plan.final.num_negatives} for "
            f"{counted(data.num_interactions, 'interaction')}: is expected to need {format_bytes(needed)} more "
            f"of memory{once}, "
            f"{limit}, and {format_bytes(max(0, limit.left))} of it are left; expected: {limit.with_more(needed)} or "
            f"more{alternative}"
        )


def _kernels_of(stages: Sequence[Stage]) -> list[object]:
    """Return the large kernels that train stages on the CPU, each once."""
    kernels = {kernel: None for stage in stages if stage.device == "cpu" for kernel in get(stage.trainer).large_kernels}
    return list(kernels)
