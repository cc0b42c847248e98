"""Import: every layout is recognised, everything else is refused with the reason, nothing in a file can run."""

from __future__ import annotations

import datetime
import gzip
import hashlib
import json
import os
import pickle
import re
import tarfile
import warnings
import zipfile
from pathlib import Path
from typing import Any

import checkpoints
import pytest
import torch
from checkpoints import tensors
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from medseg_cli.checkpoint_file import sniff
from medseg_cli.errors import ModelError
from medseg_cli.weights import catalogue, importer, store
from medseg_cli.weights.importer import import_file
from medseg_cli.weights.layouts import identify

SAM_UNET = (
    "image_encoder.sam_img_encoder.pos_embed",
    "prompt_encoder.sam_prompt_encoder.not_a_point_embed.weight",
    "mask_decoder.sam_mask_decoder.output_upscaling.0.weight",
    "mask_decoder.med_token.weight",
    "mask_decoder.hf_mlp.layers.0.weight",
    "resnet.stage0.0.weight",
    "adapters_in.3.reshaper.0.weight",
    "adapters_bridge.0.0.weight",
    "embedding_encoder.0.weight",
)
HF_CLIP = (
    "vision_model.embeddings.class_embedding",
    "visual_projection.weight",
    "text_model.embeddings.token_embedding.weight",
    "text_projection.fc2.weight",
    "logit_scale",
)
AUTOSAMUS = (*checkpoints.SAMUS, "prompt_generator.object_token", "feature_adapter.0.weight")


def prefixed(prefix: str, state: dict[str, Any]) -> dict[str, Any]:
    return {prefix + key: value for key, value in state.items()}


LAYOUTS: dict[str, tuple[Any, str]] = {
    "sam-vit-b": (checkpoints.sam(768), "sam-vit-b"),
    "sam-vit-l": (checkpoints.sam(1024), "sam-vit-l"),
    "sam-vit-h": (checkpoints.sam(1280), "sam-vit-h"),
    "sam-other": (checkpoints.sam(96), "sam-width-96"),
    "medsam-training": ({"model": checkpoints.sam(), "optimizer": {}, "epoch": 3}, "sam-vit-b"),
    "3dsam": (checkpoints.sam3d(), "3dsam-adapter"),
    "3dsam-auto": ({k: v for k, v in checkpoints.sam3d().items() if k != "feature_dict"}, "3dsam-adapter-auto"),
    "sam-unet": (tensors(SAM_UNET), "sam-unet"),
    "sam-unet-ddp": ({"model": prefixed("module.", tensors(SAM_UNET))}, "sam-unet"),
    "samus": (tensors(checkpoints.SAMUS), "samus"),
    "samus-ddp": (prefixed("module.", tensors(checkpoints.SAMUS)), "samus"),
    "autosamus": (tensors(AUTOSAMUS), "autosamus"),
    "biomedclip": (tensors(checkpoints.BIOMEDCLIP), "biomedclip"),
    "biomedclip-wrapped": (prefixed("model.", tensors(checkpoints.BIOMEDCLIP)), "biomedclip"),
    "biomedclip-training": (
        {"epoch": 1, "state_dict": prefixed("module.", tensors(checkpoints.BIOMEDCLIP)), "scaler": {}},
        "biomedclip",
    ),
    "biomedclip-hf": (tensors(HF_CLIP), "biomedclip-hf"),
    "resnet34": (tensors(checkpoints.RESNET), "resnet34"),
    "resnet50": (tensors([*checkpoints.RESNET, "layer1.0.conv3.weight"]), "resnet50"),
}


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    path = tmp_path / "sam.pth"
    torch.save(checkpoints.sam(), path)
    return path


@pytest.mark.parametrize("case", LAYOUTS)
def test_every_layout_is_recognised_and_converted(case: str, tmp_path: Path):
    content, layout = LAYOUTS[case]
    torch.save(content, tmp_path / "weights.pth")
    record = import_file(tmp_path / "weights.pth", "mine", licence="CC0")
    kept = load_file(store.path("mine"))
    expected = identify(content).tensors
    assert (record.layout, record.licence) == (layout, "CC0")
    assert kept.keys() == expected.keys()
    assert all(torch.equal(kept[key], expected[key]) for key in kept)
    assert not any(key.startswith(("module.", "model.")) for key in kept)


