"""Other weights for a preset: which names and files are understood, and what is then said about them."""

from __future__ import annotations

import hashlib
from pathlib import Path

import checkpoints
import pytest
import torch
from safetensors.torch import save_file

from medseg_cli import preset, weights
from medseg_cli.errors import ModelError
from medseg_cli.weights import importer
from medseg_cli.weights.choice import override


def test_a_file_of_any_format(tmp_path: Path) -> None:
    base = preset.find("sam-vit-b")
    for suffix in (".pth", ".pt", ".bin", ".ckpt", ".pth.tar", ".safetensors"):
        path = tmp_path / f"own{suffix}"
        if suffix == ".safetensors":
            save_file(checkpoints.sam(), path)
        else:
            torch.save(checkpoints.sam(), path)
        found = weights.resolve(override(base, str(path)))
        assert found.path == path
        assert found.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
        assert (found.name, found.licence) == (f"own{suffix}", "not stated")


def test_what_is_said_of_other_weights_is_theirs(tmp_path: Path) -> None:
    base = preset.find("hippocampus-mr")
    assert base.accuracy
    torch.save(checkpoints.sam(), tmp_path / "own.pth")
    changed = override(base, str(tmp_path / "own.pth"))
    assert (changed.licence, changed.citation, changed.accuracy) == ("not stated", "", ())
    assert changed.preprocessing == base.preprocessing
    assert base.licence == "CC-BY-SA-4.0"


def test_a_name_in_the_store(tmp_path: Path) -> None:
    torch.save(checkpoints.sam(96), tmp_path / "own.pth")
    record = importer.import_file(tmp_path / "own.pth", "my-sam", licence="CC0-1.0")
    changed = override(preset.find("sam-vit-b"), "my-sam")
    assert changed.licence == "CC0-1.0"
    assert weights.resolve(changed).sha256 == record.sha256


def test_a_name_in_the_catalogue_says_how_to_get_it() -> None:
    changed = override(preset.find("sam-vit-b"), "medsam")
    assert "Segment Anything in Medical Images" in changed.citation
    with pytest.raises(ModelError, match="weights 'medsam' are not in") as caught:
        weights.resolve(changed)
    assert caught.value.hint == "medseg weights pull medsam"
    with pytest.raises(ModelError) as caught:
        weights.resolve(preset.find("sam-vit-b"))
    assert caught.value.hint == "medseg weights pull sam-vit-b"


def test_weights_that_lie_beside_another_preset() -> None:
    shipped = preset.find("hippocampus-mr")
    found = weights.resolve(override(preset.find("sam-vit-b"), "hippocampus-mr"))
    assert found.path == shipped.weights_file
    assert found.licence == shipped.licence


def test_a_name_comes_before_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("own.pth").write_bytes(b"")
    torch.save(checkpoints.sam(), tmp_path / "x.pth")
    importer.import_file(tmp_path / "x.pth", "own.pth")
    assert override(preset.find("sam-vit-b"), "own.pth").weights_name == "own.pth"
    assert override(preset.find("sam-vit-b"), "./own.pth").weights_file == tmp_path / "own.pth"


@pytest.mark.parametrize(
    ("text", "message", "hint"),
    [
        ("absent.pth", "there is no weights file absent.pth", "medseg weights list"),
        ("sam-vit-c", r"no weights are called 'sam-vit-c' \(did you mean 'sam-vit-", "medseg weights list"),
        ("folder/", "folder holds no checkpoints", "name the checkpoint file"),
        ("scan.nii.gz", "scan.nii.gz is no checkpoint file", "safetensors"),
    ],
)
def test_neither_name_nor_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, message: str, hint: str
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("folder").mkdir()
    Path("scan.nii.gz").write_bytes(b"")
    with pytest.raises(ModelError, match=message) as caught:
        override(preset.find("sam-vit-b"), text)
    assert hint in caught.value.hint
