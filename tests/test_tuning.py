"""What is trained of a network, what is put into it, and results that hold the difference alone."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_sam import SMALL, save, upstream
from torch import Tensor, nn
from torch.nn import functional as F

import medseg_cli
from medseg_cli.errors import ModelError, UsageError
from medseg_cli.models.sam.start import begin as begin_sam
from medseg_cli.models.sam3d.config import Sam3dConfig
from medseg_cli.models.sam3d.network import Sam3d
from medseg_cli.models.sam3d.start import begin as begin_sam3d
from medseg_cli.models.sam_unet.start import begin as begin_sam_unet
from medseg_cli.models.tuned_file import difference_of, opened
from medseg_cli.models.tuning import Kind, decide, encoder_rests, rest, share_trained, trainable, tune

SAM_UNET = {
    "image_size": 64, "patch_size": 16, "embed_dim": 16, "depth": 4, "num_heads": 2, "mlp_ratio": 2, "window_size": 2,
    "global_attn_indexes": [0, 1, 2, 3], "prompt_dim": 16, "mask_in_chans": 4, "decoder_heads": 2,
    "decoder_mlp_dim": 32, "stem": 8, "layers": [1, 1, 1, 1],
}  # fmt: skip
SAM3D = {
    "crop_size": 16, "internal_size": 64, "img_size": 64, "patch_size": 16, "num_slice": 16, "embed_dim": 16,
    "depth": 4, "num_heads": 2, "mlp_ratio": 2, "window_size": 3, "global_attn_indexes": [1], "cubic_window_size": 2,
    "out_chans": 8, "prompt_heads": 2, "prompt_mlp_dim": 16, "num_pos_feats": 4, "mlahead_channels": 4,
    "decoder_scale": 4,
}  # fmt: skip
FOR_3D: dict[str, Any] = {**SMALL, "depth": 4}
BEGIN: dict[str, Callable[..., Any]] = {"sam": begin_sam, "sam-unet": begin_sam_unet, "3dsam-adapter": begin_sam3d}
VALUES: dict[str, dict[str, Any]] = {"sam": {}, "sam-unet": SAM_UNET, "3dsam-adapter": SAM3D}
KINDS: tuple[Kind, ...] = ("method", "adapter", "lora", "decoder", "full")
BOX = torch.tensor([[8.0, 10.0, 40.0, 50.0]])
IMAGE = torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
CROP = torch.randn(1, 1, 16, 16, 16, generator=torch.Generator().manual_seed(1))


@pytest.fixture
def weights(tmp_path: Path) -> dict[str, Path]:
    """A trained network's file per pipeline."""
    files = {"sam": save(upstream(**SMALL), tmp_path / "sam.pth")}
    for name in ("sam-unet", "3dsam-adapter"):
        network, _ = BEGIN[name](VALUES[name], 3)
        files[name] = tmp_path / f"{name}.safetensors"
        save_file(network.state_dict(), files[name])
    return files


def output(name: str, network: Any) -> Tensor:
    """What a network says of one picture or crop, with gradients."""
    if name == "3dsam-adapter":
        result: Tensor = network(CROP, torch.tensor([[[8.0, 8.0, 8.0]]]))
        return result
    logits, _ = network.decode(network.encode(IMAGE), boxes=BOX)
    return torch.as_tensor(logits)


def trained_by_hand(name: str, kind: Kind, key: str) -> bool:
    """The rules of docs/peft.md, written down once more."""
    if kind == "full":
        return not key.endswith("attn.lr")
    if name == "3dsam-adapter":
        own = ("depth_embed", "slice_embed", "norm", "adapter", "neck_3d", "rel_pos_d")
        if kind in ("method", "adapter") and key.startswith("encoder."):
            return any(part in key for part in own)
        return key.startswith(("feature.3.", "decoder.")) or "lora_" in key
    if kind == "method":
        return not key.startswith("prompt_encoder." if name == "sam" else "image_encoder.")
    decoder = ("mask_decoder.",) if name == "sam" else ("mask_decoder.", "prompt_encoder.")
    return key.startswith(decoder) or "bottleneck" in key or "lora_" in key


