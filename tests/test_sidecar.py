"""The JSON report as text and as data; what it says about a run is tested in test_cli_segment.py."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import region_growing
from hypothesis import given
from hypothesis import strategies as st

from medseg_cli import preset as presets
from medseg_cli import versions
from medseg_cli.device import select
from medseg_cli.measure import measure
from medseg_cli.overrides import Overrides, with_options
from medseg_cli.prompt import Box, Click, Prompt, Region, Target
from medseg_cli.scan import Provenance, Scan
from medseg_cli.segmentation import Label, Segmentation
from medseg_cli.stages import Stages
from medseg_cli.writers import sidecar

values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=20,
)


@given(st.dictionaries(st.text(), values, max_size=5))
def test_any_report_survives_as_text(report: dict[str, object]) -> None:
    assert json.loads(sidecar.to_json(report)) == report


def test_rows_of_numbers_stay_on_one_line() -> None:
    text = sidecar.to_json({"affine": [[1.0, -0.5], [2e-07, 3]], "words": ["1", "2"]})
    assert "[1.0, -0.5]" in text
    assert "[2e-07, 3]" in text
    assert '"1",\n' in text


def test_what_json_cannot_say_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="JSON"):
        sidecar.write({"volume": float("nan")}, tmp_path / "m.json")
    assert not (tmp_path / "m.json").exists()


def report(tmp_path: Path, mask: np.ndarray, prompts: str = "point", **scan: object) -> dict[str, object]:
    """A report with one click ("point"), with everything at once ("all"), or with no prompt ("none")."""
    provenance = Provenance(tmp_path / "s", str(scan.pop("format", "nifti")), "ab", notes=("read oddly",))
    extra: Any = scan.pop("facts", {})
    volume = Scan(np.zeros((1, *mask.shape), np.float32), np.diag([2.0, 2.0, 3.0, 1.0]), provenance, **scan)
    labels = (Label(1, "first", (1, 2, 255), "5366008"), Label(2, "second"))
    facts = {"weights": {"sha256": "cd"}, "kernels": "reference", "crops": 3, **extra}
    segmentation = Segmentation(mask, labels, volume, facts, ("ended oddly",))
    click = Click((-1.0, -4.0, 0.0), "lps")
    stages = Stages()
    with stages("all"):
        pass
    preset = presets.load(region_growing.write_preset(tmp_path))
    target, typed = Target("a", "first", (click,)), None
    if prompts == "all":
        region = Region((mask == 1) * 255, tmp_path / "coarse.png", "ef", 255)
        target = Target("a", "first", (click,), (Box((1.0, 2.0, 3.0), (4.0, 5.0, 3.0)),), region)
        typed = Prompt((Target("a", "first", (click,), (Box((1.0, 2.0), (4.0, 5.0)),)),))
    if prompts == "none":
        wanted = preset.prompts.model_copy(update={"whole_image": True})
        preset = with_options(preset.model_copy(update={"prompts": wanted}), Overrides(keep="largest"))
    prompt = Prompt(() if prompts == "none" else (target,))
    runtime = select("cpu", seed=7)
    run = sidecar.Run(preset, prompt, runtime, stages, random_weights=True, notes=("ran oddly",), typed=typed)
    return sidecar.describe(segmentation, measure(segmentation), run)


def test_facts_are_where_the_documents_say(tmp_path: Path, root: Path) -> None:
    mask = np.zeros((6, 6, 6), np.uint8)
    mask[0:2, 3, 3] = 1
    found = report(tmp_path, mask, modality="MR")
    documented = (root / "docs/outputs.md").read_text()
    labels = found["labels"]
    assert isinstance(labels, list)
    for key in [*found, *labels[0], *found["input"], *found["run"], *found["stages"][0]]:
        assert f"`{key}`" in documented, f"docs/outputs.md does not explain {key}"
    assert found["status"] == "partly empty"
    assert found["notes"] == ["read oddly", "ran oddly", "ended oddly"]
    assert found["weights"] == {"sha256": "cd"}
    assert found["pipeline"] == {"name": "region-growing", "crops": 3}
    assert (found["run"]["kernels"], found["run"]["seed"], found["run"]["device"]) == ("reference", 7, "cpu")
    assert (labels[0]["color"], labels[0]["snomed"], labels[1]["snomed"]) == ("#0102ff", "5366008", None)
    assert labels[0]["volume_mm3"] == 24
    assert labels[0]["touches_border"] is True
    assert labels[1]["centroid_ras_mm"] is None
    assert labels[1]["reasons"]["centroid_ras_mm"] == "the object is empty"
    assert found["prompts"][0]["clicks"] == [
        {"typed": [-1, -4, 0], "coords": "lps", "sign": "+", "ijk": [0.5, 2, 0], "ras_mm": [1, 4, 0]}
    ]
    assert json.loads(sidecar.to_json(found)) == found


def test_every_kind_of_prompt_is_told_as_typed_and_as_it_lies(tmp_path: Path, root: Path) -> None:
    mask = np.zeros((6, 6, 6), np.uint8)
    mask[0:2, 3, 3] = 1
    (prompt,) = report(tmp_path, mask, "all")["prompts"]
    assert prompt["boxes"] == [
        {
            "typed": [[1, 2], [4, 5]],
            "coords": "ijk",
            "ijk_inclusive": [[1, 2, 3], [4, 5, 3]],
            "ras_mm": [[2, 4, 9], [8, 10, 9]],
        }
    ]
    assert prompt["region"] == {"path": str(tmp_path / "coarse.png"), "sha256": "ef", "value": 255, "voxels": 2}
    assert prompt["clicks"][0]["typed"] == [-1, -4, 0]
    assert prompt["whole_image"] is False
    documented = (root / "docs/outputs.md").read_text()
    for key in [*prompt, *prompt["clicks"][0], *prompt["boxes"][0], *prompt["region"]]:
        assert f"`{key}`" in documented, f"docs/outputs.md does not explain {key}"


def test_no_prompt_and_other_settings_are_told(tmp_path: Path) -> None:
    found = report(tmp_path, np.zeros((6, 6, 1), np.uint8), "none", format="image", spacing_known=False)
    assert [(each["whole_image"], each["clicks"], each["boxes"]) for each in found["prompts"]] == [(True, [], [])]
    assert found["preset"]["overrides"] == {"prompts.whole_image": True, "postprocessing.keep": "largest"}
    assert report(tmp_path, np.zeros((6, 6, 6), np.uint8))["preset"]["overrides"] == {}


def test_every_null_of_a_label_has_its_reason(tmp_path: Path) -> None:
    for scan in ({}, {"format": "image"}, {"format": "image", "spacing_known": False}):
        mask = np.zeros((6, 6, 1), np.uint8)
        mask[2:4, 3] = 1
        for label in report(tmp_path, mask, **scan)["labels"]:
            missing = {key for key, value in label.items() if value is None} - {"snomed"}
            assert missing == set(label["reasons"])


@pytest.mark.parametrize(
    ("scan", "volume", "area"),
    [({}, 60.0, None), ({"format": "image"}, None, 20.0), ({"format": "image", "spacing_known": False}, None, None)],
    ids=["volume", "picture", "picture of unknown pixel size"],
)
def test_what_was_cleaned_is_told_in_the_units_that_the_scan_has(
    tmp_path: Path, root: Path, scan: dict[str, object], volume: float | None, area: float | None
) -> None:
    """Voxels of 2 x 2 x 3 mm."""
    mask = np.ones((6, 6, 1), np.uint8)
    step = {"step": "keep largest", "parts": 2, "removed_voxels": 5}
    filled = {"step": "fill holes", "added_voxels": 0}
    found = report(tmp_path, mask, facts={"objects": [{"id": "a", "cleaning": [step, filled]}]}, **scan)
    (told, nothing) = found["pipeline"]["objects"][0]["cleaning"]
    assert told == {**step, "removed_mm3": volume, "removed_mm2": area}
    assert nothing == {**filled, "added_mm3": volume and 0, "added_mm2": area and 0}
    documented = (root / "docs/outputs.md").read_text()
    for key in [*told, *nothing]:
        assert f"`{key}`" in documented, f"docs/outputs.md does not explain {key}"
    reasons = found["labels"][0]["reasons"]
    assert [key for key, value in (("volume_mm3", volume), ("area_mm2", area)) if value is None] == [
        key for key in ("volume_mm3", "area_mm2") if key in reasons
    ]


def test_hashes_are_sha256(tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(b"abc")
    assert sidecar.sha256(tmp_path / "f") == hashlib.sha256(b"abc").hexdigest()


def test_versions_are_those_of_the_imported_libraries() -> None:
    import torch

    found = versions.versions()
    assert found["torch"] == torch.__version__
    assert found["cuda"] == torch.version.cuda
    assert found["numpy"] == np.__version__
    assert found["python"] == ".".join(map(str, sys.version_info[:3]))
    code = "import sys; from medseg_cli.versions import versions; versions(); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=Path(__file__).parent.parent, check=False).returncode == 0
