"""The report: well-formed, complete without a network, and its figures are the outcome's."""

from __future__ import annotations

import re
from dataclasses import replace
from html.parser import HTMLParser
from itertools import pairwise

import pytest

from swarmd.simulation.report import render_report
from swarmd.simulation.report_figures import Graph, Line, graph, plot, ticks
from swarmd.simulation.scenario import Gateways, Image, ReleasePlan, Scenario
from swarmd.simulation.swarm import run_scenario
from swarmd.simulation.swarm_outcome import Outcome, Verdict

VOID = ("meta", "input")
LOADING = ("src", "href", "srcset", "action", "data", "xlink:href", "poster")


class Page(HTMLParser):
    """Checks nesting, and gathers tables, lines and the attributes of every element."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.tables: dict[str, list[list[str]]] = {}
        self.texts: dict[str, str] = {}
        self._table = ""
        self._id = ""
        self.feed(text)
        self.close()
        assert not self.open, "every element is closed"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        attributes = dict(attrs)
        self.tags.append((tag, attributes))
        if tag not in VOID:
            self.open.append(tag)
        self._id = attributes.get("id") or ""
        if tag == "table":
            self._table = self._id
            self.tables[self._table] = []
        elif tag == "tr":
            self.tables[self._table].append([])
        elif tag in ("td", "th"):
            self.tables[self._table][-1].append("")

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self._id:
            self.texts[self._id] = data
        if "td" in self.open or "th" in self.open:
            self.tables[self._table][-1][-1] += data

    def points(self, name: str, title: str) -> list[tuple[float, float]]:
        """The points of a line, in pixels."""
        is_inside = False
        for tag, attributes in self.tags:
            if tag == "svg":
                is_inside = attributes.get("aria-label") == title
            elif tag == "polyline" and is_inside and attributes.get("data-line") == name:
                pairs = (attributes["points"] or "").split()
                return [(float(x), float(y)) for x, y in (pair.split(",") for pair in pairs)]
        raise AssertionError(f"no line {name!r} in {title!r}")


@pytest.fixture(scope="module")
def outcome() -> Outcome:
    scenario = Scenario(
        name="plain",
        gateways=Gateways(count=5),
        image=Image(size_kib=64),
        releases=(ReleasePlan(name="one"), ReleasePlan(name="two", publish_s=2.0, changed=0.5)),
    )
    return run_scenario(scenario, 1)


@pytest.fixture(scope="module")
def page(outcome: Outcome) -> Page:
    return Page(render_report(outcome))


def test_figures_are_the_outcomes(outcome: Outcome, page: Page) -> None:
    facts = dict(page.tables["facts"][1:])
    assert facts["trace"] == outcome.trace_hash
    assert facts["events"] == str(outcome.event_count)
    assert facts["blocks"] == str(outcome.height)
    _, *verdicts = page.tables["verdicts"]
    assert [row[0] for row in verdicts] == [verdict.name for verdict in outcome.verdicts]
    for row, verdict in zip(verdicts, outcome.verdicts, strict=True):
        assert verdict.measured is not None
        assert float(row[1]) == pytest.approx(verdict.measured, rel=1e-3)
        assert float(row[2][2:]) == pytest.approx(verdict.bound, rel=1e-5)
        assert row[4] == "kept"
    _, *releases = page.tables["releases"]
    assert [(row[0], int(row[6])) for row in releases] == [("one", 5), ("two", 5)]
    assert page.texts["result"] == "passed"


def test_lines_are_the_samples(outcome: Outcome, page: Page) -> None:
    points = page.points("seeders", "Bytes by source")
    assert len(points) == len(outcome.samples)
    top = max(max(each.seeder_bytes, each.gateway_bytes) for each in outcome.samples)
    lowest, highest = (
        points[0][1],
        min(y for name in ("seeders", "gateways") for _, y in page.points(name, "Bytes by source")),
    )
    for (_, y), sample in zip(points, outcome.samples, strict=True):
        assert (lowest - y) / (lowest - highest) == pytest.approx(
            sample.seeder_bytes / top, abs=0.005
        )
    for title, name in (("Use of uplinks", "gateways"), ("Finality", "final blocks")):
        assert page.points(name, title)


def test_completion_rises_with_each_gateway(outcome: Outcome, page: Page) -> None:
    points = page.points("one", "Completion")
    for before, after in pairwise(points):
        assert after[0] >= before[0]
        assert after[1] <= before[1]
    assert all(
        after[0] >= before[0] and after[1] <= before[1] for before, after in pairwise(points)
    )


def test_there_is_a_frame_for_each_moment_and_one_is_shown(outcome: Outcome, page: Page) -> None:
    frames = [a for tag, a in page.tags if tag == "div" and "frame" in (a.get("class") or "")]
    assert len(frames) == len(outcome.frames)
    assert [frame["class"] for frame in frames].count("frame shown") == 1
    (slider,) = [a for tag, a in page.tags if tag == "input"]
    assert slider["max"] == str(len(outcome.frames) - 1)
    nodes = [a for tag, a in page.tags if tag == "circle" and a.get("class") == "rim"]
    assert len(nodes) == 6 * len(outcome.frames)


def test_nothing_is_loaded(outcome: Outcome, page: Page) -> None:
    for tag, attributes in page.tags:
        assert tag not in ("link", "img", "iframe", "object", "embed", "base", "form")
        assert not set(attributes) & set(LOADING), f"<{tag} {attributes}>"
        assert not [name for name in attributes if name.startswith("on")]
    text = render_report(outcome)
    assert not re.search(r"https?:|url\(|@import|fetch\(|XMLHttp", text)
    assert "default-src 'none'" in text


def test_texts_are_escaped(outcome: Outcome) -> None:
    nasty = "</title><script>alert(1)</script>\"'&"
    release = replace(outcome.releases[0], name=nasty)
    verdict = Verdict(name=nasty, bound=1, measured=None, unit=nasty, failed_s=2.0)
    evil = replace(
        outcome,
        scenario=nasty,
        summary=nasty,
        adversaries=((nasty, 1),),
        expected_to_break=(nasty,),
        verdicts=(verdict,),
        releases=(release,),
        replay=nasty,
    )
    text = render_report(evil)
    assert text.count("<script>") == 1
    page = Page(text)
    assert page.tables["verdicts"][1][:2] == [nasty, "never"]
    assert "broken after 2.00 s" in page.tables["verdicts"][1][4]
    assert dict(page.tables["facts"][1:])["replay"] == nasty


@pytest.mark.parametrize("maximum", [1e-6, 0.07, 1.0, 4.9, 10.0, 12345.0])
def test_ticks_are_few_and_within_reach(maximum: float) -> None:
    found = ticks(maximum)
    assert 2 <= len(found) <= 7
    assert found[0] == 0.0
    assert found[-1] <= maximum * (1 + 1e-9)


def test_empty_figures_are_drawn_all_the_same() -> None:
    assert "<svg" in plot("nothing", [Line("none", [])], x_name="s", y_name="1")
    assert "<svg" in graph("nobody", Graph((), (), 0, ()))
