"""The page of a batch in a real browser without a network: it opens, draws, scrolls, sorts, and runs nobody's names."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from batch_page_cases import AIR, HEAD, HOSTILE, RED_RAS, failure, flag, head, photograph, record
from browser import NO_WEBGL, WEBGL, Tab, browsers

from medseg_cli.batch.record import Record
from medseg_cli.batch_page import page, views
from medseg_cli.measure import measure
from medseg_cli.writers import scene

GRIDS = {
    "RAS": ("RAS", (0.0, 0.0, 0.0)),
    "LPS": ("LPS", (0.0, 0.0, 0.0)),
    "PIR": ("PIR", (0.0, 0.0, 0.0)),
    "SLA": ("SLA", (0.0, 0.0, 0.0)),
    "oblique": ("LPS", (0.15, -0.1, 0.2)),
}

QUICK = ("oblique", "PIR")
"""The hardest; the others take as long again."""


@dataclass(frozen=True)
class Report:
    """A page, and where its cases are in the table."""

    path: Path
    rows: dict[str, int]


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Report:
    out = tmp_path_factory.mktemp("batch") / "out"
    made = [record(out, f"grid-{name}", head(*grid)) for name, grid in GRIDS.items()]
    made += [
        record(out, "zz-flagged", head("LPS"), [flag("right front top is 12.5 mL, too large")]),
        record(out, "photo", photograph()),
        record(out, HOSTILE, head("RAS")),
        failure(out, "broken.nii.gz"),
        failure(out, f"broken {HOSTILE}"),
        Record("never", "skipped", "not reached: interrupted"),
    ]
    path = page.write_page(out, [each.to_json() for each in made], {"title": HOSTILE, "command": HOSTILE})
    numbers = re.findall(r'id="case-(\d+)">(.*?)</script>', path.read_text(encoding="utf-8"))
    return Report(path, {json.loads(text)["id"]: int(number) for number, text in numbers})


@pytest.fixture(scope="module")
def shrunken(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A page whose one view has fewer voxels than its scan."""
    out = tmp_path_factory.mktemp("shrunken")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(views, "MOST", 30_000)
        made = record(out, "fine", head("PIR", scale=0.5))
    return page.write_page(out, [made.to_json()], {})


@pytest.fixture(scope="module")
def start() -> Iterator[Callable[..., Any]]:
    with browsers() as found:
        yield found


@pytest.fixture(scope="module")
def browser(start: Callable[..., Any]) -> Any:
    return start(*WEBGL)


@pytest.fixture
def tab(browser: Any, report: Report) -> Iterator[Tab]:
    """The page, loaded; whatever the test did, nothing was fetched and nothing went wrong."""
    made = Tab(browser, report.path)
    yield made
    assert made.requests == [made.page.url.split("#")[0]]
    assert made.problems == []
    assert made.page.evaluate("window.hacked") is None
    made.context.close()


def click_row(tab: Tab, report: Report, case: str) -> None:
    """Open a case by a click beside its name."""
    tab.page.locator(f'tr[data-case="{report.rows[case]}"] td').nth(3).click()
    tab.settle()


def layout(tab: Tab, name: str) -> None:
    tab.page.locator(f'[data-layout="{name}"]').click()
    tab.draw()


def place_of(seen: np.ndarray) -> np.ndarray:
    """x, y of the middle of what is seen."""
    assert seen.sum() > 50
    return np.argwhere(seen).mean(axis=0)[::-1]


def red(picture: np.ndarray) -> np.ndarray:
    return picture[..., 0] > picture[..., 1:].max(axis=-1) + 40


def green(picture: np.ndarray) -> np.ndarray:
    return picture[..., 1] > picture[..., [0, 2]].max(axis=-1) + 40


def shown_order(tab: Tab) -> list[str]:
    return tab.page.locator("tbody tr:visible td a").all_text_contents()


def opened_case(tab: Tab) -> str:
    return tab.page.locator("#case-title").inner_text()


def voxel(tab: Tab) -> list[int]:
    return [int(part) for part in (tab.page.locator("#where").get_attribute("data-voxel") or "").split(",")]


def test_it_loads_offline_with_flags_first(tab: Tab, report: Report):
    assert tab.page.title() == HOSTILE
    assert tab.page.locator("h1").inner_text() == HOSTILE
    statuses = tab.page.locator("tbody tr .status").all_text_contents()
    assert statuses == ["flagged", "failed", "failed", "skipped", *["ok"] * 7]
    counts = tab.page.locator(".counts button b").all_inner_texts()
    assert counts == ["11", "1", "2", "1", "7"]
    thumbnails = tab.page.locator("tbody img")
    thumbnails.last.scroll_into_view_if_needed()
    assert tab.page.evaluate("[...document.images].filter(i => i.src).every(i => i.complete && i.naturalWidth > 0)")


