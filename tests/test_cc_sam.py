"""CC-SAM as we reconstruct it: no official outputs exist, so properties that the specification (8.7) asks for."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_cc_sam import SIZES as TINY
from torch import Tensor
from torchvision.models import resnet18, resnet50

import medseg_cli
from medseg_cli.errors import ModelError
from medseg_cli.models.cc_sam.checkpoint import begin_with, random_network
from medseg_cli.models.cc_sam.config import config_of
from medseg_cli.models.cc_sam.fusion import VariationalFusion, gaussian_divergence
from medseg_cli.models.cc_sam.losses import BETA, loss
from medseg_cli.models.cc_sam.network import CcSam
from medseg_cli.models.cc_sam.trunk import Trunk
from medseg_cli.models.samus.config import config_of as samus_config
from medseg_cli.models.samus.losses import dice_entropy
from medseg_cli.models.samus.network import Samus


def tiny(**changes: Any) -> CcSam:
    return random_network(config_of({**TINY, **changes}), 0)


@pytest.fixture(scope="module")
def images() -> Tensor:
    return torch.rand(2, 1, 256, 256, generator=torch.Generator().manual_seed(1))


POINTS, LABELS = torch.tensor([[[40.0, 50.0]], [[100.0, 20.0]]]), torch.ones(2, 1)
BOXES = torch.tensor([[20.0, 30.0, 90.0, 100.0], [60.0, 10.0, 200.0, 80.0]])


@pytest.mark.parametrize("form", ["vaf", "cross", "gate"])
def test_untrained_fusion_changes_nothing(images: Tensor, form: str):
    """Bit for bit the network without the CNN, which shares every other weight."""
    fused = tiny(fusion=form).eval()
    alone = tiny(fusion="none", cnn="none").eval()
    alone.load_state_dict({key: value for key, value in fused.state_dict().items() if key in alone.state_dict()})
    with torch.inference_mode():
        found = fused(images, POINTS, LABELS)
        assert torch.equal(found["low_res_logits"], alone(images, POINTS, LABELS)["low_res_logits"])
    assert len(found["gate"]) == (0 if form == "cross" else 4)


def test_divergence_of_known_gaussians():
    zero, one = torch.zeros(2, 5, 96), torch.ones(2, 5, 96)
    assert gaussian_divergence(zero, zero).item() == 0
    assert gaussian_divergence(one, zero).item() == 48
    spread = torch.full((3,), 2.0)
    known = torch.distributions.kl_divergence(
        torch.distributions.Normal(spread, spread.exp().sqrt()), torch.distributions.Normal(0.0, 1.0)
    ).sum()
    assert gaussian_divergence(spread, spread).item() == pytest.approx(known.item(), rel=1e-6)


def moved(model: CcSam) -> CcSam:
    """Past step 0: output projections that are no longer zero."""
    generator = torch.Generator().manual_seed(5)
    for block in model.image_encoder.blocks:
        block.vaf.out.weight.data = 0.5 * torch.randn(block.vaf.out.weight.shape, generator=generator)
    return model


def test_noise_only_where_it_is_asked_for(images: Tensor):
    model = moved(tiny())
    with torch.inference_mode():
        model.eval()
        first, second = (model(images, POINTS, LABELS)["low_res_logits"] for _ in range(2))
        assert torch.equal(first, second)
        model.train()
        seeded = [
            model(images, POINTS, LABELS, noise=torch.Generator().manual_seed(seed))["low_res_logits"]
            for seed in (1, 1, 2)
        ]
    assert torch.equal(seeded[0], seeded[1])
    assert not torch.equal(seeded[0], seeded[2])
    assert not torch.equal(seeded[0], first)


def test_samples_give_a_variance(images: Tensor):
    model = moved(tiny()).eval()
    with torch.inference_mode():
        found = model(images, POINTS, LABELS, n_samples=4, noise=torch.Generator().manual_seed(0))
        single = model(images, POINTS, LABELS, n_samples=1, noise=torch.Generator().manual_seed(0))
    assert found["variance"].shape == (2, 1, 256, 256)
    assert 0 < float(found["variance"].max()) <= 0.25
    assert float(single["variance"].max()) == 0


def test_only_the_listed_parts_are_trained_and_the_cnn_stays_as_it_is(images: Tensor):
    model = moved(tiny()).train()
    model.freeze()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    optimizer = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], lr=1e-3)
    target = (torch.rand(2, 1, 128, 128, generator=torch.Generator().manual_seed(2)) > 0.5).float()
    found = model(images, POINTS, LABELS, text=torch.rand(2, 12), noise=torch.Generator().manual_seed(3))
    loss(found["low_res_logits"], target, found["kl"], done=1.0).backward()
    optimizer.step()
    changed = {key for key, value in model.state_dict().items() if not torch.equal(value, before[key])}
    assert changed <= {name for name, p in model.named_parameters() if p.requires_grad}
    assert not {key for key in changed if ".cnn." in key}, "frozen weights and running statistics"
    parts = ("cnn_proj", "vaf.latent_v", "vaf.latent_c", "vaf.gate", "tail_scale", "post_pos_embed")
    for part in (*parts, "input_Adapter", "MLP_Adapter", "text_prompt", "attn.rel_pos_h", "vaf.q", "vaf.value"):
        assert any(part in key for key in changed), part
    assert not model.image_encoder.cnn.bn1.training


def test_less_certainty_weighs_less():
    fusion = VariationalFusion(config_of(TINY))
    tokens = torch.rand(2, 9, 48, generator=torch.Generator().manual_seed(4))
    with torch.inference_mode():
        _, _, before = fusion(tokens, tokens.flip(1))
        fusion.latent_c.log_variance.bias += 4
        _, _, after = fusion(tokens, tokens.flip(1))
    assert before is not None
    assert after is not None
    assert bool((after < before).all())
    # Four nats of log-variance, halved, in a softmax over two.
    assert torch.allclose(torch.logit(before) - torch.logit(after), torch.full_like(after, 2.0), atol=1e-4)


def test_text_changes_the_mask_and_its_absence_has_a_token(images: Tensor):
    model = tiny().eval()
    texts = torch.rand(2, 2, 12, generator=torch.Generator().manual_seed(6))
    with torch.inference_mode():
        one, other, without = (model(images, text=text)["low_res_logits"] for text in (texts[0], texts[1], None))
    assert not torch.allclose(one, other)
    assert not torch.allclose(one, without)
    assert bool(torch.isfinite(without).all())
    with pytest.raises(ModelError, match="built without text"):
        tiny(text=False)(images, text=texts[0])
    with pytest.raises(ModelError, match=r"expected \(N, 12\)|text of shape"):
        model(images, text=torch.rand(2, 768))


def test_text_is_dropped_now_and_then_while_training():
    model = tiny().train()
    text = torch.rand(400, 12, generator=torch.Generator().manual_seed(6))
    assert model.text_prompt is not None
    with torch.inference_mode():
        tokens = model.text_prompt(text, 400, torch.Generator().manual_seed(7))
        dropped = (tokens == model.text_prompt.nothing).all(-1).float().mean().item()
    assert dropped == pytest.approx(0.1, abs=0.05)


@pytest.mark.parametrize(
    ("given", "kinds"),
    [
        ({}, ["text"]),
        ({"points"}, ["point", "pad", "text"]),
        ({"boxes"}, ["corner", "corner", "text"]),
        ({"points", "boxes"}, ["corner", "corner", "point", "text"]),
    ],
)
def test_order_and_number_of_prompt_tokens(given: set[str], kinds: list[str]):
    """Told apart by the learned part of each token: changing an embedding changes its tokens alone."""
    model = tiny().eval()
    encoder = model.prompt_encoder
    prompts = {
        "boxes": BOXES if "boxes" in given else None,
        "points": POINTS if "points" in given else None,
        "labels": LABELS if "points" in given else None,
    }
    learned = {
        "point": [encoder.point_embeddings[1].weight],
        "corner": [encoder.point_embeddings[2].weight, encoder.point_embeddings[3].weight],
        "pad": [encoder.not_a_point_embed.weight],
        "text": [model.text_prompt.nothing],
    }
    with torch.inference_mode():
        before, _ = model.embed(**prompts, masks=None, text=None, count=2)
        assert before.shape[1] == len(kinds)
        for kind, weights in learned.items():
            for weight in weights:
                weight += 1
            after, _ = model.embed(**prompts, masks=None, text=None, count=2)
            for weight in weights:
                weight -= 1
            moved_tokens = (after - before).abs().amax((0, 2)) > 0.5
            assert moved_tokens.tolist() == [each == kind for each in kinds], kind


@pytest.mark.parametrize("values", [{"fusion": "samus", "cnn": "samus"}])
def test_samus_is_one_of_its_forms(shared: Path, values: dict[str, str]):
    """With SAMUS's fusion and CNN it reproduces the official SAMUS."""
    fixture = torch.load(shared / "parity" / "samus_small.pt", weights_only=True)
    model = random_network(config_of({**fixture["config"], **values, "text": False}), 0).eval()
    model.load_state_dict({key: value.float() for key, value in fixture["state_dict"].items()})
    inputs, expected = fixture["inputs"], fixture["outputs"]["point_a"]
    with torch.inference_mode():
        found = model(inputs["img1"], inputs["point_a"], inputs["point_a_label"])
    assert float((found["low_res_logits"] - expected["low_res_logits"]).abs().max()) < 5e-5