@pytest.mark.parametrize("name", BEGIN)
@pytest.mark.parametrize("kind", KINDS)
def test_a_training_changes_what_it_says_and_its_file_brings_it_back(
    name: str, kind: Kind, weights: dict[str, Path], tmp_path: Path
) -> None:
    network, fresh = BEGIN[name](VALUES[name], 0, [weights[name]])
    assert not fresh
    network.eval()
    before = output(name, network).detach()
    tune(network, kind, 4, 0, fresh, weights[name])
    with torch.no_grad():
        assert torch.allclose(output(name, network), before, atol=1e-6), "what is put in changes nothing at first"

    names = {key for key, value in network.named_parameters() if value.requires_grad}
    assert names == {key for key, _ in network.named_parameters() if trained_by_hand(name, kind, key)}
    assert trainable(network)[0] == sum(value.numel() for value in network.parameters() if value.requires_grad)
    put_in = {"adapter": "bottleneck", "lora": "lora_B"}.get(kind, "")
    assert any(put_in in key for key in names) == (not (kind == "adapter" and name == "3dsam-adapter"))
    assert encoder_rests(network) == (kind == "decoder")

    start = {key: value.clone() for key, value in network.state_dict().items()}
    learning = [value for value in network.parameters() if value.requires_grad]
    optimizer = torch.optim.AdamW(learning, lr=0.05, weight_decay=0.02)
    for _ in range(2):  # the first gives the zeros of what was put in a gradient to pass on
        network.train()
        rest(network)
        optimizer.zero_grad()
        output(name, network).square().mean().backward()
        optimizer.step()
    changed = {key for key, value in network.state_dict().items() if not torch.equal(value, start[key])}
    buffers = {key for key, _ in network.named_buffers()}
    assert changed - buffers <= names
    assert len(changed & names) > 0.5 * len([key for key in names if not key.startswith("feature.")])
    if kind in ("decoder", "lora", "adapter"):
        assert not changed & buffers, "statistics of frozen norms rest"

    with torch.inference_mode():
        expected = output(name, network.eval())
    assert not torch.allclose(expected, before, atol=1e-3)
    tensors, metadata, base = difference_of(network, VALUES[name], BEGIN[name])
    file = tmp_path / "tuned.safetensors"
    save_file({key: value.contiguous() for key, value in tensors.items()}, file, metadata)
    assert (base is None) == (kind == "full")
    if base is not None:
        assert base.file == str(weights[name])
        assert not any(key.startswith("feature.0.") for key in tensors)
        untouched = start.keys() - names - buffers
        assert not untouched & tensors.keys()
    again = medseg_cli.load_model(name, checkpoint=file, **VALUES[name])
    assert not any("lora" in key for key in again.state_dict()), "updates are merged"
    with torch.inference_mode():
        assert torch.allclose(output(name, again), expected, atol=2e-5)


def test_a_result_can_be_tuned_again(weights: dict[str, Path], tmp_path: Path) -> None:
    """Adapters, then low-rank updates, then the decoder: each file belongs to the same first weights."""
    start, files = weights["sam"], []
    kinds: tuple[Kind, ...] = ("adapter", "lora", "decoder", "full")
    for number, kind in enumerate(kinds):
        network, fresh = begin_sam({}, 0, [start])
        tune(network, kind, 4, number, fresh, start)
        assert sum("bottleneck.down.weight" in key for key in network.state_dict()) == 2 * SMALL["depth"]
        optimizer = torch.optim.Adam([value for value in network.parameters() if value.requires_grad], lr=0.02)
        for _ in range(2):
            optimizer.zero_grad()
            output("sam", network).square().mean().backward()
            optimizer.step()
        with torch.inference_mode():
            expected = output("sam", network)
        tensors, metadata, base = difference_of(network, {}, begin_sam)
        assert base is not None
        assert base.file == str(weights["sam"])
        start = tmp_path / f"{number}.safetensors"
        files.append(start)
        save_file({key: value.contiguous() for key, value in tensors.items()}, start, metadata)
        # Every file stands without the ones before it.
        for earlier in files[:-1]:
            earlier.unlink(missing_ok=True)
        with torch.inference_mode():
            assert torch.allclose(output("sam", medseg_cli.load_model("sam", checkpoint=start)), expected, atol=2e-5)


