"""What one run sets instead of its preset: windows, modality, options; and what a preset says was changed."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from dicom_phantom import series, write

from medseg_cli import preset as presets
from medseg_cli.errors import InputError, UsageError
from medseg_cli.overrides import Overrides, with_options
from medseg_cli.preset_intensity import Window
from medseg_cli.readers import load_scan
from medseg_cli.readers.modality import parse_modality, with_modality
from medseg_cli.scan import Provenance, Scan
from medseg_cli.windows import WINDOWS, check_named, parse_window


def scan(modality: str = "", kind: str = "nifti") -> Scan:
    return Scan(np.zeros((1, 2, 2, 2), np.float32), np.eye(4), Provenance(Path("scan"), kind, "ab"), modality)


@pytest.mark.parametrize(
    ("text", "level", "width"),
    [("40/400", 40, 400), ("-600/1500", -600, 1500), (" 0.5 / 0.25 ", 0.5, 0.25), ("1e3/2e3", 1000, 2000)],
)
def test_a_window_is_level_and_width(text: str, level: float, width: float) -> None:
    assert parse_window(text) == Window(method="window", level=level, width=width)


def test_named_windows_hold_the_tissue_they_are_named_after() -> None:
    # HU of tissue, from radiology textbooks: what a window is for must lie inside it.
    tissue = {
        "lung": (-900, -500),
        "brain": (20, 45),
        "liver": (40, 70),
        "bone": (300, 1200),
        "soft-tissue": (-100, 80),
    }
    for name, (low, high) in tissue.items():
        window = parse_window(name.upper())
        assert window.level - window.width / 2 <= low < high <= window.level + window.width / 2
    assert (WINDOWS["soft-tissue"], WINDOWS["lung"], WINDOWS["brain"]) == ((40, 400), (-600, 1500), (40, 80))


@pytest.mark.parametrize(
    "text", ["", "lungs", "40", "40/", "/400", "40/0", "40/-1", "40/400/1", "a/b", "nan/1", "1/inf"]
)
def test_no_other_text_is_a_window(text: str) -> None:
    with pytest.raises(UsageError, match="--window") as caught:
        parse_window(text)
    assert "40/400" in caught.value.hint
    if text == "lungs":
        assert "did you mean lung?" in caught.value.message
        assert all(name in caught.value.hint for name in WINDOWS)


def test_the_document_lists_every_named_window(root: Path) -> None:
    document = (root / "docs/prompts.md").read_text()
    for name, (level, width) in WINDOWS.items():
        assert f"| `{name}` | {level:g}/{width:g} |" in document


def test_a_named_window_is_for_ct() -> None:
    for fine in (scan("CT"), scan(), scan("MR")):
        check_named("40/400", fine)
    check_named("lung", scan("CT"))
    check_named("lung", scan())
    for wrong, kind in ((scan("MR"), "a MR scan"), (scan(kind="image"), "a picture")):
        with pytest.raises(InputError, match=r"window lung .* is for CT") as caught:
            check_named("lung", wrong)
        assert kind in caught.value.message


def test_a_stated_modality_fills_in_and_never_contradicts(tmp_path: Path) -> None:
    stated = with_modality(scan(), parse_modality("ct"))
    assert stated.modality == "CT"
    assert any("--modality" in note for note in stated.provenance.notes)
    values = np.random.default_rng(0).integers(0, 1000, (8, 8, 4)).astype(np.int16)
    found = load_scan(write(series(values, np.diag([1.0, 1.0, 2.0, 1.0])), tmp_path))
    assert found.modality == "CT"
    assert with_modality(found, "CT") is found
    with pytest.raises(InputError, match="says that it is CT, --modality that it is MR"):
        with_modality(found, "MR")
    with pytest.raises(UsageError, match="--modality 'SEG'"):
        parse_modality("SEG")


def preset(tmp_path: Path, name: str = "sam-vit-b") -> presets.Preset:
    """A shipped preset from a file of its own, so that its options may be anything."""
    found = presets.find(name)
    path = tmp_path / f"{name}.yaml"
    path.write_text(presets.dump(found.model_copy(update={"options": {"propagation": {"margin": 0.1}}})))
    return presets.load(path)


def test_nothing_chosen_changes_nothing(tmp_path: Path) -> None:
    found = preset(tmp_path)
    assert found.changes == {}
    same = with_options(found, Overrides())
    assert same.changes == {}
    assert same.model_dump() == found.model_dump()
    assert presets.Preset.model_validate(found.model_dump()).changes == {}, "made in memory"


def test_everything_chosen_is_in_the_copy_and_told(tmp_path: Path) -> None:
    found = preset(tmp_path)
    chosen = with_options(found, Overrides("coronal", "bone", True, 3, "cache", 2, "largest", 50.0, True))
    assert chosen.options == {
        "propagation": {"margin": 0.1, "max_slices": 3},
        "slices": "coronal",
        "propagate": True,
        "embedding_cache": "cache",
        "batch": 2,
    }
    assert chosen.preprocessing.intensity == Window(method="window", level=400, width=1800)
    assert chosen.preprocessing.by_modality == {}
    assert chosen.postprocessing.model_dump() == {"keep": "largest", "min_mm3": 50, "fill_holes": True}
    assert chosen.path == found.path
    assert {key: value for key, value in chosen.changes.items() if "." in key} == chosen.changes
    assert chosen.changes["options.propagation"] == {"margin": 0.1, "max_slices": 3}
    assert chosen.changes["preprocessing.intensity"] == {"method": "window", "level": 400, "width": 1800}
    assert found.changes == {}, "the preset itself stays"


@pytest.mark.parametrize(
    "chosen",
    [Overrides(slices="axial"), Overrides(window="lung"), Overrides(propagate=True), Overrides(embedding_cache="c")],
)
def test_settings_of_slices_are_refused_for_volume_models(chosen: Overrides) -> None:
    with pytest.raises(UsageError, match="preset hippocampus-mr takes no --"):
        with_options(presets.find("hippocampus-mr"), chosen)
    assert with_options(presets.find("hippocampus-mr"), Overrides(keep="all")).postprocessing.keep == "all"


def test_settings_that_contradict_each_other_are_refused() -> None:
    with pytest.raises(UsageError, match="--max-slices contradicts"):
        Overrides(propagate=False, max_slices=3)
    for size in (-1.0, float("nan"), float("inf")):
        with pytest.raises(UsageError, match="--min-mm3"):
            Overrides(min_mm3=size)