def test_a_click_on_the_flagged_case_opens_it_and_the_canvas_is_not_blank(tab: Tab, report: Report):
    tab.page.locator("tbody tr").first.click(position={"x": 700, "y": 20})
    tab.settle()
    assert opened_case(tab) == "zz-flagged"
    picture = tab.picture()
    assert picture.std() > 20
    assert red(picture).sum() > 300
    assert green(picture).sum() > 50  # in the 3-D panel at least
    side = tab.page.locator("#side").inner_text()
    assert "right front top is 12.5 mL, too large" in side
    assert "at most 9" in side
    assert "0.873" in side
    assert "3" * 64 in (tab.page.locator("#side").text_content() or "")


@pytest.mark.parametrize(
    "grid", [*QUICK, *(pytest.param(each, marks=pytest.mark.slow) for each in GRIDS if each not in QUICK)]
)
def test_right_is_left_up_is_up_and_places_are_the_scans(tab: Tab, report: Report, grid: str):
    """Red is at the patient's right, front and top: as in the preview, seen at the left and at the top."""
    segmentation = head(*GRIDS[grid])
    click_row(tab, report, f"grid-{grid}")
    expected = scene.center(segmentation, measure(segmentation), None)
    assert voxel(tab) == list(expected)
    text = tab.page.locator("#where").inner_text().replace("−", "-")
    ras = [float(part) for part in re.search(r"· ([-\d., ]+) mm \(RAS\)", text)[1].split(",")]  # type: ignore[index]
    assert np.allclose(ras, segmentation.scan.voxel_to_world(np.array(expected, float), "ras")[0], atol=0.11)
    assert np.linalg.norm(np.array(ras) - RED_RAS) < 3
    assert "right front top" in text
    assert float(re.search(r"value ([-\d.]+)", text)[1]) == pytest.approx(HEAD, abs=0.5)  # type: ignore[index]
    for name in ("axial", "coronal", "sagittal"):
        layout(tab, name)
        picture = tab.picture()
        x, y = place_of(red(picture)) - place_of(picture.max(axis=-1) > 60)
        assert x < -12, name
        assert y < -12, name
        outline = np.argwhere((picture.min(axis=-1) > 220)[25:-25, 25:-25])
        height, width = np.ptp(outline, axis=0)
        # A slice of a ball, whatever the voxels' shape.
        assert height == pytest.approx(width, rel=0.08), name


@pytest.mark.parametrize(
    ("name", "axis"),
    [("axial", 2), *(pytest.param(*each, marks=pytest.mark.slow) for each in (("coronal", 1), ("sagittal", 0)))],
)
def test_the_wheel_scrolls_slices(tab: Tab, report: Report, name: str, axis: int):
    click_row(tab, report, "grid-RAS")
    layout(tab, name)
    before, start = tab.picture(), voxel(tab)
    box = tab.page.locator("#canvas").bounding_box()
    tab.page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    for _ in range(5):
        tab.page.mouse.wheel(0, 100)
        tab.draw()
    after, end = tab.picture(), voxel(tab)
    moved = [abs(new - old) for new, old in zip(end, start, strict=True)]
    assert moved[axis] >= 4
    assert sum(moved) == moved[axis]
    assert (np.abs(after - before).max(axis=-1) > 30).sum() > 500


@pytest.mark.slow
def test_a_click_moves_to_that_place(tab: Tab, report: Report):
    click_row(tab, report, "grid-LPS")
    layout(tab, "axial")
    box = tab.page.locator("#canvas").bounding_box()
    x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    tab.page.mouse.click(x, y)
    tab.draw()
    segmentation = head("LPS")
    right, front, top = segmentation.scan.voxel_to_world(np.array(voxel(tab), float), "ras")[0]
    assert abs(right) < 4
    assert abs(front) < 4
    assert top == pytest.approx(RED_RAS[2], abs=3)
    assert "no object" in tab.page.locator("#where").inner_text()
    tab.page.wait_for_timeout(600)  # two clicks at once would be a double click
    tab.page.mouse.click(x - 0.45 * box["height"], y)  # 105 mm are as high as the canvas; the head ends at 42
    tab.draw()
    text = tab.page.locator("#where").inner_text().replace("−", "-")
    assert float(re.search(r"value ([-\d.]+)", text)[1]) == pytest.approx(AIR, abs=0.5), text  # type: ignore[index]


