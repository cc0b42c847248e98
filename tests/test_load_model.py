"""`medseg_cli.load_model`: the public way to a network, with checkpoints good and bad."""

from __future__ import annotations

import pickle
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

import medseg_cli
from medseg_cli.errors import ModelError, UsageError

SMALL = {
    "crop_size": 16, "internal_size": 16, "img_size": 16, "patch_size": 4, "num_slice": 4, "embed_dim": 16, "depth": 4,
    "num_heads": 2, "mlp_ratio": 2, "window_size": 2, "global_attn_indexes": (), "cubic_window_size": 2, "out_chans": 8,
    "prompt_heads": 2, "prompt_mlp_dim": 16, "num_pos_feats": 4, "mlahead_channels": 4,
}  # fmt: skip


@pytest.fixture
def model() -> torch.nn.Module:
    return medseg_cli.load_model("3dsam-adapter", **SMALL)


def official(model: torch.nn.Module) -> dict:
    state = model.state_dict()

    def part(prefix: str) -> dict:
        return {key.removeprefix(prefix): value for key, value in state.items() if key.startswith(prefix)}

    return {
        "encoder_dict": part("encoder."),
        "feature_dict": [part(f"feature.{index}.") for index in range(4)],
        "decoder_dict": part("decoder."),
    }


def test_published_sizes_are_the_defaults() -> None:
    with torch.device("meta"):
        from medseg_cli.models.sam3d.config import Sam3dConfig
        from medseg_cli.models.sam3d.network import Sam3d

        model = Sam3d(Sam3dConfig())
    counts = {name: sum(p.numel() for p in part.parameters()) for name, part in model.named_children()}
    assert counts == {"encoder": 104_056_588, "feature": 4 * 3_164_160, "decoder": 7_088_256}
    model.freeze()
    trained = sum(p.numel() for p in model.encoder.parameters() if p.requires_grad)
    assert trained == 15_209_984
    assert trained + 3_164_160 + 7_088_256 == 25_462_400


def test_output_is_on_the_crops_grid(model: torch.nn.Module) -> None:
    logits = model(torch.randn(2, 1, 16, 16, 16), torch.full((3, 2, 3), 8.0))
    assert logits.shape == (2, 2, 16, 16, 16)
    assert torch.isfinite(logits).all()


def test_three_equal_channels_are_one(model: torch.nn.Module) -> None:
    image, points = torch.randn(1, 1, 16, 16, 16), torch.full((1, 1, 3), 8.0)
    assert torch.allclose(model(image, points), model(image.repeat(1, 3, 1, 1, 1), points), atol=1e-4)


def test_a_batch_is_its_crops_one_by_one(model: torch.nn.Module) -> None:
    image, points = torch.randn(2, 1, 16, 16, 16), torch.rand(2, 2, 3) * 15
    together = model(image, points)
    for index in range(2):
        alone = model(image[index : index + 1], points[:, index : index + 1])
        assert torch.allclose(together[index : index + 1], alone, atol=1e-4)


def test_the_axes_are_d_h_w_and_clicks_d_w_h(model: torch.nn.Module) -> None:
    """A click matters through the feature under it: moving it along one axis samples the feature along that axis."""
    model.feature[3].transformer.layers = torch.nn.ModuleList()
    feature = torch.zeros(1, 8, 4, 4, 4)
    feature[0, :, 0, 2, 3] = 1.0  # (h, w, d)
    seen = []

    class Spy(torch.nn.Module):
        def forward(self, image, clicks):
            seen.append(clicks)
            return image, clicks

    model.feature[3].transformer.layers = torch.nn.ModuleList([Spy()])
    for click in ([13.5, 9.5, 1.5], [1.5, 9.5, 13.5]):  # (d, w, h) voxels of token (3, 2, 0), then of (0, 2, 3)
        model.feature[3](feature, torch.tensor([[click]]))
    assert seen[0].abs().sum() > 7.9
    assert seen[1].abs().sum() < 1e-6


@pytest.mark.parametrize("kind", ["official", "flat", "safetensors", "with masks"])
def test_every_layout_loads_and_needs_no_sizes(model: torch.nn.Module, tmp_path: Path, kind: str) -> None:
    path = tmp_path / ("model.safetensors" if kind == "safetensors" else "last.pth.tar")
    if kind == "safetensors":
        save_file(model.state_dict(), path)
    elif kind == "flat":
        torch.save(model.state_dict(), path)
    else:
        content = official(model)
        if kind == "with masks":
            from medseg_kernels.cubic_windows import shift_mask

            for block in (0, 2):
                content["encoder_dict"][f"blocks.{block}.attn_mask"] = shift_mask((4, 4, 4), 2, 1)
        torch.save(content, path)
    again = medseg_cli.load_model("3dsam-adapter", checkpoint=path, crop_size=16, cubic_window_size=2, prompt_heads=2)
    image, points = torch.randn(1, 1, 16, 16, 16), torch.full((1, 1, 3), 8.0)
    with torch.inference_mode():
        assert torch.equal(again(image, points), model(image, points))
    assert not again.training


