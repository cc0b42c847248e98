"""The store: verified files, the stamp that saves hashing, and errors that say what to type."""

from __future__ import annotations

import hashlib
import os
import re
from pathlib import Path

import checkpoints
import pytest
import torch
from test_preset import VALID, write

from medseg_cli import preset as presets
from medseg_cli import weights
from medseg_cli.errors import ModelError
from medseg_cli.weights import store
from medseg_cli.weights.catalogue import CATALOGUE, by_hash, entry
from medseg_cli.weights.importer import import_file
from medseg_cli.weights.layouts import _MARKS


@pytest.fixture
def imported(tmp_path: Path) -> store.Record:
    torch.save(checkpoints.sam3d(), tmp_path / "last.pth.tar")
    return import_file(tmp_path / "last.pth.tar", "sam3d-kits")


def beside(folder: Path, body: bytes, sha256: str | None) -> presets.Preset:
    (folder / "weights").mkdir(exist_ok=True)
    (folder / "weights" / "mine.safetensors").write_bytes(body)
    data = VALID | {"weights": {"file": "weights/mine.safetensors", "sha256": sha256}}
    return presets.load(write(folder, data))


def test_a_preset_resolves_to_the_imported_file(imported: store.Record):
    found = weights.resolve(presets.find("sam3d-kits"))
    assert found.path == store.file_of("sam3d-kits")
    assert (found.name, found.sha256, found.source_sha256) == ("sam3d-kits", imported.sha256, imported.source_sha256)
    assert found.licence == "none stated by the authors"
    assert weights.path("sam3d-kits") == found.path


def test_missing_weights_say_what_to_type():
    with pytest.raises(ModelError, match="sam3d-kits") as by_hand:
        weights.resolve(presets.find("sam3d-kits"))
    assert by_hand.value.hint.startswith("medseg weights import FILE --name sam3d-kits")
    assert "sharepoint.com" in by_hand.value.hint
    with pytest.raises(ModelError) as pull:
        weights.path("sam-vit-b")
    assert pull.value.hint == "medseg weights pull sam-vit-b"
    assert pull.value.exit_code == 4


def test_resolving_never_downloads(monkeypatch: pytest.MonkeyPatch):
    import httpx

    monkeypatch.setattr(httpx, "Client", lambda *_, **__: pytest.fail("resolve used the network"))
    for known in CATALOGUE:
        with pytest.raises(ModelError):
            weights.path(known.name)


def test_a_damaged_file_is_found_out(imported: store.Record):
    file = store.file_of("sam3d-kits")
    body = bytearray(file.read_bytes())
    body[-1] ^= 1
    file.write_bytes(body)
    with pytest.raises(ModelError, match="damaged"):
        weights.path("sam3d-kits")


def test_weights_beside_a_preset_are_verified(tmp_path: Path):
    body = b"weights"
    right = hashlib.sha256(body).hexdigest()
    assert weights.resolve(beside(tmp_path, body, right)).sha256 == right
    assert weights.resolve(beside(tmp_path, body, None)).sha256 == right
    with pytest.raises(ModelError, match="damaged or exchanged"):
        weights.resolve(beside(tmp_path, body, "0" * 64))
    (tmp_path / "weights" / "mine.safetensors").unlink()
    with pytest.raises(ModelError, match="are missing"):
        weights.resolve(presets.load(tmp_path / "mine.yaml"))


def test_a_large_file_is_hashed_once_until_it_changes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(store, "_SMALL", 0)
    hashed: list[Path] = []
    real = store.sha256_of
    monkeypatch.setattr(store, "sha256_of", lambda path: (hashed.append(path), real(path))[1])
    file = tmp_path / "big.safetensors"
    file.write_bytes(b"one")
    first = store.checked_hash(file)
    assert store.checked_hash(file) == first
    assert len(hashed) == 1
    file.write_bytes(b"two")
    os.utime(file, ns=(1, 1))
    assert store.checked_hash(file) == hashlib.sha256(b"two").hexdigest()
    assert len(hashed) == 2


@pytest.mark.parametrize("stamp", ["", "{}", "[]", "not json", '{"path": 1}'])
def test_a_damaged_stamp_only_costs_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stamp: str):
    monkeypatch.setattr(store, "_SMALL", 0)
    file = tmp_path / "big.safetensors"
    file.write_bytes(b"one")
    right = store.checked_hash(file)
    for each in (store.home() / "verified").glob("*.json"):
        each.write_text(stamp)
    assert store.checked_hash(file) == right


def test_a_home_that_cannot_be_written_is_no_obstacle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(store, "_SMALL", 0)
    (tmp_path / "home").write_text("a file where the folder should be")
    monkeypatch.setenv("MEDSEG_HOME", str(tmp_path / "home"))
    file = tmp_path / "big.safetensors"
    file.write_bytes(b"one")
    assert store.checked_hash(file) == hashlib.sha256(b"one").hexdigest()


def test_a_broken_record_counts_as_missing(imported: store.Record):
    (store.folder() / "sam3d-kits.json").write_text("{")
    assert store.installed() == ()
    with pytest.raises(ModelError, match="are not in"):
        weights.path("sam3d-kits")


def test_the_catalogue_is_consistent():
    names = [known.name for known in CATALOGUE]
    assert len(set(names)) == len(names)
    for known in CATALOGUE:
        assert known.layout in _MARKS or known.layout in ("sam-vit-b", "sam-vit-l", "sam-vit-h")
        assert known.url == "" or known.url.startswith("https://")
        assert known.page.startswith("https://")
        assert known.licence
        assert known.citation
        assert known.url == "" or known.sha256, f"{known.name}: what is downloaded is verified"
        if known.sha256:
            assert re.fullmatch("[0-9a-f]{8}|[0-9a-f]{64}", known.sha256)
            assert by_hash(known.sha256.ljust(64, "0")) == known
    assert entry("nothing") is None


def test_file_names_carry_the_start_of_their_hash():
    """torchvision names its files after them: an independent check of the numbers. (Meta's names carry the MD5.)"""
    marked = [known for known in CATALOGUE if re.search(r"-[0-9a-f]{8}\.pth$", known.file)]
    assert [known.name for known in marked] == ["resnet34-imagenet", "resnet50-imagenet"]
    for known in marked:
        assert str(known.sha256).startswith(known.file.removesuffix(".pth").rpartition("-")[2])


def test_the_method_presets_need_are_in_the_catalogue():
    for name in ("sam-vit-b", "sam-vit-l", "sam-vit-h", "medsam", "biomedclip", "medclip-sam-v2", "samus", "sam-unet"):
        assert entry(name) is not None
