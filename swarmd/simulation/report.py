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
:root { color-scheme: light dark; --ink: #222; --paper: #fff; --soft: #ddd; --c0: #0b7a52;
  --c1: #1f6bb8; --c2: #c22222; --c3: #a85f00; --c4: #7a35b5; --c5: #0f7a7a; --c6: #95504d;
  --c7: #6b6b6b; }
@media (prefers-color-scheme: dark) { :root { --ink: #ddd; --paper: #181818; --soft: #444;
  --c0: #3ec98e; --c1: #5aa9f5; --c2: #ff7b72; --c3: #e6a23c; --c4: #bf8cf2; --c5: #3cc5c5;
  --c6: #dc9a98; --c7: #a0a0a0; } }
body { font: 15px/1.45 system-ui, sans-serif; margin: 2em auto; max-width: 68em; padding: 0 1em;
  color: var(--ink); background: var(--paper); }
h1, h2 { overflow-wrap: anywhere; } h2 { font-size: 1.05em; margin: 0 0 .3em; }
.figures { display: grid; gap: 1.5em 2em;
  grid-template-columns: repeat(auto-fit, minmax(min(100%, 26em), 1fr)); }
.table { overflow-x: auto; margin: 0 0 1.5em; } table { border-collapse: collapse; }
td, th { padding: .2em .8em .2em 0; text-align: left; border-bottom: 1px solid var(--soft); }
.broken, .failed { color: var(--c2); font-weight: bold; } .kept, .passed { color: var(--c0); }
svg { display: block; width: 100%; height: auto; } svg text { font-size: 14px; fill: var(--ink); }
@media (max-width: 40em) { svg text { font-size: 18px; } }
.x { text-anchor: middle; } .name { text-anchor: end; }
.y { text-anchor: end; dominant-baseline: middle; }
.axis { stroke: var(--ink); } .grid { stroke: var(--soft); stroke-width: .5; }
.line { fill: none; stroke-width: 2; } .line.c2, .line.c6 { stroke-dasharray: 8 4; }
.line.c3, .line.c7 { stroke-dasharray: 3 3; }
.c0 { stroke: var(--c0); } .c1 { stroke: var(--c1); } .c2 { stroke: var(--c2); }
.c3 { stroke: var(--c3); } .c4 { stroke: var(--c4); } .c5 { stroke: var(--c5); }
.c6 { stroke: var(--c6); } .c7 { stroke: var(--c7); }
.key.c0 { fill: var(--c0); } .key.c1 { fill: var(--c1); } .key.c2 { fill: var(--c2); }
.key.c3 { fill: var(--c3); } .key.c4 { fill: var(--c4); } .key.c5 { fill: var(--c5); }
.key.c6 { fill: var(--c6); } .key.c7 { fill: var(--c7); }
.edge { stroke: var(--c7); stroke-opacity: .6; } .rim { fill: var(--paper); stroke: var(--c1); }
.fill { fill: var(--c1); } .seeder .rim { stroke: var(--c0); } .seeder .fill { fill: var(--c0); }
.bad .rim { stroke: var(--c2); } .bad .fill { fill: var(--c2); } .down .rim { stroke: var(--c7);
  stroke-dasharray: 2; }
.dot { display: inline-block; width: .7em; height: .7em; border-radius: 50%; margin: 0 .3em 0 .8em;
  border: 1px solid var(--c1); background: var(--c1); }
.dot.is-seeder { border-color: var(--c0); background: var(--c0); }
.dot.is-bad { border-color: var(--c2); background: var(--c2); }
.dot.is-down { border: 1px dashed var(--c7); background: none; }
.frame { display: none; } .frame.shown { display: block; } .frame p { margin: .3em 0; }
input[type=range] { width: 100%; margin: 0; } code { overflow-wrap: anywhere; }
"""
_SCRIPT: Final = """
const frames = document.querySelectorAll(".frame"), slider = document.getElementById("moment");
if (slider) slider.oninput = () => frames.forEach(
  (frame, number) => frame.classList.toggle("shown", number === Number(slider.value)));
"""
_KINDS: Final = (
    '<p><span class="dot is-seeder"></span>seeder<span class="dot"></span>gateway'
    '<span class="dot is-bad"></span>adversary<span class="dot is-down"></span>down. A disc is as '
    "full as the share that is held; lines: who sent most to whom.</p>"
)
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
        f'{_releases(outcome)}<div class="figures">{sections}</div><script>'
        f"{_SCRIPT}</script></body></html>\n"
    )


def _sections(outcome: Outcome) -> Iterable[tuple[str, str]]:
    yield "Completion over time", _completion(outcome)
    yield "Bytes by source", _bytes(outcome.samples)
    yield "Use of uplinks", _uses(outcome.samples)
    yield "Finality", _finality(outcome.samples)
    if outcome.frames:
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
    return (
        f'<div class="table"><table id="{name}"><thead><tr>{head}</tr></thead>'
        f"<tbody>{body}</tbody></table></div>"
    )


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
    ]
    if any(each.adversary_bytes or each.bad_bytes for each in samples):
        lines += _bad_bytes(samples)
    return plot("Bytes by source", lines, x_name="s", y_name="MiB")


def _bad_bytes(samples: Sequence[Sample]) -> list[Line]:
    return [
        Line("adversaries", [(each.time_s, each.adversary_bytes / MIB) for each in samples]),
        Line("refused", [(each.time_s, each.bad_bytes / MIB) for each in samples]),
    ]


def _uses(samples: Sequence[Sample]) -> str:
    if not any(each.seeder_use or each.gateway_use for each in samples):
        return "<p>Not measured: what runs at this level does not say it.</p>"
    lines = [
        Line("seeders", [(each.time_s, each.seeder_use) for each in samples]),
        Line("gateways", [(each.time_s, each.gateway_use) for each in samples]),
    ]
    return plot("Use of uplinks", lines, x_name="s", y_name="share of the rate")


def _finality(samples: Sequence[Sample]) -> str:
    points = [(each.time_s, float(each.height)) for each in samples]
    return plot("Finality", [Line("final blocks", points, True)], x_name="s", y_name="height")


def _frames(outcome: Outcome) -> str:
    """The graph at each moment, beginning with the one in which most was sent."""
    sent = [sum(size for _, _, size in frame.edges) for frame in outcome.frames]
    shown = sent.index(max(sent))
    drawn = "".join(
        _frame(outcome, frame, is_shown=number == shown)
        for number, frame in enumerate(outcome.frames)
    )
    return (
        f'{_KINDS}<input type="range" id="moment" aria-label="moment of the run" min="0" '
        f'max="{len(sent) - 1}" value="{shown}">{drawn}'
    )


def _frame(outcome: Outcome, frame: Frame, *, is_shown: bool) -> str:
    moment = Graph(frame.held, frame.edges, outcome.seeders, outcome.bad_nodes)
    title = f"{frame.time_s:.2f} s"
    shown = " shown" if is_shown else ""
    return f'<div class="frame{shown}"><p>{title}</p>{graph(title, moment)}</div>'