def test_sam3d_parts_are_named_and_constants_dropped():
    found = identify(checkpoints.sam3d())
    assert {key.split(".transformer")[0] for key in found.tensors if key.startswith("feature")} == {
        f"feature.{index}" for index in range(4)
    }
    assert not any("attn_mask" in key for key in found.tensors)
    assert {"epoch", "best_val_loss", "encoder_opt", "encoder.blocks.0.attn_mask"} <= set(found.dropped)


def test_real_sam_names_are_recognised():
    """The tensor names come from the segment-anything package, not from us."""
    from segment_anything import sam_model_registry

    with torch.device("meta"):
        for size in ("vit_b", "vit_l", "vit_h"):
            assert identify(sam_model_registry[size]().state_dict()).layout == f"sam-{size.replace('_', '-')}"


def test_real_resnet_names_are_recognised():
    from torchvision.models import resnet18, resnet34, resnet50

    with torch.device("meta"):
        assert identify(resnet34().state_dict()).layout == "resnet34"
        assert identify(resnet50().state_dict()).layout == "resnet50"
        with pytest.raises(ModelError, match="lacks"):
            identify(resnet18().state_dict())


@pytest.mark.parametrize(
    ("file", "start", "layout"),
    [
        ("samunet_state_dict.txt", "res34_sam_unet", "sam-unet"),
        ("samunet_state_dict.txt", "res50_sam_unet", "sam-unet"),
        ("samus_state_dict.txt", "", "samus"),
    ],
)
def test_official_tensor_lists_are_recognised(shared: Path, file: str, start: str, layout: str):
    names, reading = [], not start
    for line in (shared / "specs" / file).read_text("utf-8").splitlines():
        if line.startswith("#"):
            reading = not start or start in line or (reading and "=====" not in line)
        elif reading and line and not line.startswith(("prompt_generator", "feature_adapter")):
            names.append(re.split(r"[|\t]", line)[0].strip())
    assert len(names) in (559, 661, 393)
    assert identify(tensors(names)).layout == layout


def test_official_sam3d_list_is_recognised(shared: Path):
    parts: dict[str, list[str]] = {}
    current = ""
    for line in (shared / "specs" / "sam3d_state_dict.txt").read_text("utf-8").splitlines():
        if line.startswith("["):
            current = line[1:].partition("_dict")[0]
        elif " | " in line and current in ("encoder", "feature", "decoder"):
            parts.setdefault(current, []).append(line.split(" | ")[0])
    assert [len(parts[part]) for part in ("encoder", "feature", "decoder")] == [300, 75, 10]
    found = identify(
        {
            "encoder_dict": tensors(parts["encoder"]),
            "feature_dict": [tensors(parts["feature"])] * 4,
            "decoder_dict": tensors(parts["decoder"]),
        }
    )
    assert found.layout == "3dsam-adapter"
    assert len(found.tensors) == 300 - 6 + 4 * 75 + 10


def test_an_imported_3dsam_adapter_loads_into_the_network(tmp_path: Path):
    from medseg_cli.models import load_model

    config = {
        "crop_size": 16, "internal_size": 32, "img_size": 64, "patch_size": 8, "num_slice": 8, "embed_dim": 16,
        "depth": 4, "num_heads": 2, "window_size": 2, "global_attn_indexes": (2,), "cubic_window_size": 2,
        "out_chans": 8, "prompt_heads": 2, "prompt_mlp_dim": 8, "num_pos_feats": 4, "mlahead_channels": 4,
    }  # fmt: skip
    state = load_model("3dsam-adapter", None, **config).state_dict()
    official: dict[str, Any] = {"epoch": 1, "encoder_dict": {}, "decoder_dict": {}, "feature_dict": [{}, {}, {}, {}]}
    for key, value in state.items():
        part, rest = key.split(".", 1)
        if part == "feature":
            index, rest = rest.split(".", 1)
            official["feature_dict"][int(index)][rest] = value
        else:
            official[f"{part}_dict"][rest] = value
    torch.save(official, tmp_path / "last.pth.tar")
    import_file(tmp_path / "last.pth.tar", "sam3d-kits")
    loaded = load_model("3dsam-adapter", store.path("sam3d-kits"), **config).state_dict()
    assert loaded.keys() == state.keys()
    assert all(torch.equal(loaded[key], state[key]) for key in state)