def test_bottlenecks_compute_what_medical_sam_adapter_does(weights: dict[str, Path]) -> None:
    """One block by hand, from the original's parts: shortcut + adapter(attention), then MLP + 0.5 * bottleneck."""
    network, _ = begin_sam({}, 0, [weights["sam"]])
    tune(network, "adapter", 4, 0)
    for block in network.image_encoder.blocks:
        for module in (block.attn.proj.bottleneck, block.mlp.bottleneck):
            nn.init.normal_(module.up.weight, std=0.3)
            nn.init.normal_(module.up.bias, std=0.3)
    original, tuned = upstream(**SMALL).image_encoder.blocks[1], network.image_encoder.blocks[1]
    x = torch.randn(1, 4, 4, SMALL["embed_dim"], generator=torch.Generator().manual_seed(2))

    def bottleneck(module: Any, values: Tensor) -> Tensor:
        hidden = F.gelu(values @ module.down.weight.T + module.down.bias)
        return hidden @ module.up.weight.T + module.up.bias

    attended = original.attn(original.norm1(x))
    middle = x + attended + bottleneck(tuned.attn.proj.bottleneck, attended)
    inner = original.norm2(middle)
    expected = middle + original.mlp(inner) + 0.5 * bottleneck(tuned.mlp.bottleneck, inner)
    assert torch.allclose(tuned(x), expected, atol=1e-5)
    with torch.inference_mode():  # the piecewise path of inference on a CPU
        assert torch.allclose(tuned(x), expected, atol=1e-5)


def test_low_rank_updates_reach_the_attention_of_volumes(weights: dict[str, Path]) -> None:
    """The blocks compute with weights, not modules: an update must not be passed by."""
    network, _ = begin_sam3d(SAM3D, 0, [weights["3dsam-adapter"]])
    plain = copy.deepcopy(network)
    tune(network, "lora", 4, 0)
    for own, theirs in zip(network.encoder.blocks, plain.encoder.blocks, strict=True):
        for layer in ("qkv", "proj"):
            updated = getattr(own.attn, layer)
            up, down = updated.lora_B["default"].weight, updated.lora_A["default"].weight
            nn.init.normal_(up, std=0.1)
            getattr(theirs.attn, layer).weight.data += up @ down
    with torch.no_grad():
        assert torch.allclose(output("3dsam-adapter", network), output("3dsam-adapter", plain), atol=1e-5)
    assert torch.allclose(output("3dsam-adapter", network), output("3dsam-adapter", plain), atol=1e-5)


def test_a_start_of_3dsam_adapter_from_sam(tmp_path: Path) -> None:
    """What the official training takes from SAM, what it makes of it, and what it trains (spec, section 2.2)."""
    theirs = upstream(**FOR_3D)
    path = save(theirs, tmp_path / "sam.pth")
    network, fresh = begin_sam3d(SAM3D, 7, [path])
    state, sam = network.state_dict(), theirs.state_dict()
    taken = {key for key in sam if key.startswith("image_encoder.") and ".neck." not in key}
    for key in taken:
        assert torch.equal(state[key.replace("image_encoder.", "encoder.")], sam[key])
    high, wide = (sam[f"image_encoder.blocks.2.attn.rel_pos_{axis}"] for axis in "hw")
    assert torch.allclose(state["encoder.blocks.2.attn.rel_pos_d"], 0.5 * (high + wide))
    assert torch.equal(state["encoder.depth_embed"], torch.ones_like(state["encoder.depth_embed"]))
    assert {key.replace("image_encoder.", "encoder.") for key in taken}.isdisjoint(fresh)
    twin, _ = begin_sam3d(SAM3D, 7, [path])
    assert all(torch.equal(value, state[key]) for key, value in twin.state_dict().items())

    tune(network, "method", 8, 0, fresh, path)
    for key, value in network.named_parameters():
        expected = trained_by_hand("3dsam-adapter", "method", key)
        assert value.requires_grad == (expected or key.startswith("decoder.")), key
    with torch.inference_mode():
        expected = output("3dsam-adapter", network)
    tensors, metadata, base = difference_of(network, SAM3D, begin_sam3d)
    assert base is not None
    assert not any("qkv" in key or "pos_embed" in key for key in tensors)
    save_file(tensors, tmp_path / "tuned.safetensors", metadata)
    again = medseg_cli.load_model("3dsam-adapter", checkpoint=tmp_path / "tuned.safetensors", **SAM3D)
    with torch.inference_mode():
        assert torch.allclose(output("3dsam-adapter", again), expected, atol=1e-6)
    with pytest.raises(ModelError, match="nothing of a 3DSAM-adapter is trained"):
        medseg_cli.load_model("3dsam-adapter", checkpoint=path, **SAM3D)
    with pytest.raises(ModelError, match="does not fit 3dsam-adapter"):
        begin_sam3d({**SAM3D, "embed_dim": 32}, 0, [path])


