"""The playground in a real browser."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import skipcast as sc
from support.browser import visit

pytest.importorskip("gradio")

#: Records the order in which the panels receive their images.
_ORDER = """() => {
  window.order = [];
  new MutationObserver(() => document.querySelectorAll('[data-panel]').forEach(panel => {
    const name = panel.dataset.panel;
    if (panel.querySelector('img') && !window.order.includes(name)) window.order.push(name);
  })).observe(document.body, {childList: true, subtree: true});
}"""
_PATIENCE = 60_000  # milliseconds, on a busy machine


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    from skipcast.ui import serve

    names: set[str] = set()
    look_up = socket.getaddrinfo

    def noted(host: Any, *rest: Any, **named: Any) -> Any:
        names.add(str(host))
        return look_up(host, *rest, **named)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(socket, "getaddrinfo", noted)
        served = serve(port=0)
        yield served.url
        served.close()
    assert names <= {"127.0.0.1", "localhost", "None"}  # the server asks no other machine either


def choose(page: Any, label: str, value: str) -> None:
    page.locator(f"#{label} input").fill(value)
    page.locator(f"#{label} input").press("Enter")
    page.locator(f"#{label} input").blur()


def number(page: Any, label: str, value: int) -> None:
    page.locator(f"#{label} input[type=number]").fill(str(value))
    page.locator(f"#{label} input[type=number]").blur()


def drawn(page: Any) -> dict[str, str]:
    """The captions of a new draw."""
    page.locator("#draw-begin").click()
    page.locator("#draw-stop").wait_for(state="visible", timeout=_PATIENCE)
    page.locator("#draw-stop").wait_for(state="hidden", timeout=_PATIENCE)
    found = page.locator("figure[data-panel]").all()
    return {panel.get_attribute("data-panel"): panel.inner_text() for panel in found}


def twelve_steps(page: Any) -> None:
    choose(page, "method", "resilphase")
    page.locator("#note", has_text="the others are forecast").wait_for(timeout=_PATIENCE)
    number(page, "steps", 12)
    page.locator("#note", has_text="Evaluated steps of 12").wait_for(timeout=_PATIENCE)


def test_draw_compare_and_make_a_plan(url: str, tmp_path: Path) -> None:
    with visit(url) as seen:
        page = seen.page
        page.locator("#draw-begin").wait_for(timeout=_PATIENCE)
        assert page.locator("#steps input").is_disabled()  # a shipped plan brings its own
        twelve_steps(page)
        page.locator("#budget input[type=range]").focus()
        for _ in range(5):
            page.keyboard.press("ArrowLeft")

        page.evaluate(_ORDER)
        words = drawn(page)
        assert page.evaluate("window.order") == ["unaccelerated", "accelerated", "fewer"]
        assert "12 evaluations" in words["unaccelerated"]
        assert "PSNR" not in words["unaccelerated"]
        for panel, label in {"accelerated": "resilphase:evaluations=5", "fewer": "ab2:evaluations=5"}.items():
            assert all(text in words[panel] for text in (label, "5 evaluations", "PSNR", " dB", "as fast as"))
        image = page.locator("figure[data-panel=accelerated] img")
        before = image.get_attribute("src")
        page.get_by_label("show the differences").check()
        page.wait_for_function(
            "was => document.querySelector('[data-panel=accelerated] img').src !== was", arg=before, timeout=_PATIENCE
        )

        choose(page, "method", "hindsight")
        page.locator("#threshold").wait_for(timeout=_PATIENCE)
        assert page.locator("#budget input[type=range]").is_disabled()
        number(page, "threshold", 10)
        words = drawn(page)
        assert "hindsight:tolerance=10" in words["accelerated"]
        assert "kept" in words["unaccelerated"]

        choose(page, "method", "resilfase")
        page.locator("#note", has_text="Did you mean 'resilphase'").wait_for(timeout=_PATIENCE)
        page.locator("#draw-begin").click()
        page.locator("#message", has_text="Did you mean 'resilphase'").wait_for(timeout=_PATIENCE)
        assert page.locator("figure[data-panel=accelerated]").inner_text() == words["accelerated"]

        page.get_by_role("tab", name="Make a plan").click()
        page.locator("#plan-budgets textarea, #plan-budgets input").fill("4")
        number(page, "plan-pairs", 4)
        number(page, "plan-steps", 12)
        page.locator("#plan-begin").click()
        page.locator(".sc-plan", has_text="4 of 12 evaluations").wait_for(timeout=_PATIENCE)
        assert "dB predicted" in page.locator(".sc-plan").inner_text()
        assert page.locator(".sc-plan .on").count() == 4
        page.locator("#plan-stop").wait_for(state="hidden", timeout=_PATIENCE)
        with page.expect_download(timeout=_PATIENCE) as download:
            page.locator("#plan-files a").first.click()
        assert download.value.suggested_filename == "shapes-flux-4-of-12.plan.json"
        file = tmp_path / "mine.plan.json"
        download.value.save_as(file)
        plan = sc.Plan.load(file)
        assert (plan.evaluations, plan.origin.steps, len(plan.origin.pairs)) == (4, 12, 4)

        page.locator("#plan-use").click()
        page.locator("#note", has_text="4 evaluations of 12 steps").wait_for(timeout=_PATIENCE)
        words = drawn(page)
        assert "my shapes-flux-4-of-12" in words["accelerated"]
        assert "predicted" in words["accelerated"]
        assert "ab2:evaluations=4" in words["fewer"]

        page.locator("#upload input[type=file], input[type=file]").first.set_input_files(str(file))
        page.wait_for_function("document.querySelector('#method input').value.startsWith('my mine')", timeout=_PATIENCE)
        seen.fine()


def test_visitors_do_not_meet_and_phones_are_wide_enough(url: str) -> None:
    with visit(url, width=390, height=844, color_scheme="dark") as seen:
        one = seen.page
        one.locator("#draw-begin").wait_for(timeout=_PATIENCE)
        two = one.context.new_page()
        two.goto(url)
        two.locator("#draw-begin").wait_for(timeout=_PATIENCE)
        twelve_steps(one)
        assert "12 evaluations" in drawn(one)["unaccelerated"]
        assert two.locator("figure img").count() == 0
        assert two.locator("#steps input").input_value() == "50"
        assert one.evaluate("document.documentElement.scrollWidth") <= 390

        one.bring_to_front()  # browsers do not run the pages behind
        one.get_by_role("tab", name="Make a plan").click()
        number(one, "plan-pairs", 64)
        number(one, "plan-steps", 400)  # still at work when the other one has come
        one.locator("#plan-begin").click()
        one.locator("#plan-progress", has_text="recording 64 full runs").wait_for(timeout=_PATIENCE)
        two.bring_to_front()
        two.locator("#draw-begin").click()
        two.locator("#unaccelerated", has_text="queue").wait_for(timeout=_PATIENCE)
        one.bring_to_front()
        one.locator("#plan-stop").click()
        one.locator("#plan-progress", has_text="stopped").wait_for(timeout=_PATIENCE)
        assert one.locator("#plan-begin").is_enabled()
        two.bring_to_front()
        two.locator("figure img").nth(2).wait_for(timeout=_PATIENCE)
        seen.fine()
