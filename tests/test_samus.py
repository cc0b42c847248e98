"""SAMUS against the outputs of the official code (fixture made on fixed random weights, see the specification)."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

import medseg_cli
from medseg_cli.errors import ModelError
from medseg_cli.frame import Frame
from medseg_cli.models.samus.auto import AutoSamus
from medseg_cli.models.samus.checkpoint import random_network
from medseg_cli.models.samus.config import VARIANTS, config_of
from medseg_cli.models.samus.losses import dice, dice_entropy, entropy
from medseg_cli.models.samus.network import Samus
from medseg_cli.models.samus.start import begin, from_sam

ENCODER, LOGITS, GRADIENT = 5e-5, 5e-5, 1e-3
"""Tolerances of the specification (section 10); the first two absolute, of values around 1; seen are 5e-6 and 2e-6."""
TINY = {
    "embed_dim": 48,
    "depth": 3,
    "num_heads": 4,
    "mlp_ratio": 2.0,
    "global_attn_indexes": [0, 2],
    "prompt_dim": 32,
    "mask_in_chans": 4,
    "decoder_mlp_dim": 32,
    "iou_dim": 16,
}


@pytest.fixture(scope="module")
def fixture(shared: Path) -> dict[str, Any]:
    return torch.load(shared / "parity" / "samus_small.pt", weights_only=True)


@pytest.fixture(scope="module")
def network(fixture: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Samus:
    """Through a file, as the official code saves it from several GPUs, in torch's old format."""
    path = tmp_path_factory.mktemp("samus") / "samus.pth"
    state = {f"module.{key}": value for key, value in fixture["state_dict"].items()}
    torch.save(state, path, _use_new_zipfile_serialization=False)
    model = medseg_cli.load_model("samus", checkpoint=path, **fixture["config"])
    assert isinstance(model, Samus)
    return model


def differ(actual: Tensor, expected: Tensor) -> float:
    """Largest difference; some expected maps are every fourth pixel."""
    if actual.shape != expected.shape:
        actual = actual[..., ::4, ::4]
    assert actual.shape == expected.shape
    return float((actual.detach() - expected).abs().max())


def test_encoder_agrees_with_the_official_code(fixture: dict[str, Any], network: Samus):
    for name, expected in (("img1", "image_embeddings"), ("img3", "image_embeddings_img3")):
        with torch.inference_mode():
            found = network.encode(fixture["inputs"][name])["image"]
        assert differ(found, fixture["outputs"][expected]) < ENCODER
    assert differ(network.position(), fixture["outputs"]["dense_pe"]) == 0


def test_every_stage_of_the_encoder_agrees(fixture: dict[str, Any], network: Samus):
    """Of the first image; maps (B, H, W, C), after blocks with global attention also the CNN's."""
    stages, found = dict(network.named_modules()), dict[str, Any]()

    def keep(name: str) -> Callable[..., None]:
        return lambda module, inputs, output: found.update({name: output})

    hooks = [stages[name].register_forward_hook(keep(name)) for name in fixture["intermediates"]]
    with torch.inference_mode():
        network.encode(fixture["inputs"]["img1"][:1])
    for hook in hooks:
        hook.remove()
    assert found.keys() == fixture["intermediates"].keys()
    for name, expected in fixture["intermediates"].items():
        made = found[name] if isinstance(found[name], tuple) else (found[name],)
        for ours, theirs in zip(made, expected if isinstance(expected, list) else [expected], strict=False):
            # Ours keeps the CNN's map as convolutions have it, and halves the adapter beside the MLP within it.
            ours = ours.permute(0, 2, 3, 1) if ours.shape != theirs.shape else ours
            assert differ(ours, theirs * (0.5 if name.endswith("MLP_Adapter") else 1.0)) < ENCODER, name


def test_bytes_normalised_as_sam_does(fixture: dict[str, Any], network: Samus):
    """The official `forward_sam`: SAM's mean and deviation on 0..255, one click, masks at the picture's own size."""
    inputs, expected = fixture["inputs"], fixture["outputs"]["forward_sam"]
    mean, deviation = (
        torch.tensor(each)[:, None, None] for each in ([123.675, 116.28, 103.53], [58.395, 57.12, 57.375])
    )
    image = ((inputs["raw_image"].float() - mean) / deviation)[None]
    with torch.inference_mode():
        found = network(image, (inputs["point_a"][:1], inputs["point_a_label"][:1]))
    assert differ(found["low_res_logits"], expected["low_res_logits"]) < LOGITS
    assert differ(found["iou"], expected["iou"]) < LOGITS
    full = F.interpolate(found["masks"], inputs["raw_hw"].tolist(), mode="bilinear", align_corners=False)
    assert ((full > 0) != expected["masks"].bool()).float().mean() < 1e-4


