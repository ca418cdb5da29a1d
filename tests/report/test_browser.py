"""The page in a real browser: nothing fails, nothing is fetched, images are compared, every screen has room."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from report.test_gallery import kept, loaded, loop
from skipcast import report
from support.browser import visit
from support.records import PROMPTS, record


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("report")
    lines = kept(folder)
    lines += [record(f"method{i}:evaluations={n}", "forecast", n, j, 20.0 + i + j + n)
              for i in range(12) for n in (5, 10) for j in range(2)]  # fmt: skip
    return report.write_page(folder / "report.html", loaded(folder, lines)).as_uri()


def cut(page: Any) -> str:
    return str(page.evaluate("getComputedStyle(document.querySelector('.stack img + img')).clipPath"))


def test_images_are_compared_with_mouse_and_keys(page: str) -> None:
    with visit(page) as seen:
        view = seen.page
        view.wait_for_selector(".card canvas")
        figures = [float(text.split()[0]) for text in view.locator(".card strong").all_inner_texts()]
        assert figures == sorted(figures)
        assert figures[0] == 39 - 4 * 2 - 1  # the plan of the middle budget, its worst seed and prompt
        before = cut(view)
        view.locator(".stack input").focus()
        view.keyboard.press("ArrowLeft")
        by_key = cut(view)
        assert by_key != before
        box = view.locator(".stack").bounding_box()
        view.locator(".stack").scroll_into_view_if_needed()
        box = view.locator(".stack").bounding_box()
        view.mouse.click(box["x"] + 0.9 * box["width"], box["y"] + 0.5 * box["height"])
        assert cut(view) not in (before, by_key)
        assert float(view.locator(".stack input").input_value()) == pytest.approx(90, abs=2)

        shown = view.locator(".stack img").first.get_attribute("src")
        view.locator(".card button").nth(2).click()
        assert view.locator(".stack img").first.get_attribute("src") != shown
        assert "seed" in view.locator(".slider figcaption").inner_text()
        assert view.locator(".card.open").count() == 1

        # 4 x |difference| of shades that lie 10 apart, with noise.
        view.wait_for_function("document.querySelector('.card canvas').width === 16")
        mean = view.evaluate(
            "(() => {const c = document.querySelector('.card canvas'); const d = c.getContext('2d')"
            ".getImageData(0, 0, 16, 16).data; return d.reduce((a, b, i) => i % 4 < 3 ? a + b : a, 0) / 768})()"
        )
        assert 40 < mean < 120

        options = view.locator("select option").all_inner_texts()
        assert options[0] == "◆ plan, 10 evaluations"
        assert len(options) == 6
        sources = view.locator(".card img").evaluate_all("all => all.map(each => each.src)")
        view.locator("select").select_option(index=2)
        assert view.locator(".card img").evaluate_all("all => all.map(each => each.src)") != sources
        assert view.locator(".card strong").first.inner_text() == f"{30 - 4 * 2 - 1:.1f} dB"
        seen.fine()


def test_a_small_screen_paper_and_the_dark(page: str) -> None:
    with visit(page, width=390, height=844, color_scheme="dark") as seen:
        view = seen.page
        for each in view.locator("details:not([open]) > summary").all():
            if each.is_visible():
                each.click()
        assert view.evaluate("document.documentElement.scrollWidth") <= 390
        assert view.locator(".wide svg").first.bounding_box()["width"] > 600  # to be read, it is scrolled in its box
        ink, paper = (
            view.evaluate(f"getComputedStyle(document.body).{name}.match(/[\\d.]+/g).map(Number)")
            for name in ("color", "backgroundColor")
        )
        assert sum(ink[:3]) > 600 > 150 > sum(paper[:3])
        view.emulate_media(media="print")
        for hidden in (".controls", ".slider", ".card button"):
            assert not view.locator(hidden).first.is_visible(), hidden
        for kept_ in (".wide svg", ".card", ".shown", "table"):
            assert view.locator(kept_).first.is_visible(), kept_
        assert sum(view.evaluate("getComputedStyle(document.body).color.match(/[\\d.]+/g).map(Number)")[:3]) < 150
        view.evaluate("dispatchEvent(new Event('beforeprint'))")
        assert view.locator("details:not([open])").count() == 0
        seen.fine()


def test_videos_play_without_a_slider(tmp_path: Path) -> None:
    lines = [
        record(label, kind, budget, j, psnr, image=loop(tmp_path, f"{kind}-{j}"), fps=10)
        for label, kind, budget, psnr in (("reference", "reference", 50, None), ("euler", "sampler", 5, 20.0))
        for j in range(len(PROMPTS))
    ]
    with visit(report.write_page(tmp_path / "report.html", loaded(tmp_path, lines)).as_uri()) as seen:
        assert seen.page.locator(".card img").count() == 4
        assert seen.page.locator(".card canvas").count() == 0
        assert not seen.page.locator(".slider").is_visible()
        decoded = "[...document.querySelectorAll('.card img')].map(i => i.decode().then(() => i.naturalWidth))"
        assert seen.page.evaluate(f"Promise.all({decoded})") == [16] * 4
        seen.fine()