def test_the_same_file_gives_the_same_bytes(checkpoint: Path):
    hashes = set()
    for index in range(4):
        hashes.add(import_file(checkpoint, f"copy-{index}").sha256)
    assert len(hashes) == 1
    assert hashes == {hashlib.sha256(store.file_of("copy-0").read_bytes()).hexdigest()}


def test_the_stored_file_says_where_it_comes_from(checkpoint: Path):
    record = import_file(checkpoint, "mine")
    with safe_open(store.path("mine"), "pt") as opened:
        said = json.loads(opened.metadata()[importer.METADATA])
    assert said == {"layout": "sam-vit-b", "source_sha256": hashlib.sha256(checkpoint.read_bytes()).hexdigest()}
    assert record.source == "sam.pth"
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\+00:00", record.imported)


def test_safetensors_and_old_torch_files_are_read_too(tmp_path: Path):
    save_file(checkpoints.sam(), tmp_path / "a.safetensors")
    torch.save(checkpoints.sam(), tmp_path / "a.pth", _use_new_zipfile_serialization=False)
    assert import_file(tmp_path / "a.safetensors", "new").sha256 != ""
    assert import_file(tmp_path / "a.pth", "old").layout == "sam-vit-b"
    assert load_file(store.path("new")).keys() == load_file(store.path("old")).keys()


def test_a_safetensors_header_may_begin_like_a_pickle(tmp_path: Path):
    """Its length in bytes comes first; every 32nd length begins with 0x80, as pickles do."""
    for size in range(1, 300):
        save_file({"x": torch.zeros(2)}, tmp_path / "x.safetensors", {"note": "n" * size})
        if (tmp_path / "x.safetensors").read_bytes()[0] == 0x80:
            break
    else:
        raise AssertionError("no such length was made")
    assert sniff(tmp_path / "x.safetensors") == "safetensors"


def test_tensors_that_share_memory_are_stored(tmp_path: Path):
    state = checkpoints.sam()
    state["mask_decoder.mask_tokens.weight"] = state["mask_decoder.iou_token.weight"]
    state["image_encoder.pos_embed"] = state["image_encoder.pos_embed"].transpose(0, 1)
    torch.save(state, tmp_path / "a.pth")
    import_file(tmp_path / "a.pth", "mine")
    kept = load_file(store.path("mine"))
    assert torch.equal(kept["mask_decoder.mask_tokens.weight"], kept["mask_decoder.iou_token.weight"])
    assert torch.equal(kept["image_encoder.pos_embed"], state["image_encoder.pos_embed"])


def test_a_pickled_optimiser_is_read_as_an_empty_shell(tmp_path: Path):
    """SAM-UNet's official code saves the optimiser object itself."""
    weight = torch.nn.Parameter(torch.ones(2))
    optimiser = torch.optim.Adam([weight])
    weight.sum().backward()
    optimiser.step()
    torch.save({"model": tensors(SAM_UNET), "optimizer": optimiser}, tmp_path / "a.pth")
    assert import_file(tmp_path / "a.pth").name == "sam-unet"


class _Evil:
    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> Any:
        return os.system, (f"touch '{self.marker}'",)


def test_a_program_is_refused_as_one(tmp_path: Path):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        torch.jit.save(torch.jit.script(torch.nn.Linear(2, 2)), tmp_path / "model.pt")
    with pytest.raises(ModelError, match="TorchScript program: refused, because loading it could run code"):
        import_file(tmp_path / "model.pt", "mine")