def test_the_published_size_trains_what_the_paper_says() -> None:
    """25.46 M parameters (paper, table 1; specification, section 6)."""
    with torch.device("meta"):
        network = Sam3d(Sam3dConfig())
    tune(network, "method", 8, 0)
    assert trainable(network)[0] == 25_462_400
    assert share_trained(network).startswith("25,462,400 of ")


def test_a_decoder_alone_on_sams_encoder_still_trains_what_sam_lacks(tmp_path: Path) -> None:
    path = save(upstream(**FOR_3D), tmp_path / "sam.pth")
    network, fresh = begin_sam3d(SAM3D, 0, [path])
    tune(network, "decoder", 8, 0, fresh, path)
    trained = {key for key, value in network.named_parameters() if value.requires_grad}
    assert any("slice_embed" in key for key in trained)
    assert not any("qkv" in key or key.startswith("feature.1.") for key in trained)
    assert not encoder_rests(network)


@pytest.mark.parametrize("kind", ["adapter", "lora", "decoder"])
def test_random_weights_are_not_frozen(kind: Kind) -> None:
    with pytest.raises(UsageError, match="random ones"):
        decide(kind, 768, scratch=True)
    assert decide("method", 768, scratch=True) == "full"
    assert decide("method", 768, scratch=False) == "method"
    assert decide("method", 64, scratch=False) == "full", "it was never SAM's"
    assert decide(kind, 64, scratch=False) == kind


def test_a_difference_without_its_base_says_which_is_missing(weights: dict[str, Path], tmp_path: Path) -> None:
    network, fresh = begin_sam({}, 0, [weights["sam"]])
    tune(network, "lora", 2, 0, fresh, weights["sam"])
    tensors, metadata, base = difference_of(network, {}, begin_sam)
    file = tmp_path / "tuned.safetensors"
    save_file(tensors, file, metadata)
    assert base is not None
    content = weights["sam"].read_bytes()

    weights["sam"].unlink()
    with pytest.raises(ModelError, match="is missing") as caught:
        medseg_cli.load_model("sam", checkpoint=file)
    assert base.sha256[:12] in caught.value.message
    assert "medseg weights import" in caught.value.hint
    save(upstream(**SMALL, seed=5), weights["sam"])
    with pytest.raises(ModelError, match=r"was trained on .* with SHA-256"):
        medseg_cli.load_model("sam", checkpoint=file)
    weights["sam"].write_bytes(content)
    medseg_cli.load_model("sam", checkpoint=file)


def test_a_difference_that_fits_nothing_is_refused(weights: dict[str, Path], tmp_path: Path) -> None:
    network, fresh = begin_sam({}, 0, [weights["sam"]])
    tune(network, "lora", 2, 0, fresh, weights["sam"])
    tensors, metadata, _ = difference_of(network, {}, begin_sam)
    file = tmp_path / "tuned.safetensors"
    key = "image_encoder.blocks.0.attn.qkv.lora_B"
    for broken, told in (
        ({**tensors, "nonsense": torch.zeros(1)}, "1 unknown"),
        ({**tensors, "mask_decoder.iou_token.weight": torch.zeros(2, 2)}, "1 of another shape"),
        ({name: value for name, value in tensors.items() if name != key}, "fits no layer"),
    ):
        save_file(broken, file, metadata)
        with pytest.raises(ModelError, match=told):
            medseg_cli.load_model("sam", checkpoint=file)
    save_file(tensors, file, {**metadata, "medseg.base": "{}"})
    with pytest.raises(ModelError, match="does not say what it belongs to"):
        medseg_cli.load_model("sam", checkpoint=file)
    assert opened(weights["sam"]) is None
    assert load_file(file).keys() == tensors.keys()
