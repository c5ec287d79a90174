"""Charts of a page, as specifications of Vega-Lite, and the script that draws them."""

from collections.abc import Mapping, Sequence
from typing import Any

import altair as alt
import numpy as np
import vl_convert

from fastncf.report.measure import Curve

_HEIGHT = 260
_COLORS = ("#3b82c4", "#e08a2b", "#8a8f98", "#4aa564")
"""Colours that stand out on white and on black; the first is that of the model."""

_FEW_TO_MANY = ("#7a5bd6", "#2b8fb3", "#2f9a6c", "#b58900")
"""Colours from small to large numbers, each of which stands out on white and on black."""


def javascript() -> str:
    """Return the JavaScript of Vega, Vega-Lite and Vega-Embed, in the version that the specifications are for."""
    version = ".".join(alt.SCHEMA_VERSION.removeprefix("v").split(".")[:2])
    bundle: str = vl_convert.javascript_bundle("window.vegaEmbed = vegaEmbed;", vl_version=version)
    return bundle


def curves(by_series: Mapping[str, Curve], label: str) -> dict[str, Any]:
    """Return a chart of a metric over k, with error bars, for each series.

    Args:
        by_series: curves by the names of what they are of.
        label: name of the metric.
    """
    rows = [
        {"series": series, "k": int(k), "mean": mean, "low": mean - margin, "high": mean + margin}
        for series, curve in by_series.items()
        for k, mean, margin in zip(curve.k, curve.mean.tolist(), curve.margin.tolist(), strict=True)
    ]
    base = alt.Chart(alt.Data(values=rows)).encode(
        x=alt.X("k:Q", title="k", axis=alt.Axis(tickMinStep=1)), color=_color(list(by_series))
    )
    tooltip = [alt.Tooltip("series:N"), alt.Tooltip("k:Q"), *(_number(name) for name in ("mean", "low", "high"))]
    mean = alt.Y("mean:Q", title=label, scale=alt.Scale(zero=True))
    return _finish(
        base.mark_rule().encode(y=alt.Y("low:Q", title=label), y2="high:Q")
        + base.mark_line().encode(y=mean)
        + base.mark_circle(size=36).encode(y=mean, tooltip=tooltip)
    )


def lines(by_series: Mapping[str, Sequence[float]], x: Sequence[float], titles: tuple[str, str]) -> dict[str, Any]:
    """Return a chart of lines over common values of x.

    Args:
        by_series: values of y by the names of what they are of, NaN where there is none.
        x: values of x.
        titles: of the axes x and y.
    """
    rows = [
        {"series": series, "x": float(at), "y": float(value)}
        for series, values in by_series.items()
        for at, value in zip(x, values, strict=True)
        if np.isfinite(value)
    ]
    base = alt.Chart(alt.Data(values=rows)).encode(
        x=alt.X("x:Q", title=titles[0], axis=alt.Axis(tickMinStep=1), scale=alt.Scale(zero=False, nice=False)),
        y=alt.Y("y:Q", title=titles[1], scale=alt.Scale(zero=False)),
        color=_color(list(by_series)),
    )
    tooltip = [alt.Tooltip("series:N"), _number("x", titles[0]), _number("y", titles[1])]
    return _finish(base.mark_line() + base.mark_circle(size=36).encode(tooltip=tooltip))


def bars(values: Mapping[str, float], title: str) -> dict[str, Any]:
    """Return a chart of horizontal bars, in the order of the values given.

    Args:
        values: lengths of the bars by their names.
        title: of the axis.
    """
    rows = [{"name": name, "value": value} for name, value in values.items()]
    chart = alt.Chart(alt.Data(values=rows)).mark_bar(color=_COLORS[0])
    return _finish(
        chart.encode(
            x=alt.X("value:Q", title=title),
            y=alt.Y("name:N", title=None, sort=list(values)),
            tooltip=[alt.Tooltip("name:N"), _number("value", title)],
        ),
        height=34 * len(values),
    )


def to_svg(specification: Mapping[str, Any], width: int) -> str:
    """Return a chart as SVG.

    Args:
        specification: what a function of this module returned.
        width: of the picture without its labels, in pixels.
    """
    drawn: str = vl_convert.vegalite_to_svg({**specification, "width": width})
    return drawn


def item_map(points: np.ndarray, names: Sequence[str], ids: Sequence[str], counts: np.ndarray) -> dict[str, Any]:
    """Return a map of items, each a point with its name on hover.

    Args:
        points: (n, 2) positions.
        names: n titles.
        ids: n raw ids.
        counts: (n,) interactions, which the colour shows.
    """
    rows = [
        {"x": round(float(x), 4), "y": round(float(y), 4), "item": name, "id": raw_id, "interactions": int(count)}
        for (x, y), name, raw_id, count in zip(points, names, ids, counts, strict=True)
    ]
    hidden = alt.Axis(labels=False, ticks=False, title=None, domain=False, grid=False)
    most = max(1, int(counts.max(initial=0)))
    scale = alt.Scale(type="symlog", domain=[0, most], range=list(_FEW_TO_MANY))
    legend = alt.Legend(title="interactions", orient="bottom", values=_ticks(most))
    return _finish(
        alt.Chart(alt.Data(values=rows))
        .mark_circle(size=42, opacity=0.75, aria=False)
        .encode(
            x=alt.X("x:Q", axis=hidden),
            y=alt.Y("y:Q", axis=hidden),
            color=alt.Color("interactions:Q", scale=scale, legend=legend),
            tooltip=[alt.Tooltip("item:N"), alt.Tooltip("id:N"), alt.Tooltip("interactions:Q", format=",")],
        ),
        height=460,
    )


def _ticks(most: int) -> list[int]:
    """Return numbers from 0 to some number that have about equal distances on a logarithmic scale, at most a dozen."""
    powers = [10**exponent for exponent in range(len(str(most)))]
    between = [3 * power for power in powers] if most < 1_000 else []
    return [0, *sorted(tick for tick in powers + between if tick <= most)]


def _color(series: list[str]) -> alt.Color:
    """Return the colour of each series, with a legend where there are several."""
    legend = alt.Legend(title=None, orient="bottom") if len(series) > 1 else None
    return alt.Color("series:N", sort=series, legend=legend, scale=alt.Scale(domain=series, range=list(_COLORS)))


def _number(name: str, title: str | None = None) -> alt.Tooltip:
    """Return a tooltip of a number."""
    return alt.Tooltip(f"{name}:Q", format=".4~g", title=title or name)


def _finish(chart: alt.Chart | alt.LayerChart, height: int = _HEIGHT) -> dict[str, Any]:
    """Return the specification of a chart that is as wide as the page lets it be."""
    return chart.properties(width="container", height=height).to_dict()
