"""The report of a simulated swarm: one HTML file that needs nothing else.

Drawings are inline SVG, the style sheet is inline, and the only script moves a slider between the
frames of the graph. A policy in the page forbids it to load anything.
"""

from __future__ import annotations

import html
from collections.abc import Iterable, Sequence
from typing import Final

from protocol.limits import MIB
from swarmd.simulation.report_figures import Graph, Line, graph, plot
from swarmd.simulation.swarm_outcome import Frame, Outcome, Sample, Verdict, text_of

_STYLE: Final = """
:root { color-scheme: light dark; --ink: #222; --paper: #fff; --soft: #ddd; }
@media (prefers-color-scheme: dark) { :root { --ink: #ddd; --paper: #181818; --soft: #444; } }
body { font: 15px/1.45 system-ui, sans-serif; margin: 2em auto; max-width: 68em; padding: 0 1em;
  color: var(--ink); background: var(--paper); }
section { display: inline-block; width: 47%; min-width: 24em; margin: 0 1% 1.5em 0;
  vertical-align: top; }
h2 { font-size: 1.05em; margin: 0 0 .3em; }
table { border-collapse: collapse; }
td, th { padding: .2em .8em .2em 0; text-align: left; border-bottom: 1px solid var(--soft); }
.broken, .failed { color: #c22; font-weight: bold; } .kept, .passed { color: #2a7; }
svg { width: 100%; height: auto; } svg text { font-size: 11px; fill: var(--ink); }
.x { text-anchor: middle; } .y, .name { text-anchor: end; }
.axis { stroke: var(--ink); } .grid { stroke: var(--soft); stroke-width: .5; }
.line { fill: none; stroke-width: 1.8; }
.c0 { stroke: #2a7; } .c1 { stroke: #27c; } .c2 { stroke: #c22; } .c3 { stroke: #c82; }
.c4 { stroke: #83b; } .c5 { stroke: #188; } .c6 { stroke: #a55; } .c7 { stroke: #777; }
.key.c0 { fill: #2a7; } .key.c1 { fill: #27c; } .key.c2 { fill: #c22; } .key.c3 { fill: #c82; }
.key.c4 { fill: #83b; } .key.c5 { fill: #188; } .key.c6 { fill: #a55; } .key.c7 { fill: #777; }
.edge { stroke: #888; stroke-opacity: .5; } .rim { fill: var(--paper); stroke: #27c; }
.fill { fill: #27c; } .seeder .rim { stroke: #2a7; } .seeder .fill { fill: #2a7; }
.bad .rim { stroke: #c22; } .bad .fill { fill: #c22; } .down .rim { stroke: #999;
  stroke-dasharray: 2; }
.frame { display: none; } .frame.shown { display: block; } input[type=range] { width: 100%; }
code { overflow-wrap: anywhere; }
"""
_SCRIPT: Final = """
const frames = document.querySelectorAll(".frame"), slider = document.getElementById("moment");
if (slider) slider.oninput = () => frames.forEach(
  (frame, number) => frame.classList.toggle("shown", number === Number(slider.value)));
"""
_POLICY: Final = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'"


def render_report(outcome: Outcome) -> str:
    """Writes the report of a run as one HTML document.

    Args:
        outcome: of the run.
    """
    title = html.escape(f"{outcome.scenario}, seed {outcome.seed}")
    result = "passed" if outcome.passed else "failed"
    sections = "".join(
        f"<section><h2>{html.escape(name)}</h2>{body}</section>"
        for name, body in _sections(outcome)
    )
    return (
        '<!DOCTYPE html><html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{title}</title><style>{_STYLE}</style></head><body>"
        f'<h1>{title}: <span id="result" class="{result}">{result}</span></h1>'
        f"<p>{html.escape(outcome.summary)}</p>{_facts(outcome)}{_verdicts(outcome)}"
        f"{_releases(outcome)}<div>{sections}</div><script>{_SCRIPT}</script></body></html>\n"
    )


def _sections(outcome: Outcome) -> Iterable[tuple[str, str]]:
    yield "Completion over time", _completion(outcome)
    yield "Bytes by source", _bytes(outcome.samples)
    yield "Use of uplinks", _uses(outcome.samples)
    yield "Finality", _finality(outcome.samples)
    yield "The swarm", _frames(outcome)


# Texts -------------------------------------------------------------------------------------------


