"""What the page of a batch holds, and what its views are made of; how it behaves is in test_batch_page_browser.py."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import phantom
import pytest
from batch_page_cases import HOSTILE, LABELS, failure, flag, head, photograph, record
from PIL import Image

from medseg_cli.batch import records
from medseg_cli.batch.record import Record
from medseg_cli.batch_page import case_data, page, shrink, views
from medseg_cli.measure import measure
from medseg_cli.scan import Provenance, Scan
from medseg_cli.segmentation import Label, Segmentation

NIIVUE = "47b896b77ec4a5be3ef1949c33ad393b6f45629921f326c279000bcf51bdb4af"


class Document(HTMLParser):
    """Elements of a page, and the text of its scripts."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.scripts: list[tuple[dict[str, str | None], str]] = []
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag == "script":
            self.scripts.append((dict(attrs), ""))

    def handle_data(self, data: str) -> None:
        if self.elements and self.elements[-1][0] == "script" and self.cdata_elem == "script":
            self.scripts[-1] = (self.scripts[-1][0], self.scripts[-1][1] + data)

    def named(self, name: str) -> str | None:
        """Text of the script element with this id."""
        return next((text for attrs, text in self.scripts if attrs.get("id") == name), None)


def linear(shape: tuple[int, int, int], affine: np.ndarray) -> np.ndarray:
    """(I, J, K): 2 x + 3 y + 5 z of voxel centres in mm: a block's mean is the value at the block's centre."""
    ras = np.moveaxis(np.indices(shape), 0, -1) @ affine[:3, :3].T + affine[:3, 3]
    return ras @ np.array([2.0, 3.0, 5.0])


