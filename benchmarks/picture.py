"""The picture of one run, an SVG by hand: every load relative to PgBouncer, which is the line at 1."""

from __future__ import annotations

from html import escape
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from benchmarks.results import Results

PANELS = (
    ("tps", "Throughput", "longer is better"),
    ("cpu", "Proxy CPU per query", "shorter is better"),
    ("p99", "Latency p99", "shorter is better"),
)
COLOURS = ("#2f6fde", "#b9c0ca", "#e0a458")
_LABELS, _PANEL, _GAP, _BAR, _TOP, _MARGIN = 110, 270, 30, 11, 76, 16
_LINE = 'stroke="#c2410c" stroke-width="1.5" stroke-dasharray="4 3"'
_FONT = 'font-family="system-ui, sans-serif" font-size="12" fill="#1f2733"'
_HALO = 'stroke="#ffffff" stroke-width="3" paint-order="stroke"'
_LIMIT = 3.0  # longer bars are cut, and carry their number all the same


def draw(results: Results, names: Sequence[str], bouncer: str, title: str) -> str:
    """`names` in the order of the bars; the first is ours and gets the strongest colour."""
    loads = [load for load in results.loads("tps") if load[-1].isdigit()]
    step = _BAR * len(names) + 12
    height = _TOP + step * len(loads) + 44
    width = _MARGIN * 2 + _LABELS + (_PANEL + _GAP) * len(PANELS)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" {_FONT}>',
        f'<rect width="{width}" height="{height}" fill="#ffffff"/>',
        _text(_MARGIN, 24, title, 'font-size="15" font-weight="600"'),
        *_legend(names, bouncer, height - 16),
    ]
    for row, load in enumerate(loads):
        parts.append(_text(_MARGIN, _TOP + step * row + step / 2, load))
    for column, (metric, heading, hint) in enumerate(PANELS):
        left = _MARGIN + _LABELS + column * (_PANEL + _GAP)
        parts.append(_text(left, 50, heading, 'font-weight="600"'))
        parts.append(_text(left, 65, hint, 'fill="#6b7684" font-size="11"'))
        ratios = [[results.ratio(load, name, bouncer, metric) for name in names] for load in loads]
        largest = min(_LIMIT, max([1.3, *(r.value for row in ratios for r in row if r)]))
        scale = (_PANEL - 34) / largest
        x, bottom = left + scale, _TOP + step * len(loads)
        parts.append(f'<line x1="{x:.1f}" x2="{x:.1f}" y1="{_TOP - 6}" y2="{bottom}" {_LINE}/>')
        for row, pair in enumerate(ratios):
            for bar, ratio in enumerate(pair):
                if ratio:
                    y = _TOP + step * row + _BAR * bar
                    parts.extend(
                        _draw_bar(
                            left,
                            y,
                            min(ratio.value, largest) * scale,
                            ratio.value,
                            COLOURS[bar % len(COLOURS)],
                        )
                    )
    return "\n".join([*parts, "</svg>\n"])


def _draw_bar(left: float, y: float, length: float, value: float, colour: str) -> Iterator[str]:
    yield f'<rect x="{left}" y="{y}" width="{length:.1f}" height="{_BAR - 1}" rx="1.5" fill="{colour}"/>'
    yield _text(left + length + 4, y + _BAR - 2, f"{value:.2f}", f'font-size="10" fill="#4a5462" {_HALO}')


def _legend(names: Sequence[str], bouncer: str, y: float) -> Iterator[str]:
    x = _MARGIN + _LABELS
    for name, colour in zip(names, COLOURS, strict=False):
        yield f'<rect x="{x}" y="{y - 9}" width="10" height="10" rx="1.5" fill="{colour}"/>'
        yield _text(x + 15, y, name)
        x += 40 + 7 * len(name)
    yield f'<line x1="{x}" x2="{x + 20}" y1="{y - 4}" y2="{y - 4}" {_LINE}/>'
    yield _text(x + 26, y, f"{bouncer} = 1 (ratios of medians within one run)")


def _text(x: float, y: float, text: str, attributes: str = "") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" {attributes}>{escape(text)}</text>'
