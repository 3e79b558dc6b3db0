"""The page of figures: docs/benchmarks.md and its chart, docs/benchmarks.svg."""

from __future__ import annotations

import os
import platform
import statistics
import sys
from collections.abc import Sequence
from html import escape
from pathlib import Path

from bench.pairs import Figure, Pair

Result = Pair | Figure

_BAR, _GAP, _LEFT, _WIDTH = 14, 10, 330, 860


def line(result: Result) -> str:
    """A figure as a row of the table."""
    bound = "" if result.bound is None else f"≤ {result.bound:g}"
    if isinstance(result, Figure) and result.least is not None:
        bound = f"≥ {result.least:g}"
    verdict = "" if not bound else ("holds" if result.holds else "**missed**")
    if isinstance(result, Figure):
        return f"| {result.title} | {result.value:.3g} {result.unit} | {bound} | {verdict} |"
    spread = f"{min(result.our_seconds):.2f}–{max(result.our_seconds):.2f}"
    peers = f"{min(result.peer_seconds):.2f}–{max(result.peer_seconds):.2f}"
    return (
        f"| {result.title}: {result.ours} against {result.peer} | {result.ratio:.2f} × "
        f"({spread} s against {peers} s, {len(result.our_seconds)} runs) | {bound} | {verdict} |"
    )


def write(docs: Path, sections: dict[str, Sequence[Result]]) -> None:
    """Write benchmarks.md and benchmarks.svg into `docs`."""
    text = [
        "# Benchmarks",
        "",
        "`make bench` measures this page anew. A ratio is the median of ours over the median of",
        "the peer's, the two run in turn after a `sync`; below 1 is faster. Machines are noisy:",
        "read the ratios, not the seconds.",
        "",
        f"Measured on {os.cpu_count()} cores, {platform.system()} {platform.machine()}, Python "
        f"{sys.version.split()[0]}.",
        "",
        "![ratios to the peers](benchmarks.svg)",
        "",
    ]
    for title, results in sections.items():
        text += [f"## {title}", "", "| figure | measured | bound | |", "|---|---|---|---|"]
        text += [line(result) for result in results]
        text += [""]
        text += [f"- {result.title}: {result.note}" for result in results if result.note]
        text += [""]
    (docs / "benchmarks.md").write_text("\n".join(text).rstrip() + "\n")
    pairs = [r for results in sections.values() for r in results if isinstance(r, Pair)]
    (docs / "benchmarks.svg").write_text(chart(pairs))


def chart(pairs: Sequence[Pair]) -> str:
    """A bar chart of median seconds, ours over the peer's, each pair on its own scale."""
    height = 40 + len(pairs) * (2 * _BAR + _GAP + 6)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{_WIDTH}" height="{height}" '
        f'font-family="sans-serif" font-size="12">',
        f'<rect width="{_WIDTH}" height="{height}" fill="#ffffff"/>',
        '<text x="10" y="20" font-size="14">Time, ours (blue) and the peer\'s (grey); '
        "each pair has its own scale</text>",
    ]
    y = 36
    for pair in pairs:
        ours = statistics.median(pair.our_seconds)
        peer = statistics.median(pair.peer_seconds)
        scale = (_WIDTH - _LEFT - 150) / max(ours, peer)
        parts.append(f'<text x="10" y="{y + _BAR}">{escape(pair.title)}</text>')
        for row, (seconds, label, colour) in enumerate(
            ((ours, pair.ours, "#2b6cb0"), (peer, pair.peer, "#a0aec0"))
        ):
            top = y + row * _BAR
            parts.append(
                f'<rect x="{_LEFT}" y="{top}" width="{seconds * scale:.1f}" '
                f'height="{_BAR - 2}" fill="{colour}"/>'
            )
            parts.append(
                f'<text x="{_LEFT + seconds * scale + 6:.1f}" y="{top + _BAR - 3}" '
                f'font-size="10">{escape(label)}</text>'
            )
        y += 2 * _BAR + _GAP + 6
    return "\n".join([*parts, "</svg>", ""])
