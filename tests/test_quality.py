"""Quality flags: raised beyond a limit and not within it, told by `segment`, measured by `dataset quality`."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import dataset_phantom
import nibabel as nib
import numpy as np
import phantom
import pytest
import region_growing
import yaml

from medseg_cli import pipelines
from medseg_cli import preset as presets
from medseg_cli.datasets import read_cases
from medseg_cli.datasets.limits import quality_of
from medseg_cli.errors import InputError, ModelError
from medseg_cli.measure import measure
from medseg_cli.preset_format import Preset
from medseg_cli.quality import Flag, check, intensity_percentiles, patient_spacing
from medseg_cli.scan import Provenance, Scan
from medseg_cli.segmentation import Label, Segmentation

Medseg = Callable[..., tuple[int, str, str]]
GRID = np.diag([2.0, 2.0, 5.0, 1.0])


def preset_with(quality: dict[str, Any] | None, **changes: Any) -> Preset:
    data = presets.find("hippocampus-mr").model_dump(mode="json") | {"quality": quality} | changes
    return Preset.model_validate(data)


def cube(values: int = 1, affine: np.ndarray = GRID, **scan: Any) -> Segmentation:
    """Cubes of 8 x 8 x 8 voxels (10.24 mL) in one row, in a scan whose values rise along i from 0 to 39."""
    mask = np.zeros((40, 20, 20), np.uint8)
    for value in range(1, values + 1):
        mask[10 * value - 8 : 10 * value, 6:14, 6:14] = value
    voxels = np.broadcast_to(np.arange(40, dtype=np.float32)[None, :, None, None], (1, 40, 20, 20))
    facts = scan.pop("facts", {})
    provenance = Provenance(Path("s"), str(scan.pop("format", "nifti")), "")
    labels = tuple(Label(value, f"hippocampus ({value})") for value in range(1, values + 1))
    return Segmentation(mask, labels, Scan(voxels, affine, provenance, **scan), facts)


def flags(segmentation: Segmentation, quality: dict[str, Any] | None = None, **preset: Any) -> tuple[Flag, ...]:
    return check(segmentation, measure(segmentation), preset_with(quality, **preset))


def codes(segmentation: Segmentation, quality: dict[str, Any] | None = None, **preset: Any) -> list[str]:
    return [flag.code for flag in flags(segmentation, quality, **preset)]


def test_a_plain_result_has_no_flag() -> None:
    assert codes(cube()) == []
    assert codes(cube(), {}) == []


def test_an_empty_object_and_one_at_the_edge() -> None:
    nothing = cube()
    nothing.mask[:] = 0
    assert flags(nothing) == (Flag("empty", "hippocampus (1): nothing was segmented", 1, 0.0),)
    edge = cube()
    edge.mask[:3, 6:14, 6:14] = 1
    (flag,) = flags(edge)
    assert (flag.code, flag.label) == ("border", 1)
    assert "edge of the scan" in flag.message
    assert codes(edge, {"labels": {1: {"border": False}}}) == []


@pytest.mark.parametrize(
    ("limits", "flagged"),
    [([10, 11], False), ([10.2, 10.3], False), ([10.25, 20], True), ([1, 10.23], True)],
)
def test_volumes(limits: list[float], flagged: bool) -> None:
    found = flags(cube(), {"labels": {1: {"volume_ml": limits}}})
    assert [flag.code for flag in found] == ["volume"] * flagged
    if flagged:
        assert found[0].value == pytest.approx(10.24)
        assert found[0].limit == tuple(limits)
        assert "10.2 mL" in found[0].message


def test_pictures_have_areas_and_shares() -> None:
    def picture(**scan: Any) -> Segmentation:
        whole = cube()
        voxels = whole.scan.voxels[..., 10:11]
        flat = Scan(voxels, np.diag([0.5, 0.2, 1, 1]), Provenance(Path("s"), "image", ""), **scan)
        return Segmentation(whole.mask[..., 10:11], whole.labels, flat)

    share = 64 / 800
    assert codes(picture(), {"labels": {1: {"area_mm2": [6.3, 6.5]}}}) == []
    assert codes(picture(), {"labels": {1: {"area_mm2": [6.5, 9]}}}) == ["volume"]
    assert codes(picture(spacing_known=False), {"labels": {1: {"area_mm2": [6.5, 9]}}}) == [], "nobody can know"
    assert codes(picture(spacing_known=False), {"labels": {1: {"area_share": [share, 1]}}}) == []
    (flag,) = flags(picture(spacing_known=False), {"labels": {1: {"area_share": [0, share * 0.99]}}})
    assert flag.value == pytest.approx(share)


def test_parts() -> None:
    split = cube()
    split.mask[6, 6:14, 6:14] = 0
    assert codes(split, {"labels": {1: {"components": 2}}}) == []
    (flag,) = flags(split, {"labels": {1: {"components": 1}}})
    assert (flag.code, flag.value, flag.limit) == ("components", 2.0, (None, 1.0))


def test_each_object_has_the_limits_of_its_label() -> None:
    labels = [{"value": 3, "name": "cyst", "color": "#ffffff"}, {"value": 7, "name": "hippocampus", "color": "#ffffff"}]
    quality = {"labels": {3: {"volume_ml": [0, 1]}, 7: {"volume_ml": [0, 20]}}}
    prompted = cube(2)
    assert codes(prompted, quality, labels=labels) == [], "by the name, whatever the value in this mask"
    own = Segmentation(prompted.mask, (Label(1, "mine"), Label(2, "cyst")), prompted.scan)
    assert [flag.label for flag in flags(own, quality, labels=labels)] == [1, 2], "other names are the first label's"
    mask = np.where(prompted.mask == 1, 3, np.where(prompted.mask == 2, 7, 0)).astype(np.uint8)
    automatic = Segmentation(mask, (Label(3, "a"), Label(7, "b")), prompted.scan)
    found = flags(automatic, quality, labels=labels, prompts={"kinds": []})
    assert [flag.label for flag in found] == [3], "by the value"


def test_voxel_sizes_are_those_of_the_patient() -> None:
    quality = {"spacing_mm": [[1, 3], [1, 3], [4, 6]]}
    assert codes(cube(), quality) == []
    turned = phantom.affine("SRA", (5.0, 2.0, 2.0))
    assert patient_spacing(cube(affine=turned).scan) == pytest.approx((2, 2, 5))
    assert codes(cube(affine=turned), quality) == []
    (flag,) = flags(cube(affine=GRID @ np.diag([10, 10, 10, 1])), quality)
    assert (flag.code, flag.value, flag.limit) == ("spacing", pytest.approx(50), (4, 6))
    assert "20 x 20 x 50 mm" in flag.message
    assert codes(cube(affine=GRID * 0.1), quality) == ["spacing"]
    assert codes(cube(spacing_known=False), quality) == []
    assert codes(cube(), {"spacing_mm": [[9, 10], [9, 10]]}) == [], "limits of pictures"


def test_values_near_the_objects_count() -> None:
    """The cube lies at i = 2..9; 5 mm are 2 voxels there: values 0 to 11."""
    one = cube()
    found = intensity_percentiles(one.scan, measure(one), "scan")
    expected = np.percentile(np.arange(12), [10, 25, 50, 75, 90])
    assert found == pytest.approx(dict(zip((10, 25, 50, 75, 90), expected, strict=True)), abs=0.6)
    for factor, offset in ((1.0, 0.0), (1e6, 0.0), (0.01, 300.0)):
        other = Scan(one.scan.voxels * np.float32(factor) + np.float32(offset), one.scan.affine, one.scan.provenance)
        relative = intensity_percentiles(other, measure(one), "relative")
        assert relative == pytest.approx({p: p / 100 for p in (10, 25, 50, 75, 90)}, abs=0.1), "no unit, no offset"


def test_values_beyond_their_limits() -> None:
    usual = {"units": "scan", "percentiles": {50: [5, 6], 90: [8, 12]}}
    assert codes(cube(), {"intensity": usual}) == []
    (flag,) = flags(cube(), {"intensity": usual | {"percentiles": {50: [6, 8], 90: [20, 30]}}})
    assert (flag.code, flag.limit) == ("intensity", (20, 30)), "the percentile that is farthest off"
    assert "90th percentile" in flag.message
    uniform = Scan(np.ones((1, 40, 20, 20), np.float32), GRID, Provenance(Path("s"), "nifti", ""))
    assert codes(Segmentation(cube().mask, cube().labels, uniform), {"intensity": usual}) == []


def test_what_the_network_thinks_of_itself() -> None:
    facts = {"objects": [{"predicted_iou": {"mean": 0.6, "least": 0.2, "slice": 3}}, {"predicted_iou": None}]}
    facts["presence"] = [{"label": 2, "probability": 0.3}]  # type: ignore[list-item]
    found = flags(cube(2, facts=facts), {"predicted_iou": 0.7, "presence": 0.5})
    assert [(flag.code, flag.label, flag.value) for flag in found] == [("predicted-iou", 1, 0.6), ("presence", 2, 0.3)]
    assert codes(cube(2, facts=facts), {"predicted_iou": 0.5, "presence": 0.2}) == []
    assert codes(cube(2, facts=facts)) == [], "without a limit nothing is asked"


def test_doubt_along_a_border_is_flagged_by_its_mean() -> None:
    facts = {"objects": [{"uncertainty": {"mean": 90.0, "most": 300.0, "slice": 3}}, {"uncertainty": None}]}

    (flag,) = flags(cube(2, facts=facts), {"uncertainty": 80})

    assert (flag.code, flag.label, flag.value, flag.limit) == ("uncertain", 1, 90.0, (None, 80.0))
    assert codes(cube(2, facts=facts), {"uncertainty": 90}) == codes(cube(2, facts=facts), {}) == []


def test_another_modality() -> None:
    (flag,) = flags(cube(modality="CT"))
    assert (flag.code, flag.message) == ("modality", "the scan is CT, the preset is made for MR")
    assert codes(cube(modality="CT"), modality=["any"]) == []
    assert codes(cube(modality="MR")) == codes(cube()) == []


@pytest.mark.parametrize(
    ("section", "message"),
    [
        ({"volume": 3}, "quality: unknown key 'volume'"),
        ({"labels": {1: {"volume_ml": [3, 1]}}}, "quality.labels[1].volume_ml: the first limit, 3, must not be above"),
        ({"labels": {5: {}}}, "quality: labels name value 5, which no label has"),
        ({"labels": {1: {"parts": 1}}}, "unknown key 'parts'"),
        ({"intensity": {"units": "scan", "percentiles": {0: [1, 2]}}}, "greater than or equal to 1"),
        ({"predicted_iou": 2}, "less than or equal to 1"),
    ],
)
def test_a_wrong_section_is_refused(tmp_path: Path, section: dict[str, Any], message: str) -> None:
    data = yaml.safe_load(Path(presets.locations()["hippocampus-mr"]).read_text()) | {"quality": section}
    (tmp_path / "p.yaml").write_text(yaml.safe_dump(data))
    with pytest.raises(ModelError, match=r"p\.yaml") as refused:
        presets.load(tmp_path / "p.yaml")
    assert message in refused.value.message


def test_segment_tells_flags_and_ends_well(monkeypatch: pytest.MonkeyPatch, in_process: Medseg, tmp_path: Path) -> None:
    monkeypatch.setattr(pipelines, "PIPELINES", dict(pipelines.PIPELINES))
    region_growing.register()
    voxels = np.random.default_rng(0).normal(100, 2, (20, 20, 20)).astype(np.float32)
    voxels[0:6, 5:10, 5:10] = 300
    nib.save(nib.Nifti1Image(voxels, np.eye(4)), tmp_path / "s.nii.gz")
    path = region_growing.write_preset(tmp_path)
    path.write_text(path.read_text() + "quality: {labels: {1: {volume_ml: [1.5, 3]}}}\n")
    code, out, err = in_process("segment", "s.nii.gz", "m.nii.gz", "-p", path, "--point", "2,7,7", "--json")
    assert code == 0, err
    report = json.loads(out)
    assert json.loads(Path("m.json").read_text())["flags"] == report["flags"]
    volume, border = report["flags"]
    assert volume == {
        "code": "volume",
        "message": "blob: 0.15 mL lie outside 1.5 to 3 mL",
        "label": 1,
        "value": pytest.approx(0.15),
        "limit": [1.5, 3.0],
    }
    assert (border["code"], border["value"], border["limit"]) == ("border", None, None)
    assert report["status"] == "ok"
    assert "look at it: blob: 0.15 mL lie outside 1.5 to 3 mL" in err
    assert "look at it: blob: reaches the edge of the scan" in err


def test_limits_of_a_dataset_hold_for_its_cases(in_process: Medseg, tmp_path: Path) -> None:
    """Blocks of 2 to 4 x 2 x 3 voxels of known size: of all values together, a little widened."""
    folder = dataset_phantom.nnunet(tmp_path / "Dataset001", 3)
    code, out, err = in_process("dataset", "quality", folder, "--preset", "hippocampus-mr", "--cases", "all", "-q")
    assert code == 0, err
    measured = yaml.safe_load(out)["quality"]
    voxels = [np.count_nonzero(dataset_phantom.labels(number)) for number in range(3)]
    volumes = [count * abs(np.linalg.det(dataset_phantom.affine(number))) / 1000 for number, count in enumerate(voxels)]
    low, high = measured["labels"][1]["volume_ml"]
    assert (low, high) == pytest.approx((min(volumes) / 1.25, max(volumes) * 1.25), rel=0.01)
    assert measured["spacing_mm"] == [
        pytest.approx([1 / 1.5, 1.875], rel=0.01),
        *[pytest.approx([1.25 / 1.5, 1.875], rel=0.01)],
        pytest.approx([2.5 / 1.5, 3.75], rel=0.01),
    ]
    assert measured["labels"][1]["border"] is False, "all of them reach the edge"
    assert measured["cases"] == 3
    assert measured["source"] == "medseg dataset quality Dataset001 --preset hippocampus-mr --cases all"
    preset = Path("mine.yaml")
    text = presets.locations()["hippocampus-mr"].read_text().split("\nquality:")[0]
    preset.write_text(f"{text}\n{out}")
    checked = presets.load(preset)
    for case in read_cases(folder):
        scan = nib.load(case.image)
        values = np.asarray(scan.dataobj, np.float32)[None]
        mask = (np.asarray(nib.load(case.label).dataobj) > 0).astype(np.uint8)
        result = Segmentation(
            mask, (Label(1, "hippocampus"),), Scan(values, scan.affine, Provenance(case.image, "nifti", ""))
        )
        assert check(result, measure(result), checked) == ()


def test_objects_apart_and_labels_of_automatic_presets(tmp_path: Path) -> None:
    cases = read_cases(dataset_phantom.nnunet(tmp_path / "d", 3))
    ct = preset_with(None, modality=["CT"])
    apart = quality_of(cases, ct, "apart", "here")
    assert apart.intensity is not None
    assert apart.intensity.units == "scan", "Hounsfield units mean something"
    labels = [{"value": value, "name": f"l{value}", "color": "#ffffff"} for value in (1, 2)]
    automatic = quality_of(cases, preset_with({"presence": 0.4}, labels=labels, prompts={"kinds": []}), "together", "x")
    assert set(apart.labels) == {1}
    assert set(automatic.labels) == {1, 2}
    assert automatic.presence == 0.4, "what masks cannot tell is kept"
    (one, two), of_both = automatic.labels.values(), apart.labels[1].volume_ml
    assert one.volume_ml is not None
    assert two.volume_ml is not None
    assert of_both == (min(one.volume_ml[0], two.volume_ml[0]), max(one.volume_ml[1], two.volume_ml[1]))
    foreign = [{"value": 9, "name": "none", "color": "#ffffff"}]
    with pytest.raises(InputError, match="no case has an object that preset"):
        quality_of(cases, preset_with(None, labels=foreign, prompts={"kinds": []}), "together", "x")


def test_limits_of_pictures(tmp_path: Path) -> None:
    cases = read_cases(dataset_phantom.pictures(tmp_path / "d", 4))
    measured = quality_of(cases, presets.find("chest-xray-lungs"), "together", "here")
    shares = [9 * (5 + number) / 480 for number in range(4)]
    assert measured.labels[1].area_share == pytest.approx((min(shares) / 1.25, max(shares) * 1.25), rel=0.01)
    assert (measured.labels[1].volume_ml, measured.labels[1].area_mm2, measured.spacing_mm) == (None, None, None)


def test_the_limits_of_the_shipped_presets_are_those_of_their_data(in_process: Medseg, shared: Path) -> None:
    """The command that their `source` names gives them again."""
    for name in ("chest-xray-lungs", "hippocampus-mr"):
        shipped = presets.find(name).quality
        assert shipped is not None
        assert shipped.source == f"medseg dataset quality {name} --preset {name} --cases train"
        code, out, err = in_process("dataset", "quality", shared / "data" / name, "--preset", name, "-q")
        assert code == 0, err
        assert type(shipped).model_validate(yaml.safe_load(out)["quality"]) == shipped