def test_an_end_without_words_has_a_reason(tmp_path: Path):
    """Python raises EOFError, which says nothing."""
    torch.save(checkpoints.sam(), tmp_path / "a.pth", _use_new_zipfile_serialization=False)
    (tmp_path / "cut.pth").write_bytes((tmp_path / "a.pth").read_bytes()[:50])
    with pytest.raises(ModelError, match=r"damaged or truncated: EOFError$"):
        import_file(tmp_path / "cut.pth", "mine")


@pytest.mark.parametrize("form", ["zip", "legacy", "plain-pickle"])
def test_a_file_that_would_run_code_is_refused_and_does_not_run(form: str, tmp_path: Path):
    marker, path = tmp_path / "ran", tmp_path / "evil.pth"
    content = {**checkpoints.sam(), "extra": _Evil(marker)}
    if form == "plain-pickle":
        path.write_bytes(pickle.dumps(_Evil(marker)))
    else:
        torch.save(content, path, _use_new_zipfile_serialization=form == "zip")
    with pytest.raises(ModelError, match=r"could run code|damaged") as caught:
        import_file(path, "mine")
    assert not marker.exists()
    if form == "zip":
        assert "posix.system" in caught.value.message
    assert store.installed() == ()


def test_a_pickle_that_torch_did_not_write_is_refused_once(tmp_path: Path):
    path = tmp_path / "mine.pth"
    path.write_bytes(pickle.dumps({"weight": [1.0, 2.0], "when": datetime.date(2026, 1, 2)}, protocol=4))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        with pytest.raises(ModelError, match=r"mine\.pth"):
            import_file(path, "mine")
    assert [str(warning.message) for warning in caught if "pickle" in str(warning.message)] == []


@pytest.mark.parametrize("keep", [0.3, 0.9, 0.999])
@pytest.mark.parametrize("form", ["pth", "legacy", "safetensors"])
def test_a_truncated_file_is_refused(form: str, keep: float, tmp_path: Path):
    path = tmp_path / "cut"
    if form == "safetensors":
        save_file(checkpoints.sam(), path)
    else:
        torch.save(checkpoints.sam(), path, _use_new_zipfile_serialization=form == "pth")
    body = path.read_bytes()
    path.write_bytes(body[: int(len(body) * keep)])
    with pytest.raises(ModelError, match=r"truncated|damaged|more than tensors"):
        import_file(path, "mine")
    assert store.installed() == ()