@pytest.mark.parametrize("case", ["point_a", "points_n", "box", "box_point", "mask_point"])
def test_prompts_are_embedded_as_by_the_official_code(fixture: dict[str, Any], network: Samus, case: str):
    inputs, expected = fixture["inputs"], fixture["outputs"][case]
    clicked = {"box_point": "point_a", "mask_point": "point_a", "box": None}.get(case, case)
    sparse, dense = network.embed(
        inputs["box"] if "box" in case else None,
        None if clicked is None else inputs[clicked],
        None if clicked is None else inputs[f"{clicked}_label"],
        inputs["mask_prompt"] if "mask" in case else None,
    )
    assert differ(sparse, expected["sparse"]) < LOGITS
    assert differ(dense[..., ::4, ::4].expand(-1, -1, 8, 8), expected["dense"].expand(-1, -1, 8, 8)) < LOGITS


@pytest.mark.parametrize("case", ["point_a", "point_b", "points_n", "points_c", "box", "box_point", "mask_point"])
def test_masks_agree_with_the_official_code(fixture: dict[str, Any], network: Samus, case: str):
    """`box*` and `mask*` reached the official prompt encoder directly: its `forward` ignores them, ours does not."""
    inputs, expected = fixture["inputs"], fixture["outputs"][case]
    clicked = {"box_point": "point_a", "mask_point": "point_a", "box": None}.get(case, case)
    found = network(
        inputs["img1"],
        None if clicked is None else (inputs[clicked], inputs[f"{clicked}_label"]),
        boxes=inputs["box"] if "box" in case else None,
        masks=inputs["mask_prompt"] if "mask" in case else None,
    )
    assert differ(found["low_res_logits"], expected["low_res_logits"]) < LOGITS
    assert differ(found["masks"], expected["masks"]) < LOGITS
    if "iou" in expected:
        assert differ(found["iou"], expected["iou"]) < LOGITS


def test_three_masks_for_one_click(fixture: dict[str, Any], network: Samus):
    inputs, expected = fixture["inputs"], fixture["outputs"]["point_a_multimask"]
    found = network(inputs["img1"], (inputs["point_a"], inputs["point_a_label"]), multimask=True)
    assert differ(found["low_res_logits"], expected["low_res_logits"]) < LOGITS
    assert differ(found["iou"], expected["iou"]) < LOGITS


def test_many_objects_of_one_encoded_image(fixture: dict[str, Any], network: Samus):
    """`decode`, which the pipeline calls, and `forward` are one computation."""
    inputs = fixture["inputs"]
    with torch.inference_mode():
        embedding = network.encode(inputs["img1"][:1])
        logits, quality = network.decode(embedding, points=inputs["points_c"][0], labels=inputs["points_c_label"][0])
    assert differ(logits[None], fixture["outputs"]["points_c"]["low_res_logits"][:1]) < LOGITS
    assert quality.shape == (3,)


def test_more_prompts_than_are_decoded_together(fixture: dict[str, Any], network: Samus):
    """Each of 20 images keeps its own prompt where the decoder works in pieces."""
    points, labels = fixture["inputs"]["point_a"], fixture["inputs"]["point_a_label"]
    embedding = fixture["outputs"]["image_embeddings"].repeat(10, 1, 1, 1)
    with torch.inference_mode():
        sparse, dense = network.embed(None, points.repeat(10, 1, 1), labels.repeat(10, 1), None)
        logits, _ = network.mask_decoder(embedding, network.position(), sparse, dense)
    expected = fixture["outputs"]["point_a"]["low_res_logits"].repeat(10, 1, 1, 1)
    assert differ(logits[:, :1], expected) < LOGITS


