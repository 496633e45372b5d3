"""The report in a real browser: no errors, a slider that works, nothing wider than a phone."""

from __future__ import annotations

import html
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from swarmd.simulation.report import render_report
from swarmd.simulation.scenario import Gateways, Image, ReleasePlan, Scenario
from swarmd.simulation.swarm import run_scenario

BROWSERS = ("chromium", "chromium-browser", "google-chrome")
PHONE_PX = 360
LONG = "a-release-with-a-name-that-is-longer-than-any-legend-can-show"
MOVE = """<script>
slider.value = "0";
slider.oninput();
document.title = "shown " + [...frames].map(frame => frame.classList.contains("shown")).join();
</script></body>"""
WIDER = """<!DOCTYPE html><html><body>
<iframe width="{width}" height="2000" srcdoc="{page}"></iframe>
<script>onload = () => {{
  const root = document.querySelector("iframe").contentDocument.documentElement;
  document.title = "width " + root.scrollWidth + " of " + root.clientWidth;
}};</script></body></html>"""


@pytest.fixture(scope="module")
def browser() -> str:
    found = next((path for name in BROWSERS if (path := shutil.which(name))), None)
    if found is None:
        pytest.skip("needs chromium")
    return found


@pytest.fixture(scope="module")
def report() -> str:
    scenario = Scenario(
        name="plain",
        gateways=Gateways(count=5),
        image=Image(size_kib=64),
        releases=(ReleasePlan(name="one"), ReleasePlan(name=LONG, publish_s=2.0, changed=0.5)),
    )
    return render_report(run_scenario(scenario, 1))


def opened(browser: str, text: str, folder: Path) -> tuple[str, list[str]]:
    """The title of a page once its scripts ran, and what the browser wrote to the console."""
    page = folder / "page.html"
    page.write_text(text, "utf-8")
    command = [browser, "--headless", "--no-sandbox", "--disable-gpu", "--dump-dom"]
    command += ["--enable-logging=stderr", f"--user-data-dir={folder / 'profile'}", page.as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120)
    title = re.search(r"<title>([^<]*)</title>", done.stdout)
    assert title is not None, done.stderr
    return title[1], [line for line in done.stderr.splitlines() if "CONSOLE" in line]


@pytest.mark.slow
def test_no_errors_and_the_slider_chooses_the_moment(
    browser: str, report: str, tmp_path: Path
) -> None:
    title, console = opened(browser, report.replace("</body>", MOVE), tmp_path)
    assert console == []
    assert re.fullmatch(r"shown true(,false)+", title)


@pytest.mark.slow
def test_errors_would_be_seen(browser: str, report: str, tmp_path: Path) -> None:
    wrong = report.replace("</body>", '<img src="https://example.org/x.png"></body>')
    _, console = opened(browser, wrong.replace("const frames", "nobody(); const frames"), tmp_path)
    assert any("nobody" in line for line in console)
    assert any("Content Security Policy" in line for line in console)


@pytest.mark.slow
def test_nothing_is_wider_than_a_phone(browser: str, report: str, tmp_path: Path) -> None:
    page = WIDER.format(width=PHONE_PX, page=html.escape(report, quote=True))
    title, console = opened(browser, page, tmp_path)
    assert console == []
    found = re.fullmatch(r"width (\d+) of (\d+)", title)
    assert found is not None, title
    assert int(found[1]) <= int(found[2]) <= PHONE_PX