@pytest.mark.parametrize(
    ("block", "layers", "theirs"), [("basic", [2, 2, 2, 2], resnet18), ("bottleneck", [3, 4, 6, 3], resnet50)]
)
def test_trunk_is_torchvisions_resnet(block: str, layers: list[int], theirs: Any):
    torch.manual_seed(0)
    reference = theirs(weights=None).eval()
    for module in reference.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.normal_(std=0.1)
            module.running_var.uniform_(0.5, 2)
    trunk = Trunk(config_of({"cnn_block": block, "cnn_layers": layers}))
    missing, unexpected = trunk.load_state_dict(reference.state_dict(), strict=False)
    assert missing == []
    assert unexpected == ["fc.weight", "fc.bias"]
    images = torch.rand(1, 3, 256, 256)
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    with torch.inference_mode():
        x = (images - mean.view(3, 1, 1)) / std.view(3, 1, 1)
        x = reference.maxpool(reference.relu(reference.bn1(reference.conv1(x))))
        for stage, found in enumerate(trunk(images), start=1):
            x = getattr(reference, f"layer{stage}")(x)
            assert torch.allclose(found, x, rtol=1e-4, atol=1e-4)


def test_begins_with_sam_samus_and_a_resnet(tmp_path: Path):
    small = {key: value for key, value in TINY.items() if not key.startswith(("cnn_", "fusion_", "latent_", "text_"))}
    torch.manual_seed(0)
    samus = Samus(samus_config(small)).state_dict()
    torch.save(samus, tmp_path / "samus.pth")
    trunk = {f"{key}": torch.rand_like(value) if value.is_floating_point() else value
             for key, value in resnet50(weights=None).state_dict().items()}  # fmt: skip
    torch.save(trunk, tmp_path / "resnet.pth")
    values = {**TINY, "cnn_block": "bottleneck", "cnn_layers": [3, 4, 6, 3], "cnn_stem": 64}
    model, start = begin_with(values, 0, [tmp_path / "samus.pth", tmp_path / "resnet.pth"])
    state = model.state_dict()
    assert torch.equal(state["image_encoder.cnn.layer3.5.conv1.weight"], trunk["layer3.5.conv1.weight"])
    assert torch.equal(state["image_encoder.post_pos_embed.downs.0.maxpool_conv.1.weight"],
                       samus["image_encoder.post_pos_embed.downs.0.maxpool_conv.1.weight"])  # fmt: skip
    assert all("cnn_embed" in key or "Space_" in key or "refine_" in key or ".fc." in key for key in start.dropped)
    assert all(any(part in key for part in ("vaf", "cnn_proj", "tail_scale", "text_prompt")) for key in start.new)
    assert {name for name, p in model.named_parameters() if p.requires_grad} & set(start.new) == set(start.new)
    with pytest.raises(ModelError, match="have another shape"):
        begin_with({**values, "prompt_dim": 64}, 0, [tmp_path / "samus.pth"])
    torch.save(
        {f"{key}": value for key, value in samus.items()} | {"extra.weight": torch.zeros(1)}, tmp_path / "odd.pth"
    )
    with pytest.raises(ModelError, match=r"no place here \['extra.weight'\]"):
        begin_with(values, 0, [tmp_path / "odd.pth"])