def test_training_step_agrees_with_the_official_code(fixture: dict[str, Any], network: Samus):
    inputs, expected = fixture["inputs"], fixture["train"]
    network.freeze()
    trained = {name: value for name, value in network.named_parameters() if value.requires_grad}
    assert sorted(trained) == sorted(fixture["trainable"])
    logits = network(inputs["img1"], (inputs["point_a"], inputs["point_a_label"]))["low_res_logits"]
    loss = dice_entropy(logits, inputs["target_low"])
    assert loss.item() == pytest.approx(expected["loss"].item(), abs=1e-6)
    assert dice(logits, inputs["target_low"]).item() == pytest.approx(expected["dice"].item(), abs=1e-6)
    assert entropy(logits, inputs["target_low"]).item() == pytest.approx(expected["bce"].item(), abs=1e-6)
    gradients = torch.autograd.grad(loss, list(trained.values()))
    largest = max(float(norm) for norm, _ in expected["grad_norm_sum"].values())
    for name, gradient in zip(trained, gradients, strict=True):
        norm, total = expected["grad_norm_sum"][name].tolist()
        # The bias of the keys moves no softmax: its gradient is rounding.
        assert float(gradient.norm()) == pytest.approx(norm, rel=GRADIENT, abs=1e-8 * largest), name
        spread = norm * gradient.numel() ** 0.5
        assert float(gradient.double().sum()) == pytest.approx(total, abs=GRADIENT * spread + 1e-8 * largest), name


def test_positions_are_adapted_once_and_follow_the_weights(network: Samus):
    encoder = network.image_encoder
    with torch.no_grad():
        first = encoder.post_pos_embed(encoder.pos_embed)
        assert encoder.post_pos_embed(encoder.pos_embed) is first
        encoder.pos_embed += 1
        try:
            changed = encoder.post_pos_embed(encoder.pos_embed)
        finally:
            encoder.pos_embed -= 1
    assert differ(changed, first) > 1e-3


def test_positions_adapted_in_few_digits_are_not_kept_for_others(network: Samus):
    """`--precision auto` runs an encoder in bf16 and in fp32, one after the other."""
    encoder = network.image_encoder
    with torch.no_grad():
        exact = encoder.post_pos_embed.adapted(encoder.pos_embed)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            rounded = encoder.post_pos_embed(encoder.pos_embed)
        assert differ(rounded, exact) > 1e-4
        assert torch.equal(encoder.post_pos_embed(encoder.pos_embed), exact)


def test_sam_is_resized_as_the_official_code_does(fixture: dict[str, Any], tmp_path: Path):
    """The fixture holds the official loader's record on a small SAM: what it copied and what it made of the tables."""
    record = fixture["sam_to_samus"]
    sam = {key: fixture["state_dict"][key].float() for key in record["copied"]}
    sam |= {key: pair["in"].float() for key, pair in record["resized"].items()}
    torch.save(sam, tmp_path / "sam.pth")
    model, fresh = begin(fixture["config"], 0, [tmp_path / "sam.pth"])
    assert sorted(fresh) == sorted(record["new_in_samus"])
    state = model.state_dict()
    for key, pair in record["resized"].items():
        assert differ(state[key], pair["out"].float()) < 1e-6
    assert all(torch.equal(state[key], sam[key]) for key in record["copied"])
    del sam["mask_decoder.iou_token.weight"]
    torch.save(sam, tmp_path / "less.pth")
    with pytest.raises(ModelError, match="iou_token"):
        begin(fixture["config"], 0, [tmp_path / "less.pth"])


@pytest.mark.parametrize("variant", ["vit-b", "vit-l", "vit-h"])
def test_blocks_are_told_by_number(variant: str):
    """The official code looks for the digits 2, 5, 8 and 11 anywhere in a name."""
    with torch.device("meta"):
        model = Samus(config_of({"variant": variant}))
    model.freeze()
    tables = {
        name.split(".")[2] for name, value in model.named_parameters() if "rel_pos" in name and value.requires_grad
    }
    assert tables == {str(index) for index in VARIANTS[variant]["global_attn_indexes"]}


@pytest.mark.parametrize("variant", ["vit-b", "vit-l", "vit-h"])
def test_tables_of_global_blocks_alone_are_resized(variant: str):
    """Of SAM's other two encoders the official loader resizes windowed blocks, and not all global ones."""
    config = config_of({"variant": variant})
    keys = {block: f"image_encoder.blocks.{block}.attn.rel_pos_h" for block in range(config.depth)}
    rows = {block: 127 if block in VARIANTS[variant]["global_attn_indexes"] else 27 for block in keys}
    made = from_sam({key: torch.arange(float(rows[block]))[:, None] for block, key in keys.items()}, config)
    assert {block: len(made[key]) for block, key in keys.items()} == {
        block: 63 if count == 127 else 27 for block, count in rows.items()
    }
    # Row i of 63 lies at (i + 1/2) 127/63 - 1/2 of 127.
    expected = (torch.arange(63) + 0.5) * 127 / 63 - 0.5
    assert differ(made[keys[config.global_attn_indexes[-1]]][:, 0], expected) < 1e-4