@pytest.mark.parametrize(
    ("body", "word"),
    [
        (b"", "is empty"),
        (b"<!DOCTYPE html><html><title>Google Drive - Virus scan warning</title>", "web page"),
        (b"\n  <HTML><head></head></HTML>", "web page"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1\n", "Git LFS pointer"),
        (b"hello world, this is text", "neither a torch nor a safetensors"),
        (b"\x89HDF\r\n\x1a\n" + b"\0" * 600, "neither a torch nor a safetensors"),
        (gzip.compress(b"x" * 1000), "compressed or tar archive"),
        ((200).to_bytes(8, "little") + b"{}", "truncated"),
    ],
)
def test_what_is_no_checkpoint_is_named(body: bytes, word: str, tmp_path: Path):
    (tmp_path / "a.pth").write_bytes(body)
    with pytest.raises(ModelError, match=word) as caught:
        import_file(tmp_path / "a.pth", "mine")
    assert caught.value.hint


def test_archives_and_folders_are_named(tmp_path: Path, checkpoint: Path):
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.write(checkpoint, "kits/last.pth")
    with tarfile.open(tmp_path / "a.tar", "w") as archive:
        archive.add(checkpoint, "last.pth")
    with pytest.raises(ModelError, match=r"zip archive holding kits/last\.pth"):
        import_file(tmp_path / "a.zip", "mine")
    with pytest.raises(ModelError, match="tar archive"):
        import_file(tmp_path / "a.tar", "mine")
    with pytest.raises(ModelError, match="is a folder"):
        import_file(tmp_path, "mine")
    with pytest.raises(ModelError, match="cannot read"):
        import_file(tmp_path / "nowhere.pth", "mine")


def test_a_compressed_torch_archive_is_refused(tmp_path: Path, checkpoint: Path):
    with zipfile.ZipFile(checkpoint) as old, zipfile.ZipFile(tmp_path / "b.pth", "w", zipfile.ZIP_DEFLATED) as new:
        for member in old.namelist():
            new.writestr(member, old.read(member))
    with pytest.raises(ModelError, match="compressed torch archive"):
        import_file(tmp_path / "b.pth", "mine")


@pytest.mark.parametrize(
    ("content", "word"),
    [
        (
            {"image_encoder.pos_embed": torch.ones(1), "image_encoder.neck.0.weight": torch.ones(1)},
            "none of the layouts",
        ),
        (
            {k: v for k, v in checkpoints.sam().items() if "mask_tokens" not in k},
            r"closest to the layout 'sam', but lacks",
        ),
        ({"epoch": 3}, "no named tensors"),
        ([torch.ones(2)], "not named tensors"),
        ({"encoder_dict": [], "decoder_dict": {}}, "part 'encoder'"),
    ],
)
def test_an_unknown_layout_says_what_is_missing(content: Any, word: str, tmp_path: Path):
    torch.save(content, tmp_path / "a.pth")
    with pytest.raises(ModelError, match=word):
        import_file(tmp_path / "a.pth", "mine")


def test_weights_with_nan_are_refused(tmp_path: Path):
    state = checkpoints.sam()
    state["mask_decoder.iou_token.weight"][0] = float("nan")
    torch.save(state, tmp_path / "a.pth")
    with pytest.raises(ModelError, match=r"mask_decoder\.iou_token\.weight.*NaN"):
        import_file(tmp_path / "a.pth", "mine")


def test_a_name_must_fit_what_the_file_is(tmp_path: Path, checkpoint: Path):
    torch.save(checkpoints.sam3d(), tmp_path / "last.pth.tar")
    with pytest.raises(ModelError, match="published 'sam-vit-b' has ec2df6273261"):
        import_file(checkpoint, "sam-vit-b")
    with pytest.raises(ModelError, match="layout 'sam-vit-b', 'samus' has 'samus'"):
        import_file(checkpoint, "samus")
    with pytest.raises(ModelError, match="does not tell which") as caught:
        import_file(tmp_path / "last.pth.tar")
    assert "sam3d-kits, sam3d-pancreas, sam3d-lits, sam3d-colon" in caught.value.hint
    with pytest.raises(ModelError, match="cannot be a name"):
        import_file(checkpoint, "../mine")
    with pytest.raises(ModelError, match="is a preset's name"):
        import_file(checkpoint, "hippocampus-mr")


def test_a_known_hash_names_the_file(checkpoint: Path, monkeypatch: pytest.MonkeyPatch):
    import dataclasses

    digest = hashlib.sha256(checkpoint.read_bytes()).hexdigest()
    changed = tuple(dataclasses.replace(e, sha256=digest) if e.name == "medsam" else e for e in catalogue.CATALOGUE)
    monkeypatch.setattr(catalogue, "CATALOGUE", changed)
    with pytest.raises(ModelError, match="this file is 'medsam', not 'sam-vit-b'"):
        import_file(checkpoint, "sam-vit-b")
    record = import_file(checkpoint)
    assert (record.name, record.licence) == ("medsam", "Apache-2.0")


def test_importing_again_changes_nothing_and_another_file_needs_overwrite(tmp_path: Path, checkpoint: Path):
    first = import_file(checkpoint, "mine")
    assert import_file(checkpoint, "mine") == first
    torch.save(checkpoints.sam(seed=1), tmp_path / "other.pth")
    with pytest.raises(ModelError, match="from another file"):
        import_file(tmp_path / "other.pth", "mine")
    second = import_file(tmp_path / "other.pth", "mine", overwrite=True)
    assert second.source_sha256 != first.source_sha256
    assert store.locate("mine").sha256 == second.sha256


def test_nothing_half_written_stays_when_the_disk_is_full(checkpoint: Path, request: pytest.FixtureRequest):
    """Safetensors tells it as an error of its own kind."""
    request.getfixturevalue("no_large_files")
    with pytest.raises(ModelError, match=r"cannot write .*: File too large"):
        import_file(checkpoint, "mine")
    assert list(store.folder().iterdir()) == []