def volume(codes: str, shape: tuple[int, int, int], angles: tuple[float, float, float] = (0, 0, 0)) -> Segmentation:
    affine = phantom.affine(codes, (0.7, 0.9, 1.6), phantom.ORIGIN_RAS, angles)
    scan = Scan(linear(shape, affine).astype(np.float32)[None], affine, Provenance(Path("x"), "nifti", "0" * 64))
    mask = np.zeros(shape, np.uint8)
    mask[tuple(slice(size // 3, 2 * size // 3) for size in shape)] = 1
    return Segmentation(mask, (Label(1, "box"),), scan)


@pytest.mark.parametrize("codes", ["RAS", "LPS", "PIR", "SLA"])
@pytest.mark.parametrize("angles", [(0.0, 0.0, 0.0), (0.3, -0.2, 0.4)])
def test_a_view_lies_where_its_scan_lies(tmp_path: Path, monkeypatch, codes: str, angles: tuple[float, float, float]):
    monkeypatch.setattr(views, "MOST", 3000)
    segmentation = volume(codes, (50, 42, 31), angles)
    views.write_view(segmentation, measure(segmentation), tmp_path / "a")
    found = views.read_view(tmp_path / "a")
    assert found is not None
    assert max(found["step_ijk"]) > 1
    image = nib.load(found["files"]["scan"])
    assert np.allclose(image.header.get_zooms(), np.linalg.norm(image.affine[:3, :3], axis=0))
    values = image.get_fdata()
    inner = tuple(slice(1, -1) for _ in range(3))  # the last block along an axis may be cut
    expected = linear(values.shape, image.affine)
    # 255 steps over the range that is kept; beyond it values are cut.
    step = float(image.dataobj.slope)
    kept = np.clip(expected, values.min(), values.max())
    assert np.abs(values - kept)[inner].max() <= 0.51 * step + 1e-3
    mask = nib.load(found["files"]["mask"])
    assert np.array_equal(mask.affine, image.affine)
    where = np.argwhere(np.asarray(mask.dataobj) == 1).mean(axis=0)
    centroid = measure(segmentation)[0].centroid_ras
    assert np.linalg.norm(mask.affine[:3, :3] @ where + mask.affine[:3, 3] - centroid) < 0.75


def test_a_small_scan_is_shown_as_it_is(tmp_path: Path):
    segmentation = phantom.segmentation(phantom.scan())
    views.write_view(segmentation, measure(segmentation), tmp_path / "a")
    found = views.read_view(tmp_path / "a")
    assert found is not None
    assert found["step_ijk"] == [1, 1, 1]
    image = nib.load(found["files"]["scan"])
    assert np.allclose(image.affine, segmentation.scan.affine)
    assert np.array_equal(np.asarray(nib.load(found["files"]["mask"]).dataobj), segmentation.mask)


def test_labels_keep_their_size_and_a_speck_is_seen():
    mask = np.zeros((60, 60, 60), np.uint8)
    mask[10:41, 12:43, 9:40] = 1
    mask[3, 3, 3] = 2
    mask[50:51, 5:55, 30:31] = 3  # a thread: no block of 5 is filled by more than a twenty-fifth
    small = shrink.labels(mask, (5, 5, 5))
    assert small.shape == (12, 12, 12)
    assert (small == 1).sum() * 125 == pytest.approx(31**3, rel=0.15)
    assert np.argwhere(small == 2).tolist() == [[0, 0, 0]]
    assert (small == 3).any()
    assert (small[10, :, 6] == 3).sum() == (small == 3).sum()


def test_blocks_are_true_means_with_holes_and_a_cut_end():
    values = np.arange(7 * 4 * 3, dtype=np.float32).reshape(7, 4, 3)
    values[0, 0, 0] = np.nan
    found = shrink.means(values, (3, 2, 2))
    assert found.shape == (3, 2, 2)
    assert found[2, 1, 1] == pytest.approx(values[6:, 2:, 2:].mean())
    whole = np.nan_to_num(values, nan=float(np.nanmin(values)))
    assert found[0, 0, 0] == pytest.approx(whole[:3, :2, :2].mean())


@pytest.mark.parametrize("most", [10, 1000, 50000])
def test_steps_leave_no_more_than_asked_and_shrink_the_finest_axis_first(most: int):
    shape, spacing = (64, 64, 20), (0.5, 0.5, 4.0)
    i, j, k = shrink.steps(shape, spacing, most)
    assert -(-64 // i) * -(-64 // j) * -(-20 // k) <= most
    assert i == j or abs(i - j) == 1
    assert k == 1 or i * 0.5 > 3.0


def test_colours_of_a_picture_stay(tmp_path: Path):
    segmentation = photograph()
    views.write_view(segmentation, measure(segmentation), tmp_path / "a")
    found = views.read_view(tmp_path / "a")
    assert found is not None
    assert found["picture"]
    assert found["plane"] == "axial"
    stored = np.asarray(nib.load(found["files"]["scan"]).dataobj)
    assert stored[3, 3, 0].tolist() == (0, 0, 200)
    assert stored[3, 35, 0].tolist() == (220, 220, 0)


@pytest.fixture
def batch(tmp_path: Path) -> tuple[Path, list[dict[str, Any]]]:
    """An output folder with a case of each kind, and its records."""
    out = tmp_path / "out"
    made = [
        record(out, "case-10", head()),
        record(out, "case-2", head("LPS")),
        failure(out, "broken.nii.gz"),
        record(out, "zz-flagged", head(), [flag(f"red is 12.5 mL, too large {HOSTILE}")]),
        record(out, HOSTILE, photograph()),
        Record("never", "skipped", "not reached: interrupted"),
    ]
    return out, [each.to_json() for each in made]


def test_flags_come_first_and_names_are_harmless(batch):
    out, found = batch
    path = page.write_page(out, found, {"title": HOSTILE, "command": HOSTILE, "warnings": [HOSTILE]})
    document = Document(path)
    rows = [attrs for tag, attrs in document.elements if tag == "tr" and "data-status" in attrs]
    assert [row["data-status"] for row in rows] == ["flagged", "failed", "skipped", "ok", "ok", "ok"]
    cases = [json.loads(document.named(f"case-{row['data-case']}") or "") for row in rows]
    assert [case["id"] for case in cases[:3]] == ["zz-flagged", "broken.nii.gz", "never"]
    assert [case["id"] for case in cases[4:]] == ["case-2", "case-10"]
    assert cases[3]["id"] == HOSTILE
    assert not [attrs for _, attrs in document.elements if any(name.startswith("on") for name in attrs)]
    executable = [
        text for attrs, text in document.scripts if attrs.get("type") not in ("text/plain", "application/json")
    ]
    allowed = {f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'" for text in executable}
    policy = next(attrs["content"] for tag, attrs in document.elements if attrs.get("http-equiv")) or ""
    assert len(executable) == 2
    assert set(re.search(r"script-src ([^;]*)", policy)[1].split()) == allowed  # type: ignore[index]
    assert policy.startswith("default-src 'none'")


def test_nothing_is_fetched(batch):
    out, found = batch
    document = Document(page.write_page(out, found, {}))
    addresses = [attrs[name] or "" for _, attrs in document.elements for name in ("src", "href") if name in attrs]
    assert addresses
    assert [each for each in addresses if not each.startswith(("data:", "#case="))] == []


def test_links_lead_to_the_outputs_from_wherever_the_page_is(batch, tmp_path: Path):
    out, found = batch
    elsewhere = tmp_path / "elsewhere" / "all.html"
    elsewhere.parent.mkdir()
    page.write_cases(page.gather(out, found), elsewhere, {})
    case = json.loads(Document(elsewhere).named("case-0") or "")
    link = case["outputs"][0]["link"]
    assert link.startswith("./")
    assert (elsewhere.parent / link).resolve().is_file()


def test_the_budget_goes_to_the_cases_at_the_top_first(batch):
    out, found = batch
    everything = Document(page.write_page(out, found, {}))
    sizes = {
        number: sum(len(everything.named(f"{kind}-{number}") or "") for kind in ("scan", "mask", "picture"))
        for number in (0, 3, 4, 5)
    }
    assert all(sizes.values())
    whole = (out / page.NAME).stat().st_size
    # Room for all but half of the last viewer, and for what the page reckons with per case.
    budget = whole - sizes[5] // 2 + page.HEAD_BYTES + len(found) * page.CASE_BYTES
    document = Document(page.write_page(out, found, {}, budget / page.MIB))
    assert (out / page.NAME).stat().st_size <= whole - sizes[5] // 2
    shown = [number for number in range(6) if document.named(f"scan-{number}")]
    assert shown == [0, 3, 4]
    assert "medseg report OUT --viewer-budget" in json.loads(document.named("case-5") or "")["no_view"]
    assert json.loads(document.named("case-0") or "")["no_view"] == ""
    text = (out / page.NAME).read_text(encoding="utf-8")
    assert "3 of 6 cases have a viewer" in text
    thumbnails = [
        attrs for tag, attrs in document.elements if tag == "img" and (attrs.get("src") or "").startswith("data:")
    ]
    assert len(thumbnails) == 4


def test_without_room_there_is_no_niivue(batch):
    out, found = batch
    page.write_page(out, found, {}, 0)
    assert (out / page.NAME).stat().st_size < 200_000
    assert "niivue.umd" not in (out / page.NAME).read_text(encoding="utf-8")


def test_a_view_that_is_gone_is_said(batch):
    out, found = batch
    for path in (out / views.FOLDER).glob("zz-flagged*.mask.nii.gz"):
        path.unlink()
    document = Document(page.write_page(out, found, {}))
    assert document.named("scan-0") is None
    assert "gone" in json.loads(document.named("case-0") or "")["no_view"]


def test_random_weights_are_shouted(tmp_path: Path):
    made = [record(tmp_path, "a", head(), random=True), record(tmp_path, "b", head("LPS"))]
    text = page.write_page(tmp_path, [each.to_json() for each in made], {}).read_text(encoding="utf-8")
    assert "RANDOM WEIGHTS: these masks mean nothing (1 of 2 cases)" in text


def test_values_in_the_page_are_those_of_the_record(batch):
    out, found = batch
    document = Document(page.write_page(out, found, {}))
    case = json.loads(document.named("case-0") or "")
    truth = next(each for each in found if each["id"] == "zz-flagged")
    assert case["labels"] == [dict(each) for each in truth["labels"]]
    assert case["report"]["weights"]["sha256"] == "3" * 64
    empty = case["labels"][2]
    assert empty["centroid_ras_mm"] is None
    assert empty["reasons"]["centroid_ras_mm"]


def test_thumbnails_are_small_pictures(batch):
    out, found = batch
    for each in found:
        if each["thumbnail"]:
            with Image.open(out / each["thumbnail"]) as image:
                assert max(image.size) == 144
            assert (out / each["thumbnail"]).stat().st_size < 10_000


def test_the_same_records_give_the_same_page(batch, monkeypatch):
    out, found = batch
    first = page.write_page(out, found, {}).read_bytes()
    second = page.write_page(out, list(reversed(found)), {}).read_bytes()
    minute = re.compile(rb"page made [^.]*")
    assert minute.sub(b"", first) == minute.sub(b"", second)


def test_niivue_is_the_file_that_its_readme_says():
    folder = Path(page.__file__).parent / "niivue"
    assert hashlib.sha256((folder / "niivue.umd.js").read_bytes()).hexdigest() == NIIVUE
    assert NIIVUE in (folder / "README.md").read_text(encoding="utf-8")
    assert "BSD 2-Clause License" in (folder / "LICENSES.txt").read_text(encoding="utf-8")


def test_order_is_by_status_and_then_as_people_count():
    cases = [case_data.Case(Path(), {"id": f"case-{n}", "status": "ok"}, {}, None, None) for n in (10, 9, 1)]
    assert [each.id for each in case_data.in_order(cases)] == ["case-1", "case-9", "case-10"]


def test_report_rebuilds_what_was_deleted(batch, in_process):
    out, found = batch
    records.write(out, Record("never", "skipped", "not reached: interrupted"))
    assert not (out / "cases.csv").exists()
    code, stdout, _ = in_process("report", out, "--json")
    assert code == 0
    told = json.loads(stdout)
    assert told["status"] == {"flagged": 1, "failed": 1, "absent": 0, "skipped": 1, "ok": 3}
    assert len((out / "cases.jsonl").read_text(encoding="utf-8").splitlines()) == len(found)
    assert (out / "cases.csv").is_file()
    assert len([1 for tag, attrs in Document(out / page.NAME).elements if tag == "tr" and "data-status" in attrs]) == 6


def test_report_joins_folders_in_one_page(tmp_path: Path, in_process):
    for name in ("site-a", "site-b"):
        record(tmp_path / name, "scan", head())
    code, _, err = in_process("report", "site-a", "site-b", "-o", "both.html")
    assert code == 0, err
    document = Document(tmp_path / "both.html")
    ids = [json.loads(document.named(f"case-{number}") or "")["id"] for number in range(2)]
    assert ids == ["site-a/scan", "site-b/scan"]
    assert document.named("scan-1")


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (["nowhere"], 3, "there is no folder"),
        (["empty"], 3, "holds no record of a batch"),
        (["out", "-o", "page.pdf"], 2, "is no HTML file"),
        (["out", "-o", "missing/page.html"], 3, "no folder"),
        (["out", "deeper/out", "-o", "page.html"], 2, "same name"),
    ],
)
def test_report_says_what_is_wrong(tmp_path: Path, in_process, arguments: list[str], code: int, says: str):
    (tmp_path / "empty").mkdir()
    for folder in ("out", "deeper/out"):
        failure(tmp_path / folder, "broken")
    found, _, err = in_process("report", *arguments)
    assert found == code
    assert says in err
    assert not list(tmp_path.rglob("report.html"))


def test_labels_of_the_phantom_are_told_apart():
    segmentation = head()
    sizes = {label.value: int((segmentation.mask == label.value).sum()) for label in LABELS}
    assert sizes[1] > sizes[2] > sizes[3] == 0