def spoil(content: dict, how: str) -> None:
    encoder = content["encoder_dict"]
    if how == "missing":
        del encoder["blocks.1.adapter.conv.bias"]
    elif how == "unexpected":
        encoder["neck.0.weight"] = torch.zeros(1)
    elif how == "shape":
        encoder["blocks.0.mlp.lin2.bias"] = torch.zeros(3)
    elif how == "mask":
        encoder["blocks.0.attn_mask"] = torch.zeros(8, 8, 8)
    elif how == "three prompt encoders":
        content["feature_dict"].pop()
    elif how == "automatic variant":
        del content["feature_dict"]


@pytest.mark.parametrize(
    ("how", "words"),
    [
        ("missing", "blocks.1.adapter.conv.bias"),
        ("unexpected", "neck.0.weight"),
        ("shape", r"lin2.bias is \(3,\), expected \(16,\)"),
        ("mask", "not the shift mask"),
        ("three prompt encoders", "3 prompt encoders, expected 4"),
        ("automatic variant", "no feature_dict"),
    ],
)
def test_loading_is_strict(model: torch.nn.Module, tmp_path: Path, how: str, words: str) -> None:
    content = official(model)
    spoil(content, how)
    torch.save(content, tmp_path / "bad.pth.tar")
    with pytest.raises(ModelError, match=words):
        medseg_cli.load_model("3dsam-adapter", checkpoint=tmp_path / "bad.pth.tar", **SMALL)


class Bomb:
    def __reduce__(self):
        return (Path.touch, (Path("exploded"),))


def test_nothing_in_a_file_is_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save({"encoder_dict": Bomb()}, tmp_path / "bomb.pth")
    (tmp_path / "plain.pth").write_bytes(pickle.dumps(Bomb()))
    for name in ("bomb.pth", "plain.pth"):
        with pytest.raises(ModelError, match=name):
            medseg_cli.load_model("3dsam-adapter", checkpoint=tmp_path / name)
    assert not (tmp_path / "exploded").exists()


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 cut off", b"<!DOCTYPE html><title>Sign in</title>"])
@pytest.mark.parametrize("name", ["file.pth", "file.safetensors"])
def test_what_is_no_checkpoint_is_said(tmp_path: Path, content: bytes, name: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ModelError, match=name):
        medseg_cli.load_model("3dsam-adapter", checkpoint=tmp_path / name)


def test_names_are_checked() -> None:
    with pytest.raises(ModelError, match="unknown model 'nnunet'"):
        medseg_cli.load_model("nnunet")
    with pytest.raises(ModelError, match="unknown \\['embed_dims'\\]"):
        medseg_cli.load_model("3dsam-adapter", embed_dims=3)
    with pytest.raises(ModelError, match="not a multiple of cubic_window_size"):
        medseg_cli.load_model("3dsam-adapter", **{**SMALL, "cubic_window_size": 3})
    with pytest.raises(ModelError, match=r"nowhere\.pth: No such file"):
        medseg_cli.load_model("3dsam-adapter", checkpoint="nowhere.pth")


def test_random_weights_depend_on_the_seed_alone() -> None:
    torch.manual_seed(1)
    one = medseg_cli.load_model("3dsam-adapter", **SMALL).state_dict()
    before = torch.random.get_rng_state()
    two = medseg_cli.load_model("3dsam-adapter", **SMALL).state_dict()
    assert torch.equal(torch.random.get_rng_state(), before)
    assert all(torch.equal(one[key], two[key]) for key in one)


@pytest.mark.parametrize(
    "values",
    [
        {"patch_size": 0},
        {"crop_size": "48"},
        {"depth": None},
        {"embed_dim": -16},
        {"global_attn_indexes": 3},
        {"num_heads": True},
    ],
)
def test_sizes_that_are_no_sizes_are_said(values: dict) -> None:
    with pytest.raises(ModelError, match=f"{next(iter(values))} cannot be"):
        medseg_cli.load_model("3dsam-adapter", **{**SMALL, **values})


def test_kernels_that_do_not_exist_are_a_user_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MEDSEG_KERNELS", "fast")
    with pytest.raises(UsageError, match="MEDSEG_KERNELS=fast: use triton or reference"):
        medseg_cli.load_model("3dsam-adapter", **SMALL)