def test_sam_of_1024_pixels_is_resized(tmp_path: Path):
    values = {**TINY, "global_attn_indexes": [3], "taps": "c3"}
    sam_values = {key: TINY[key] for key in ("embed_dim", "depth", "num_heads", "window_size", "prompt_dim")}
    sam = medseg_cli.load_model(
        "sam", **sam_values, mlp_dim=96, global_attn_indexes=[3], mask_in_chans=4, decoder_mlp_dim=32, iou_dim=16
    )
    torch.save(sam.state_dict(), tmp_path / "sam.pth")
    model, start = begin_with(values, 0, [tmp_path / "sam.pth"])
    assert start.resized == ("image_encoder.blocks.3.attn.rel_pos_h", "image_encoder.blocks.3.attn.rel_pos_w")
    assert start.dropped == ()
    assert all(".cnn." in key or "Adapter" in key or "post_pos" in key or "vaf" in key or "cnn_proj" in key
               or "tail_scale" in key or "text_prompt" in key for key in start.new)  # fmt: skip
    assert torch.equal(model.image_encoder.pos_embed, sam.image_encoder.pos_embed)


def test_a_file_of_ours_comes_back(tmp_path: Path, images: Tensor):
    model = moved(tiny()).eval()
    torch.save(model.state_dict(), tmp_path / "cc.pth")
    again = medseg_cli.load_model("cc-sam", checkpoint=tmp_path / "cc.pth", **TINY)
    with torch.inference_mode():
        expected = model(images, POINTS, LABELS)["masks"]
        assert torch.equal(again(images, POINTS, LABELS)["masks"], expected)
        one = again.decode(again.encode(images[:1]), points=POINTS[:1], labels=LABELS[:1])[0]
    assert torch.allclose(one, model(images, POINTS, LABELS)["low_res_logits"][0], atol=1e-5)
    with pytest.raises(ModelError, match="does not fit cc-sam"):
        medseg_cli.load_model("cc-sam", checkpoint=tmp_path / "cc.pth", **{**TINY, "fusion": "cross"})


