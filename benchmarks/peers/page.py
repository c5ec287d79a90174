"""The table of ``RESULTS.md`` and its picture, from the results as JSON."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt

from benchmarks.peers.evaluator import K
from benchmarks.peers.systems import SYSTEMS

_OURS = "fastncf"
_FULL, _SAMPLED = f"full/ndcg@{K}", f"ndcg@{K}"


def table(found: dict[str, Any]) -> Iterator[str]:
    """Yield the lines of the page: for each data set a table, and where a peer is better than the default."""
    yield (
        f"{found['machine']}; Python {found['versions']['python']}. Each system is in an environment and a process of "
        "its own. NDCG@10 ± its standard error over users. Seconds are of the processor, in brackets those of the "
        "clock, which the other work on the machine prolongs; the load is its average over a minute, at the end. Peak "
        "memory is that of the process, installed size that of all packages; fastncf's own is that of the environment "
        "that the command runs in, with what develops it. A system without a row was not measured."
    )
    for name, data in found["data"].items():
        yield ""
        yield (
            f"**{name}**: {data['users']:,} users, {data['items']:,} items, {data['interactions']:,} interactions; "
            f"{_limits(data)}"
        )
        yield ""
        yield (
            "| system | NDCG@10, whole catalogue | HR@10 | NDCG@10, 1 + 99 | HR@10 | prepare, s | fit, s | lists, s | "
            "load | peak memory | installed | trials | trained |"
        )
        yield "|" + "---|" * 13
        for key in _ordered(data["results"]):
            yield _row(found, key, data["results"][key])
        yield ""
        yield from _verdict(data["results"])
    failed = {key: system["failed"] for key, system in found["systems"].items() if "failed" in system}
    for key, reason in failed.items():
        yield f"\n{SYSTEMS[key].label} could not be installed: {reason}"


def _limits(data: dict[str, Any]) -> str:
    """Return the limits of the fits of a data set in words: those of most systems first, then those of the others."""
    kinds: dict[tuple[float, ...], list[str]] = {}
    for key, result in data["results"].items():
        kinds.setdefault(tuple(result["limits"].values()), []).append(SYSTEMS[key].label)
    told = [
        f"{tuning:g} s for all trials of a system, {fit:g} s for the training of the final fit and {answers:g} s for "
        f"everything else, on {threads:g} thread{'s' * (threads > 1)}"
        for tuning, fit, answers, threads in sorted(kinds, key=lambda kind: -len(kinds[kind]))
    ]
    labels = sorted(kinds.values(), key=len, reverse=True)
    others = "".join(f" For {', '.join(those)}: {words}." for those, words in zip(labels[1:], told[1:], strict=True))
    return f"limits of processor time: {told[0]}.{others}"


def _ordered(results: dict[str, Any]) -> list[str]:
    """Return the systems, the best in the whole catalogue first, and those that failed last."""
    return sorted(results, key=lambda key: -results[key].get("metrics", {}).get(_FULL, -1.0))


def _row(found: dict[str, Any], key: str, result: dict[str, Any]) -> str:
    """Return the row of a system."""
    label, tried = SYSTEMS[key].label, f"{len(result['trials'])} of {result['num_trials']}"
    if "settings_of" in result:
        tried = f"those of {result['settings_of']}"
    size = f"{found['systems'][key]['bytes'] / 1e6:,.0f} MB"
    if "failed" in result:
        return f"| {label} | {result['failed']} | | | | | | | {result['load']:.1f} | | {size} | {tried} | |"
    metrics, seconds = result["metrics"], result["seconds"]
    full = f"{metrics[_FULL]:.4f} ± {metrics[_FULL + ' error']:.4f} | {metrics[f'full/hr@{K}']:.4f}"
    sampled = f"{metrics[_SAMPLED]:.4f} | {metrics[f'hr@{K}']:.4f}" if _SAMPLED in metrics else "no scores | "
    parts = " | ".join(
        f"{result['processor_seconds'][part]:.1f} ({seconds[part]:.1f})" for part in ("prepare", "fit", "lists")
    )
    return (
        f"| {label} | {full} | {sampled} | {parts} | {result['load']:.1f} | "
        f"{result['peak_bytes'] / 1e6:,.0f} MB | {size} | {tried} | {result['done']} |"
    )


def _verdict(results: dict[str, Any]) -> Iterator[str]:
    """Yield which peers are better than fastncf's default, and in what."""
    measured = {key: result for key, result in results.items() if "metrics" in result}
    if _OURS not in measured:
        return
    ours = measured[_OURS]
    for what, value, sign in (
        ("NDCG@10 in the whole catalogue", lambda result: result["metrics"][_FULL], 1),
        ("NDCG@10 among 1 + 99", lambda result: result["metrics"].get(_SAMPLED, -1.0), 1),
        ("processor time in all", lambda result: sum(result["processor_seconds"].values()), -1),
        ("peak memory", lambda result: result["peak_bytes"], -1),
    ):
        better = [
            SYSTEMS[key].label
            for key in _ordered(measured)
            if SYSTEMS[key].environment is not None and sign * value(measured[key]) > sign * value(ours)
        ]
        names = ", ".join(better) or "none of the peers measured"
        yield f"- Better than fastncf's default in {what}, within these limits: {names}."


def draw(found: dict[str, Any], path: Path) -> None:
    """Draw NDCG@10 in the whole catalogue over the processor time of the final fit, a panel for each data set."""
    plt.rcParams.update({"svg.hashsalt": "fastncf", "svg.fonttype": "none"})
    figure, all_axes = plt.subplots(
        1, len(found["data"]), figsize=(5.2 * len(found["data"]), 5), layout="constrained", squeeze=False
    )
    for axes, (name, data) in zip(all_axes[0], found["data"].items(), strict=True):
        for key, result in data["results"].items():
            if "metrics" not in result:
                continue
            is_own = SYSTEMS[key].environment is None
            at = sum(result["processor_seconds"].values()), result["metrics"][_FULL]
            axes.plot(*at, "o", color="#c0392b" if is_own else "#3b6ea5")
            axes.annotate(SYSTEMS[key].label.replace("`", ""), at, xytext=(4, 3), textcoords="offset points", size=7)
        axes.set_xscale("log")
        axes.set_xlabel("processor time of the fit with its answers, s")
        axes.set_ylabel("NDCG@10, whole catalogue")
        axes.set_title(name)
        axes.margins(x=0.35)
    figure.savefig(path, metadata={"Date": None})
    plt.close(figure)