def test_opacity_and_the_legend_show_and_hide_objects(tab: Tab, report: Report):
    click_row(tab, report, "grid-RAS")
    layout(tab, "axial")
    assert red(tab.picture()).sum() > 300
    tab.page.locator("#mask-opacity").fill("0")
    tab.draw()
    assert red(tab.picture()).sum() == 0
    tab.page.locator("#mask-opacity").fill("1")
    tab.draw()
    full = tab.picture()
    assert np.median(full[red(full)], axis=0) == pytest.approx([230, 40, 40], abs=25)
    tab.page.get_by_label("right front top").uncheck()
    tab.draw()
    assert red(tab.picture()).sum() == 0
    tab.page.get_by_label("right front top").check()
    tab.draw()
    assert red(tab.picture()).sum() == pytest.approx(red(full).sum(), rel=0.02)
    tab.page.locator("#reset").click()
    assert tab.page.locator("#mask-opacity").input_value() == "0.5"


@pytest.mark.slow
def test_the_window_moves_with_the_right_button(tab: Tab, report: Report):
    click_row(tab, report, "grid-RAS")
    layout(tab, "axial")
    before = tab.picture()
    box = tab.page.locator("#canvas").bounding_box()
    x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    tab.page.mouse.move(x, y)
    tab.page.mouse.down(button="right")
    tab.page.mouse.move(x + 40, y + 120, steps=6)
    tab.page.mouse.up(button="right")
    tab.draw()
    assert np.abs(tab.picture() - before).mean() > 3
    tab.page.locator("#reset").click()
    tab.draw()
    layout(tab, "axial")
    assert np.abs(tab.picture() - before).mean() < 1


def test_a_picture_is_shown_as_it_is(tab: Tab, report: Report):
    click_row(tab, report, "photo")
    assert not tab.page.locator("#layouts").is_visible()
    tab.page.locator("#mask-opacity").fill("0")
    tab.draw()
    picture = tab.picture()
    blue, yellow = picture[..., 2] > picture[..., 0] + 100, picture[..., 0] > picture[..., 2] + 100
    assert place_of(blue)[1] < place_of(yellow)[1]
    tab.page.locator("#mask-opacity").fill("1")
    tab.draw()
    solid = tab.picture()
    x, y = place_of(red(solid) & (solid[..., 1] < 100))
    whole = np.argwhere(blue | yellow)
    assert x < whole[:, 1].mean()
    assert y < whole[:, 0].mean()


def test_views_of_fewer_voxels_tell_the_scans_voxels(browser: Any, shrunken: Path):
    tab = Tab(browser, shrunken, "case=fine")
    tab.settle()
    segmentation = head("PIR", scale=0.5)
    expected = scene.center(segmentation, measure(segmentation), None)
    assert np.abs(np.array(voxel(tab)) - expected).max() <= 2
    assert "near" in tab.page.locator("#where").inner_text()
    assert "in blocks of" in tab.page.locator("#side").inner_text()
    layout(tab, "axial")
    picture = tab.picture()
    assert (place_of(red(picture)) - place_of(picture.max(axis=-1) > 60) < -20).all()
    assert tab.problems == []
    tab.context.close()


def test_a_failed_case_says_why_and_what_to_do(tab: Tab, report: Report):
    click_row(tab, report, "broken.nii.gz")
    side = tab.page.locator("#side").inner_text()
    assert "broken.nii.gz is truncated" in side
    assert "copy it again <b>" in side
    assert not tab.page.locator("#canvas").is_visible()


def test_hostile_names_are_only_words(tab: Tab, report: Report):
    for case in (HOSTILE, f"broken {HOSTILE}"):
        click_row(tab, report, case)
        assert opened_case(tab) == case
        tab.page.keyboard.press("Escape")
    assert tab.page.locator("img[src=x]").count() == 0


def test_empty_objects_say_why_they_have_no_place(tab: Tab, report: Report):
    click_row(tab, report, "grid-RAS")
    block = tab.page.locator("#side details", has_text="not there").first
    block.locator("summary").click()
    assert "none: the object is empty" in block.inner_text()


def test_sorting_by_mouse_and_by_keyboard(tab: Tab, report: Report):
    heads = tab.page.locator("thead button")
    titles = heads.all_inner_texts()
    case = titles.index("case")
    heads.nth(case).click()
    up = shown_order(tab)
    assert up[-1] == max(up, key=str.casefold) == "zz-flagged"
    heads.nth(case).focus()
    tab.page.keyboard.press("Enter")
    assert shown_order(tab) == up[::-1]
    assert tab.page.locator("thead th").nth(case).get_attribute("aria-sort") == "descending"
    volume = titles.index("right front top")
    heads.nth(volume).click()
    values = tab.page.locator(f"tbody tr td:nth-child({volume + 1})").all_text_contents()
    have = [value for value in values if value != "–"]
    assert values == have + ["–"] * (len(values) - len(have))
    assert len(have) == 8
    for each in range(len(titles)):
        heads.nth(each).click()