def test_loading_is_strict(tmp_path: Path):
    """Where the official loader takes what fits and leaves the rest random."""
    state = random_network(config_of(TINY), 0).state_dict()
    name = "image_encoder.blocks.0.MLP_Adapter.D_fc1.bias"
    lacking = {key: value for key, value in state.items() if key != name}
    for changed, why in (
        (lacking, f"1 keys missing.*{name}"),
        ({**state, "image_encoder.upneck.weight": torch.zeros(1)}, "1 unexpected.*upneck"),
        ({**state, name: torch.zeros(3)}, r"1 of another shape.*\(3,\), expected"),
    ):
        torch.save(changed, tmp_path / "odd.pth")
        with pytest.raises(ModelError, match=why):
            medseg_cli.load_model("samus", checkpoint=tmp_path / "odd.pth")


def test_published_size(shared: Path):
    """Names, shapes and what is trained, as listed from the official factory."""
    listing = (shared / "specs" / "samus_state_dict.txt").read_text(encoding="utf-8")
    both = [[line.split("\t") for line in part.splitlines() if line[:1] != "#"] for part in listing.split("\n\n")]
    base, added = both
    with torch.device("meta"):
        samus, auto = Samus(config_of({})), AutoSamus(Samus(config_of({})))
    for model, listed, marked in ((samus, base, base), (auto, base + added, added)):
        model.freeze()
        own = {name: str(tuple(value.shape)) for name, value in model.state_dict().items()}
        assert own == {name: shape for name, shape, _, _ in listed}
        trained = {name for name, value in model.named_parameters() if value.requires_grad}
        assert trained == {name for name, _, _, mark in marked if mark == "T"}


def test_autosamus_needs_no_prompt(tmp_path: Path):
    """Through a file, and against its equations written down again (no output of the official code is at hand)."""
    torch.manual_seed(0)
    made = AutoSamus(Samus(config_of(TINY))).eval()
    torch.save(made.state_dict(), tmp_path / "auto.pth")
    with pytest.raises(ModelError, match="layout 'autosamus'"):
        medseg_cli.load_model("samus", checkpoint=tmp_path / "auto.pth")
    model = medseg_cli.load_model("autosamus", checkpoint=tmp_path / "auto.pth")
    images = torch.rand(2, 1, 256, 256)
    with torch.inference_mode():
        found = model(images)
        embedding = model.image_encoder(images.expand(-1, 3, -1, -1))
        sparse, dense = independent_prompt(model.state_dict(), embedding)
        image, own_sparse, own_dense = model.prompted(embedding)
    assert found["masks"].shape == (2, 1, 256, 256)
    assert differ(own_sparse, sparse) < 1e-5
    assert differ(own_dense, dense) < 1e-5
    assert differ(image, embedding) > 1e-3, "the decoder sees a changed embedding"


def independent_prompt(state: dict[str, Tensor], embedding: Tensor) -> tuple[Tensor, Tensor]:
    """Section 6 of the specification, one head and one image after the other, in float64."""
    weights = {key: value.double() for key, value in state.items()}

    def norm(x: Tensor, name: str) -> Tensor:
        return F.layer_norm(x, x.shape[-1:], weights[f"{name}.weight"], weights[f"{name}.bias"])

    def cross(x: Tensor, y: Tensor, name: str) -> Tensor:
        q = norm(x, f"{name}.norm1") @ weights[f"{name}.fn.to_q.weight"].T
        k, v = (norm(y, f"{name}.norm2") @ weights[f"{name}.fn.to_kv.weight"].T).split(512, dim=-1)
        heads = []
        for head in range(8):
            part = slice(64 * head, 64 * head + 64)
            s = q[:, part] @ k[:, part].T / 8
            e = torch.exp(s - s.max(1, keepdim=True).values)
            heads.append(e / (1 + e.sum(1, keepdim=True)) @ v[:, part])
        return torch.cat(heads, 1) @ weights[f"{name}.fn.to_out.0.weight"].T + weights[f"{name}.fn.to_out.0.bias"]

    def feed(x: Tensor, name: str) -> Tensor:
        hidden = norm(x, f"{name}.norm") @ weights[f"{name}.fn.net.0.weight"].T + weights[f"{name}.fn.net.0.bias"]
        return hidden.relu() @ weights[f"{name}.fn.net.3.weight"].T + weights[f"{name}.fn.net.3.bias"]

    def both(a: Tensor, b: Tensor, name: str) -> tuple[Tensor, Tensor]:
        for layer in range(2):
            at = f"prompt_generator.{name}.layers.{layer}"
            a, b = a + cross(a, b, f"{at}.0"), b + cross(b, a, f"{at}.1")
            a, b = a + feed(a, f"{at}.2"), b + feed(b, f"{at}.3")
        return a, b

    learned = torch.cat([weights["mask_decoder.iou_token.weight"], weights["mask_decoder.mask_tokens.weight"]])
    objects = weights["prompt_generator.object_token"][0]
    sparse, dense = [], []
    for one in embedding.double():
        found, _ = both(objects, learned, "cross_token_token")
        found = found @ weights["prompt_generator.token_proj.weight"].T + weights["prompt_generator.token_proj.bias"]
        image, tokens = both(one.flatten(1).T, torch.cat([found + objects, learned]), "cross_image_token")
        x = image.T.reshape(one.shape)[None]
        for step in range(4):
            x = F.conv2d(x, weights[f"feature_adapter.{3 * step}.weight"], padding=1).permute(0, 2, 3, 1)
            at = f"feature_adapter.{3 * step + 1}"
            x = F.layer_norm(x, x.shape[-1:], weights[f"{at}.weight"], weights[f"{at}.bias"], 1e-6)
            x = F.gelu(x.permute(0, 3, 1, 2))
        sparse.append(tokens[:1])
        dense.append(x[0])
    return torch.stack(sparse).float(), torch.stack(dense).float()


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"embed_dim": 50}, "not divisible"),
        ({"img_size": 512}, "img_size is 256"),
        ({"patch_size": 16}, "patch_size is 8"),
        ({"variant": "vit-x"}, "no variant"),
        ({"width": 3}, "unknown"),
        ({"depth": 0}, "depth cannot be"),
        ({"global_attn_indexes": [2, 30]}, "beyond depth"),
    ],
)
def test_wrong_configurations_are_refused(values: dict[str, Any], message: str):
    with pytest.raises(ModelError, match=message):
        medseg_cli.load_model("samus", **values)