def _facts(outcome: Outcome) -> str:
    bad = ", ".join(f"{count} {name}" for name, count in outcome.adversaries) or "none"
    facts = [
        ("gateways", str(outcome.nodes)),
        ("validators", str(outcome.validators)),
        ("adversaries", bad),
        ("level", outcome.level),
        ("took", f"{outcome.simulated_s:.2f} s"),
        ("blocks", str(outcome.height)),
        ("events", str(outcome.event_count)),
        ("trace", outcome.trace_hash or "none: real time does not repeat"),
        *(("note", note) for note in outcome.notes),
        *(("expected to break", reason) for reason in outcome.expected_to_break),
        ("replay", outcome.replay or "-"),
    ]
    return _table(
        "facts", (), [(name, f"<code>{html.escape(text)}</code>") for name, text in facts]
    )


def _verdicts(outcome: Outcome) -> str:
    rows = [
        (
            html.escape(verdict.name),
            text_of(verdict.measured),
            _bound(verdict),
            html.escape(verdict.unit),
            _result(verdict),
        )
        for verdict in outcome.verdicts
    ]
    return _table("verdicts", ("verdict", "measured", "bound", "unit", "result"), rows)


def _bound(verdict: Verdict) -> str:
    return f"{'&ge;' if verdict.is_minimum else '&le;'} {verdict.bound:g}"


def _result(verdict: Verdict) -> str:
    if verdict.failed_s is None:
        return '<span class="kept">kept</span>'
    return f'<span class="broken">broken after {verdict.failed_s:.2f} s</span>'


def _releases(outcome: Outcome) -> str:
    rows = [
        (
            html.escape(each.name),
            f"<code>{each.manifest[:16]}</code>",
            "yes" if each.is_authorised else "no",
            f"{each.published_s:.2f}",
            text_of(each.final_s),
            "-" if each.revoked_s is None else f"{each.revoked_s:.2f}",
            str(len(each.finished_s)),
            f"{each.bound_s:.2f}",
        )
        for each in outcome.releases
    ]
    heads = ("release", "manifest", "authorised", "published, s", "final, s", "revoked, s")
    return _table("releases", (*heads, "gateways that have it", "fluid bound, s"), rows)


def _table(name: str, heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table; cells are HTML already."""
    head = "".join(f"<th>{html.escape(each)}</th>" for each in heads)
    body = "".join(f"<tr>{''.join(f'<td>{cell}</td>' for cell in row)}</tr>" for row in rows)
    return f'<table id="{name}"><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>'


# Drawings ----------------------------------------------------------------------------------------


def _completion(outcome: Outcome) -> str:
    """Share of the honest gateways that completed each release, over time since its finality."""
    honest = max(outcome.nodes - outcome.bad_members, 1)
    lines = [
        Line(
            each.name,
            [(0.0, 0.0)]
            + [(time, (number + 1) / honest) for number, time in enumerate(each.finished_s)],
            is_stepped=True,
        )
        for each in outcome.releases[:8]
        if each.is_authorised
    ]
    return plot("Completion", lines, x_name="s since the release was final", y_name="share")


def _bytes(samples: Sequence[Sample]) -> str:
    lines = [
        Line("seeders", [(each.time_s, each.seeder_bytes / MIB) for each in samples]),
        Line("gateways", [(each.time_s, each.gateway_bytes / MIB) for each in samples]),
        Line("adversaries", [(each.time_s, each.adversary_bytes / MIB) for each in samples]),
        Line("refused", [(each.time_s, each.bad_bytes / MIB) for each in samples]),
    ]
    return plot("Bytes by source", lines, x_name="s", y_name="MiB")


def _uses(samples: Sequence[Sample]) -> str:
    lines = [
        Line("seeders", [(each.time_s, each.seeder_use) for each in samples]),
        Line("gateways", [(each.time_s, each.gateway_use) for each in samples]),
    ]
    return plot("Use of uplinks", lines, x_name="s", y_name="share of the rate")


def _finality(samples: Sequence[Sample]) -> str:
    points = [(each.time_s, float(each.height)) for each in samples]
    return plot("Finality", [Line("final blocks", points, True)], x_name="s", y_name="height")


def _frames(outcome: Outcome) -> str:
    if not outcome.frames:
        return ""
    last = len(outcome.frames) - 1
    drawn = "".join(
        _frame(outcome, frame, is_shown=number == last)
        for number, frame in enumerate(outcome.frames)
    )
    return f'<input type="range" id="moment" min="0" max="{last}" value="{last}">{drawn}'


def _frame(outcome: Outcome, frame: Frame, *, is_shown: bool) -> str:
    moment = Graph(frame.held, frame.edges, outcome.seeders, outcome.bad_nodes)
    title = f"{frame.time_s:.2f} s"
    shown = " shown" if is_shown else ""
    return f'<div class="frame{shown}"><p>{title}</p>{graph(title, moment)}</div>'