def test_divergence_comes_in_slowly():
    logits = torch.randn(2, 1, 128, 128, generator=torch.Generator().manual_seed(0))
    labels = (logits > 1).float()
    plain, divergence = dice_entropy(logits, labels), torch.tensor(57.0)
    for done, share in ((0, 0.0), (0.025, 0.5), (0.05, 1.0), (1.0, 1.0)):
        found = loss(logits, labels, divergence, done) - plain
        assert found.item() == pytest.approx(share * BETA * 57, abs=1e-6)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"fusion": "none"}, "without the one there is no other"),
        ({"cnn": "none"}, "without the one there is no other"),
        ({"fusion": "samus"}, "goes with cnn 'samus'"),
        ({"latent_dim": 10}, "not divisible"),
        ({"global_attn_indexes": [1, 3]}, "needs 4 global blocks"),
        ({"cnn_layers": [1, 1]}, "not 4 numbers"),
        ({"fusion": "sum"}, "fusion cannot be 'sum'"),
        ({"text_dim": 0}, "text_dim cannot be 0"),
        ({"gates": 3}, "unknown"),
    ],
)
def test_wrong_configurations_are_refused(values: dict[str, Any], message: str):
    with pytest.raises(ModelError, match=message):
        medseg_cli.load_model("cc-sam", **{**TINY, **values})