def test_wrong_inputs_are_refused():
    model = medseg_cli.load_model("samus", **TINY)
    with pytest.raises(ModelError, match=r"images of shape \(1, 3, 128, 128\)"):
        model(torch.rand(1, 3, 128, 128))
    with pytest.raises(ModelError, match="1 prompts for 2 images"):
        model(torch.rand(2, 1, 256, 256), boxes=torch.tensor([[1.0, 1, 9, 9]]))


def test_without_a_prompt_every_image_has_a_mask():
    model = medseg_cli.load_model("samus", **TINY)
    images = torch.rand(2, 1, 256, 256, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        assert model(images)["masks"].shape == (2, 1, 256, 256)


def test_bytes_are_divided_by_255_and_nothing_else():
    picture = np.full((40, 60, 3), 51, np.uint8)
    picture[:, 30:] = 204
    frame = Frame(40, 60, 256, fit="stretch", scale="byte").image(picture)
    assert frame[:, 128, 10].tolist() == pytest.approx([0.2] * 3)
    assert frame[:, 128, 250].tolist() == pytest.approx([0.8] * 3)


@pytest.mark.parametrize("prompt", [("--point", "30,20"), ("--box", "5,5,50,30")])
def test_segment_a_picture(tmp_path: Path, run_medseg: Callable[..., Any], prompt: tuple[str, str]):
    """With a tiny checkpoint: the mask is what the network says, put back onto the picture's own pixels."""
    config = config_of(TINY)
    torch.save(random_network(config, 3).state_dict(), tmp_path / "tiny.pth")
    rng = np.random.default_rng(0)
    picture = rng.integers(0, 256, (40, 60), dtype=np.uint8)
    Image.fromarray(picture).save(tmp_path / "us.png")
    done = run_medseg(
        "segment", tmp_path / "us.png", "-o", tmp_path / "mask.png", "--preset", "samus",
        "--weights", tmp_path / "tiny.pth", *prompt,
    )  # fmt: skip
    assert done.rc == 0, done.stderr
    model = medseg_cli.load_model("samus", checkpoint=tmp_path / "tiny.pth")
    frame = Frame(40, 60, 256, fit="stretch", scale="byte")
    image = frame.image(np.repeat(picture[..., None], 3, 2))[None]
    if prompt[0] == "--point":
        points = frame.points(np.array([[30.0, 20.0]]))
        found = model(image, (points[None], torch.ones(1, 1)))
    else:
        found = model(image, boxes=frame.boxes(np.array([[5.0, 5.0, 50.0, 30.0]])))
    expected = frame.restore(found["low_res_logits"][0])[0] > 0
    mask = np.asarray(Image.open(tmp_path / "mask.png")) > 0
    assert mask.shape == (40, 60)
    assert np.mean(mask == expected.numpy()) > 0.999