def test_filters_by_status_and_words(tab: Tab, report: Report):
    tab.page.locator('[data-show="failed"]').click()
    assert sorted(shown_order(tab)) == sorted(["broken.nii.gz", f"broken {HOSTILE}"])
    tab.page.locator('[data-show=""]').click()
    tab.page.locator("#find").fill("TOO large")
    assert shown_order(tab) == ["zz-flagged"]
    assert tab.page.locator("#found").inner_text() == "1 of 11 cases"
    tab.page.locator("#find").fill("nothing like it")
    assert tab.page.locator(".nothing").is_visible()


def test_the_keyboard_does_everything(tab: Tab, report: Report):
    tab.page.locator("tbody tr td a").first.focus()
    tab.page.keyboard.press("ArrowDown")
    tab.page.keyboard.press("ArrowUp")
    tab.page.keyboard.press("Enter")
    tab.settle()
    assert opened_case(tab) == "zz-flagged"
    tab.page.keyboard.press("n")
    assert opened_case(tab) in ("broken.nii.gz", f"broken {HOSTILE}")
    tab.page.keyboard.press("p")
    assert opened_case(tab) == "zz-flagged"
    assert tab.page.locator("#previous").is_disabled()
    tab.page.keyboard.press("Escape")
    assert tab.page.locator("dialog[open]").count() == 0
    assert tab.page.evaluate("document.activeElement.textContent") == "zz-flagged"
    tab.page.go_back()
    tab.settle()
    assert opened_case(tab) == "zz-flagged"


@pytest.mark.slow
def test_quick_steps_end_at_the_last_case(tab: Tab, report: Report):
    """A case that is still loading when the next one opens must not be drawn into it."""
    click_row(tab, report, "grid-RAS")
    for key in "nnpn":
        tab.page.keyboard.press(key)
    tab.settle()
    tab.page.wait_for_timeout(1500)
    name = opened_case(tab)
    assert name.startswith(("grid", "photo")) or name == HOSTILE
    segmentation = photograph() if name == "photo" else head(*GRIDS.get(name.removeprefix("grid-"), GRIDS["RAS"]))
    assert voxel(tab) == list(scene.center(segmentation, measure(segmentation), None))


def test_an_address_leads_to_a_case(browser: Any, report: Report):
    tab = Tab(browser, report.path, "case=grid-PIR")
    tab.settle()
    assert opened_case(tab) == "grid-PIR"
    assert tab.picture().std() > 20
    tab.context.close()


def test_without_webgl_the_preview_is_shown_and_the_page_says_so(start: Callable[..., Any], report: Report):
    tab = Tab(start(*NO_WEBGL), report.path, "case=grid-LPS")
    tab.settle()
    assert "no WebGL2" in tab.page.locator("#message").inner_text()
    assert tab.page.locator("#picture").is_visible()
    assert red(tab.picture("#picture")).sum() > 30
    assert tab.problems == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_words_are_readable_in_light_and_dark(tab: Tab, report: Report, scheme: str):
    """Contrast of every status and of plain text, by the WCAG formula; 4.5 is its least for text."""
    tab.page.emulate_media(color_scheme=scheme)
    script = """() => [...document.querySelectorAll("tbody .status, tbody td a, .more, h1")].map(each => {
        let behind = each;
        while (getComputedStyle(behind).backgroundColor === "rgba(0, 0, 0, 0)") behind = behind.parentElement;
        return [getComputedStyle(each).color, getComputedStyle(behind).backgroundColor];
    })"""

    def light(color: str) -> float:
        parts = np.array([float(part) for part in re.findall(r"[\d.]+", color)[:3]]) / 255
        linear = np.where(parts <= 0.03928, parts / 12.92, ((parts + 0.055) / 1.055) ** 2.4)
        return float(linear @ [0.2126, 0.7152, 0.0722])

    for ink, paper in tab.page.evaluate(script):
        low, high = sorted((light(ink), light(paper)))
        assert (high + 0.05) / (low + 0.05) >= 4.5, (ink, paper)


@pytest.mark.slow
def test_thousands_of_rows_stay_quick(browser: Any, tmp_path: Path):
    first = record(tmp_path, "case-0", head()).to_json()
    found = [{**first, "id": f"case-{number}", "seconds": float(number % 97)} for number in range(3000)]
    path = page.write_page(tmp_path, found, {}, 20)
    tab = Tab(browser, path)
    began = tab.page.evaluate("performance.now()")
    tab.page.locator("thead button", has_text="time, s").click()
    tab.draw()
    assert tab.page.evaluate("performance.now()") - began < 5000
    tab.page.locator("#find").fill("case-2999")
    assert shown_order(tab) == ["case-2999"]
    tab.page.locator("tbody tr:visible td a").click()
    tab.page.wait_for_selector("dialog[open]")
    assert opened_case(tab) == "case-2999"
    tab.context.close()
