"""Words as prompts of CC-SAM: what the network is told is what was said, alone, with clicks, and in every slice."""

from __future__ import annotations

import csv
import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import tiny_bert
import tiny_cc_sam
import torch
from PIL import Image
from safetensors.torch import save_file

from medseg_cli import device, pipelines, preset
from medseg_cli.asked import Asked
from medseg_cli.batch.case import BatchCase
from medseg_cli.batch.plan import problem
from medseg_cli.errors import InputError, ModelError, UsageError
from medseg_cli.models.cc_sam.bank import bank_of, meaning, read_bank
from medseg_cli.models.cc_sam.checkpoint import random_network
from medseg_cli.models.cc_sam.config import config_of
from medseg_cli.models.cc_sam.network import CcSam
from medseg_cli.models.cc_sam.table import load_table, read_table
from medseg_cli.pipelines.cc_sam_plan import plan
from medseg_cli.pipelines.slice_run import SliceRun
from medseg_cli.prompt import Box, Click, Prompt, Target, Text
from medseg_cli.readers import load_scan
from medseg_cli.readers.options import ReadOptions
from medseg_cli.stages import Stages
from medseg_cli.weights.layouts import identify

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture(scope="module")
def network() -> CcSam:
    return random_network(config_of(tiny_cc_sam.SIZES), 0).eval()


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    """256 x 256 grey pixels: the network's own frame, so that nothing is resized."""
    grey = np.random.default_rng(5).integers(0, 256, (256, 256), np.uint8)
    Image.fromarray(grey).save(tmp_path / "us.png")
    return tmp_path / "us.png"


def answer(network: CcSam, scan: Path | np.ndarray, **prompts: torch.Tensor) -> np.ndarray:
    """(256, 256) bool, what the network itself says to prompts in its frame."""
    grey = np.array(Image.open(scan)) if isinstance(scan, Path) else scan
    with torch.inference_mode():
        found = network(torch.from_numpy(grey / np.float32(255))[None, None], **prompts)
    return (found["masks"][0, 0] > 0).numpy()


HEAD, CLOSED = tiny_cc_sam.vectors()["head"][:2]
CLICK = {"points": torch.tensor([[[100.0, 60.0]]]), "labels": torch.ones(1, 1)}


@pytest.mark.parametrize(
    ("options", "told", "name"),
    [
        ([], {}, "fetal head"),
        (["--text", "the Fetal  head"], {"text": HEAD[None]}, "fetal head"),
        (["--text", "skull of the fetus."], {"text": HEAD[None]}, "fetal head"),
        (["--text", "x=a bright, closed line"], {"text": CLOSED[None]}, "x"),
        (["--text", "x=fetal head", "--text", "x=A bright, closed line."], {"text": (HEAD + CLOSED)[None] / 2}, "x"),
        (["--point", "100,60"], CLICK, "fetal head"),
        (["--text", "fetal_head", "--point", "100,60"], CLICK | {"text": HEAD[None]}, "fetal head"),
    ],
)
def test_the_mask_is_what_the_network_says_to_these_words(
    in_process: Run, picture: Path, tmp_path: Path, network: CcSam, options: list[str], told: Any, name: str
) -> None:
    wanted = tiny_cc_sam.preset(tmp_path / "p")

    code, _, err = in_process("segment", picture, "-o", "m.png", "--preset", wanted, "--random-weights", *options)

    assert code == 0, err
    mask = np.array(Image.open(tmp_path / "m.png")) > 0
    expected = answer(network, picture, **told)
    assert (mask != expected).mean() < 1e-3
    assert 0.001 < expected.mean() < 0.999
    report = json.loads((tmp_path / "m.json").read_text())
    assert report["labels"][0]["name"] == name
    assert report["prompts"][0]["whole_image"] is (not options)


def test_texts_and_no_text_give_different_masks(picture: Path, network: CcSam) -> None:
    """What the test above compares would otherwise say nothing."""
    masks = [answer(network, picture, **told) for told in ({}, {"text": HEAD[None]}, {"text": CLOSED[None]}, CLICK)]
    masks.append(answer(network, picture, text=HEAD[None], **CLICK))
    for number, first in enumerate(masks):
        assert all((first != other).mean() > 2e-3 for other in masks[:number])


def test_volumes_are_looked_at_slice_by_slice_without_a_place(in_process: Run, tmp_path: Path, network: CcSam) -> None:
    grey = np.random.default_rng(6).integers(0, 256, (256, 256, 3), np.uint8)
    grey[0, :2, :] = [[0], [255]]
    nib.save(nib.Nifti1Image(grey, np.diag([-1.0, -1.0, 4.0, 1.0])), tmp_path / "v.nii.gz")
    wanted = tiny_cc_sam.preset(tmp_path / "p")
    run = ("segment", "v.nii.gz", "--preset", wanted, "--random-weights")

    for name, options, told in (
        ("none", (), {}),
        ("text", ("--text", "breast lesion"), {"text": tiny_cc_sam.vectors()["lesion"][:1]}),
    ):
        code, _, err = in_process(*run, "-o", f"{name}.nii.gz", *options)
        assert code == 0, err
        mask = np.asarray(nib.load(tmp_path / f"{name}.nii.gz").dataobj)
        report = json.loads((tmp_path / f"{name}.json").read_text())["pipeline"]
        assert report["slices"]["prompted"] == 3
        assert report["objects"][0]["propagation"] == []
        # In LPS along i and j, a picture's rows run along j and its columns along i.
        for index in range(3):
            expected = answer(network, np.ascontiguousarray(grey[:, :, index].T), **told)
            assert (mask[:, :, index].T.astype(bool) != expected).mean() < 1e-3
    heard = json.loads((tmp_path / "text.json").read_text())["pipeline"]["objects"][0]["heard"]
    assert heard == [{"class": "lesion", "row": 0}]


def test_words_go_with_every_prompt_of_an_object(picture: Path, tmp_path: Path, monkeypatch: Any) -> None:
    """Into each box of several, and into slices that an object is followed to."""
    chosen = preset.load(tiny_cc_sam.preset(tmp_path / "p"))
    made = pipelines.build(chosen, device.select("cpu", "fp32", 0, False), random_weights=True)
    scan = load_scan(picture)
    deep = replace(scan, voxels=np.repeat(scan.voxels, 3, axis=3))
    told: list[dict[str, Any]] = []
    decode = made.model.decode
    monkeypatch.setattr(made.model, "decode", lambda embedding, **each: told.append(each) or decode(embedding, **each))
    monkeypatch.setattr(SliceRun, "_end", lambda self, front, rules: "" if front.at == 1 else "enough")
    boxes = (Box((20.0, 30.0, 1.0), (90.0, 100.0, 1.0)), Box((120.0, 130.0, 1.0), (190.0, 200.0, 1.0)))
    clicks = (Click((220.0, 20.0, 1.0)),)

    made.segment(deep, Prompt((Target("1", "", clicks, boxes, text=Text(("fetal head",))),)), Stages())

    assert len(told) >= 4, "two boxes, a click, and at least one slice more"
    assert all(torch.equal(each["text"][0], HEAD) for each in told)


@pytest.mark.parametrize(
    ("options", "message", "hint"),
    [
        (["--text", "liver"], "'liver' is no text of preset tiny-cc-sam", "fetal head, breast lesion"),
        (["--text", "fetal head", "--not", "liver"], "nothing of what it is not", "--not"),
        (["--text", "a=fetal head", "--text", "b=breast lesion", "--point", "3,4"], "--text means 2 objects", "name"),
        (["--text", "a=fetal head", "--point", "3,4", "--label", "b"], "both name", "one out"),
        (["--text", "fetal head", "--prompts", "p.csv"], "--text does not go with --prompts", ""),
        (["--text", "fetal head", "--explain"], "no map of where words and scan agree", "--explain"),
    ],
)
@pytest.mark.parametrize("known", ["in the preset", "in the table"])
def test_what_cannot_be_heard_is_refused(
    in_process: Run, picture: Path, tmp_path: Path, options: list[str], message: str, hint: str, known: str
) -> None:
    (tmp_path / "p.csv").write_text("x,y\n3,4\n")
    texts = {"texts": tiny_cc_sam.BANK} if known == "in the preset" else {}
    wanted = tiny_cc_sam.preset(tmp_path / "p", **texts)
    code, _, err = in_process("segment", picture, "-o", "m.png", "--preset", wanted, "--random-weights", *options)
    assert (code, message in err, hint in err) == (2, True, True), err
    assert not (tmp_path / "m.png").exists()


def test_a_batch_says_what_could_be_said_instead(in_process: Run, picture: Path, tmp_path: Path) -> None:
    (tmp_path / "scans").mkdir()
    (tmp_path / "scans" / picture.name).write_bytes(picture.read_bytes())
    wanted = tiny_cc_sam.preset(tmp_path / "p", texts=tiny_cc_sam.BANK)
    run = ("batch", tmp_path / "scans", "-o", "out", "--preset", wanted, "--random-weights", "--jobs", 0)
    code, _, err = in_process(*run, "--text", "liver")
    assert (code, "fetal head, breast lesion" in err, "manifest" in err) == (2, True, False), err


def test_a_batch_says_a_broken_bank_of_its_own_cases_alone(tmp_path: Path) -> None:
    """A manifest may name other presets for others."""
    broken = preset.find(str(tiny_cc_sam.preset(tmp_path, texts={"Head": {}})))
    models: Any = SimpleNamespace(preset=lambda name: (broken, "fingerprint"))
    found = problem(
        BatchCase("a", tmp_path / "a.png", ReadOptions(), Asked((), (), "ijk", "", None, None, None, ("head",))), models
    )
    assert isinstance(found, ModelError)
    assert "options.texts: 'Head' is no key of a class" in found.message


def test_another_pipeline_takes_no_language_model(in_process: Run, picture: Path) -> None:
    code, _, err = in_process(
        "segment",
        picture,
        "-o",
        "m.png",
        "--preset",
        "samus",
        "--random-weights",
        "--point",
        "3,4",
        "--text-model",
        "x",
    )
    assert (code, "takes no other language model" in err) == (2, True)


# Tables


@pytest.fixture(scope="module")
def bert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_bert.save(tmp_path_factory.mktemp("bert"))


def by_hand(bert: Path, text: str) -> torch.Tensor:
    """(12,) mean over the tokens of the last layer, of at most 128 tokens."""
    from transformers import BertModel

    words = (bert / "vocab.txt").read_text().split()
    spelt = text.lower().replace(",", " ,").replace(".", " .").split()
    tokens = [2, *[words.index(each) if each in words else 1 for each in spelt][:126], 3]
    model = BertModel.from_pretrained(bert, add_pooling_layer=False).eval()
    with torch.inference_mode():
        return model(torch.tensor([tokens])).last_hidden_state[0].mean(0)


def test_a_bank_is_embedded_by_the_mean_of_the_last_layer(in_process: Run, tmp_path: Path, bert: Path) -> None:
    long = "head " * 190 + "."
    bank = {**tiny_cc_sam.BANK, "lesion": {"phrase": "breast lesion", "descriptions": ["A dark mass.", long]}}
    (tmp_path / "bank.json").write_text(json.dumps(bank))

    code, out, err = in_process("weights", "embed-text", "bank.json", "--model", bert, "-o", "t.safetensors")

    assert code == 0, err
    assert (out.strip(), "lesion: 1 of 3 texts are longer" in err) == ("t.safetensors", True)
    table = load_table(tmp_path / "t.safetensors")
    assert {key: tuple(value.shape) for key, value in table.vectors.items()} == {"head": (3, 12), "lesion": (3, 12)}
    for key, texts in table.bank.items():
        for row, text in enumerate((*texts.descriptions, texts.phrase)):
            torch.testing.assert_close(table.vectors[key][row], by_hand(bert, text), atol=1e-6, rtol=1e-5)
    assert in_process("weights", "embed-text", "bank.json", "--model", bert, "-o", "t.safetensors")[0] == 3
    in_process("weights", "embed-text", "bank.json", "--model", bert, "-o", "again.safetensors")
    assert (tmp_path / "again.safetensors").read_bytes() == (tmp_path / "t.safetensors").read_bytes()


def test_the_text_tower_of_a_preset_embeds_too(in_process: Run, tmp_path: Path) -> None:
    import medseg_cli
    from medseg_cli.pipelines.text_words import words_beside

    code, out, err = in_process(
        *(
            "weights",
            "embed-text",
            "ultrasound",
            "--model",
            "text-demo",
            "-o",
            "t.safetensors",
            "--class",
            "fetal_head",
        ),
        "--json",
    )

    assert code == 0, err
    assert json.loads(out)["shapes"] == {"fetal_head": [9, 64]}
    demo = preset.find("text-demo")
    assert demo.weights_file is not None
    tower = medseg_cli.load_model("biomedclip", checkpoint=demo.weights_file, **demo.model)
    tokens, _ = words_beside(demo, None)([read_bank("ultrasound")["fetal_head"].descriptions[0]])
    row = load_table(tmp_path / "t.safetensors").vectors["fetal_head"][0]
    torch.testing.assert_close(row, tower.encode_text(tokens)[0].detach(), atol=1e-5, rtol=1e-5)


def test_a_language_model_embeds_what_the_table_does_not_hold(
    in_process: Run, picture: Path, tmp_path: Path, network: CcSam, bert: Path
) -> None:
    wanted = tiny_cc_sam.preset(tmp_path / "p")
    run = ("segment", picture, "--preset", wanted, "--random-weights", "--overwrite", "-o", "m.png")

    code, _, err = in_process(*run, "--text", "a dark ellipse", "--text-model", bert)

    assert code == 0, err
    expected = answer(network, picture, text=by_hand(bert, "a dark ellipse")[None])
    assert ((np.array(Image.open(tmp_path / "m.png")) > 0) != expected).mean() < 1e-3
    report = json.loads((tmp_path / "m.json").read_text())
    assert report["pipeline"]["objects"][0]["heard"] == [{"class": None, "row": None}]
    assert any("none of the texts of preset tiny-cc-sam" in note for note in report["notes"])
    # A folder that a preset names lies beside it.
    shutil.copytree(bert, tmp_path / "p/bert")
    tiny_cc_sam.preset(tmp_path / "p", text_model="bert")
    first = (tmp_path / "m.png").read_bytes()
    assert in_process(*run, "--text", "a dark ellipse")[0] == 0
    assert (tmp_path / "m.png").read_bytes() == first
    code, _, err = in_process(*run, "--text", "a dark ellipse", "--text-model", "text-demo")
    assert (code, "embeddings of 64 numbers, preset tiny-cc-sam takes 12" in err) == (4, True)


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["nothing.json", "--model", "text-demo"], 3, "cannot read nothing.json"),
        (["bad.json", "--model", "text-demo"], 3, "is no JSON of texts"),
        (["twice.json", "--model", "text-demo"], 3, "'a' is there twice"),
        (["ultrasound", "--model", "samus"], 4, "preset samus has no text tower"),
        (["ultrasound", "--model", "folder"], 4, "holds no language model"),
        (["ultrasound", "--model", "text-demo", "--class", "liver"], 2, "ultrasound has no class 'liver'"),
    ],
)
def test_what_cannot_be_embedded_is_refused(
    in_process: Run, tmp_path: Path, arguments: list[str], code: int, message: str
) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "bad.json").write_text("{")
    (tmp_path / "twice.json").write_text('{"a": {}, "a": {}}')
    found, _, err = in_process("weights", "embed-text", *arguments, "-o", "t.safetensors")
    assert (found, message in err) == (code, True), err
    assert not (tmp_path / "t.safetensors").exists()


def test_weights_of_a_language_model_that_lack_a_layer_are_refused(in_process: Run, tmp_path: Path, bert: Path) -> None:
    """Transformers would draw it at random and say nothing that anybody reads."""
    shutil.copytree(bert, tmp_path / "lame")
    facts = json.loads((tmp_path / "lame/config.json").read_text())
    (tmp_path / "lame/config.json").write_text(json.dumps({**facts, "num_hidden_layers": 3}))
    code, _, err = in_process("weights", "embed-text", "ultrasound", "--model", "lame", "-o", "t.safetensors")
    assert (code, "lack" in err) == (4, True), err


def test_the_shipped_bank_holds_six_published_classes_and_the_fetal_head() -> None:
    bank = read_bank("ultrasound")
    assert set(bank) == {
        *("thyroid_nodule", "thyroid_gland", "breast_lesion", "lv_cavity", "lv_myocardium", "left_atrium", "fetal_head")
    }
    for key, texts in bank.items():
        assert len(set(texts.rows)) == 9
        assert meaning(bank, f"The {texts.phrase}.") == meaning(bank, key) == (key, 0)
        assert meaning(bank, texts.descriptions[5]) == (key, 5)
    assert meaning(bank, "liver") is None


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"other": {"phrase": "Fetal head", "descriptions": ["x"]}}, "means both head and other"),
        ({"Other": {"phrase": "x", "descriptions": ["x"]}}, "no key of a class"),
        ({"other": {"phrase": "x", "descriptions": []}}, "other.descriptions"),
        ({"other": {"phrase": "x", "descriptions": ["x"], "more": 1}}, "other.more"),
    ],
)
def test_banks_that_could_mean_two_things_are_refused(change: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        bank_of({**tiny_cc_sam.BANK, **change})


def test_tables_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    path = tiny_cc_sam.preset(tmp_path)
    base = preset.load(path)
    table = read_table(base)
    assert table is not None
    assert table.made_by == "by hand"
    with pytest.raises(ModelError, match=r"are not the texts of"):
        read_table(base.model_copy(update={"options": {**base.options, "texts": {"head": tiny_cc_sam.BANK["lesion"]}}}))
    with pytest.raises(ModelError, match="embeddings of 12 numbers, preset tiny-cc-sam takes 13"):
        read_table(base.model_copy(update={"model": {**base.model, "text_dim": 13}}))
    fewer = {**tiny_cc_sam.BANK, "lesion": {"phrase": "breast lesion", "descriptions": ["a", "b"]}}
    tiny_cc_sam.table(tmp_path / "table.safetensors", fewer)
    with pytest.raises(ModelError, match=r"lesion has 3 texts and embeddings of shape \(2, 12\)"):
        read_table(base)
    for facts in (None, {"medseg.texts": "{"}, {"medseg.texts": "[" * 5000}):
        save_file(tiny_cc_sam.vectors(), tmp_path / "table.safetensors", facts)
        with pytest.raises(ModelError, match="its header does not say which"):
            read_table(base)
    facts = {"medseg.texts": json.dumps(tiny_cc_sam.BANK)}
    save_file({k: v / 0 for k, v in tiny_cc_sam.vectors().items()}, tmp_path / "table.safetensors", facts)
    with pytest.raises(ModelError, match="head has embeddings that are not finite numbers"):
        read_table(base)
    with pytest.raises(InputError, match="cannot read"):
        read_bank(str(tmp_path / "nothing.json"))


@pytest.fixture
def trained(tmp_path: Path) -> Path:
    """What a training leaves: preset and weights in one folder, and no table beside them."""
    planned = plan(preset.load(tiny_cc_sam.preset(tmp_path / "p")), {}, ())
    network = random_network(config_of(planned.model), 0)
    table = read_table(planned)
    assert table is not None
    assert network.text_rows is not None
    network.text_rows.fill(table)
    (tmp_path / "run").mkdir()
    save_file(network.state_dict(), tmp_path / "run/w.safetensors")
    options = {name: value for name, value in planned.options.items() if name != "text_table"}
    ready = tiny_cc_sam.preset(tmp_path / "run", planned.model, {"file": "w.safetensors"}, **options, text_table=None)
    (tmp_path / "run/table.safetensors").unlink()
    return ready


def test_a_planned_preset_keeps_its_texts_in_its_weights(
    in_process: Run, picture: Path, tmp_path: Path, network: CcSam, trained: Path
) -> None:
    code, _, err = in_process("segment", picture, "-o", "m.png", "--preset", trained, "--text", "a bright, closed line")

    assert code == 0, err
    expected = answer(network, picture, text=CLOSED[None])
    assert ((np.array(Image.open(tmp_path / "m.png")) > 0) != expected).mean() < 1e-3


@pytest.mark.parametrize(
    ("options", "told"), [(("text", "--text", "fetal head"), {"text": HEAD[None]}), (("none",), {})]
)
def test_evaluations_tell_all_cases_the_same(
    in_process: Run, tmp_path: Path, network: CcSam, trained: Path, options: tuple[str, ...], told: Any
) -> None:
    rng = np.random.default_rng(8)
    (tmp_path / "us/images").mkdir(parents=True)
    (tmp_path / "us/masks").mkdir()
    wanted = {}
    for name in ("a", "b"):
        grey, mask = rng.integers(0, 256, (256, 256), np.uint8), np.zeros((256, 256), np.uint8)
        mask[60:200, 40:220] = 255
        Image.fromarray(grey).save(tmp_path / f"us/images/{name}.png")
        Image.fromarray(mask).save(tmp_path / f"us/masks/{name}.png")
        found = answer(network, grey, **told)
        wanted[name] = 2 * (found & (mask > 0)).sum() / (found.sum() + (mask > 0).sum())

    code, _, err = in_process("evaluate", "us", "--preset", trained, "--cases", "all", "-o", "ev", "--prompt", *options)

    assert code == 0, err
    with (tmp_path / "ev/cases.csv").open(newline="") as file:
        assert {row["case"]: float(row["Dice"]) for row in csv.DictReader(file)} == pytest.approx(wanted, abs=2e-3)


def test_evaluations_ask_with_words_that_the_preset_knows(in_process: Run, tmp_path: Path, trained: Path) -> None:
    run = ("evaluate", tmp_path, "--preset", trained, "--prompt", "text")
    code, _, err = in_process(*run)
    assert (code, 'add --text "fetal head"' in err) == (2, True), err
    code, _, err = in_process(*run, "--text", "liver")
    assert (code, "'liver' is no text of preset tiny-cc-sam" in err) == (2, True), err
    code, _, err = in_process("evaluate", tmp_path, "--preset", trained, "--prompt", "none", "--text-model", "bert")
    assert (code, "--text-model embeds what --text says" in err) == (2, True), err


def test_evaluations_take_the_language_model_that_the_hint_names(
    in_process: Run, tmp_path: Path, trained: Path, bert: Path
) -> None:
    grey, mask = np.full((256, 256), 90, np.uint8), np.zeros((256, 256), np.uint8)
    mask[60:200, 40:220] = 255
    for folder, values in (("images", grey), ("masks", mask)):
        (tmp_path / "us" / folder).mkdir(parents=True)
        Image.fromarray(values).save(tmp_path / "us" / folder / "a.png")
    run = ("evaluate", "us", "--preset", trained, "--cases", "all", "-o", "ev", "--text", "a dark ellipse")
    code, _, err = in_process(*run, "--prompt", "text", "--text-model", bert)
    assert code == 0, err
    assert json.loads((tmp_path / "ev/summary.json").read_text())["text_model"] == bert.name


def test_labels_of_a_planned_preset_are_classes_of_its_table(tmp_path: Path) -> None:
    """Else its texts would never be learnt, and nobody would notice."""
    base = preset.load(tiny_cc_sam.preset(tmp_path))
    plain = base.model_copy(update={"labels": (base.labels[0].model_copy(update={"name": "object"}),)})
    assert plan(base, {1: "x"}, ()).labels == base.labels
    assert [label.name for label in plan(plain, {1: "Breast_lesion", 2: "x"}, ()).labels] == ["Breast_lesion", "x"]
    with pytest.raises(UsageError, match="the table of texts knows fetal head, breast lesion, and the labels are obj"):
        plan(plain, {1: "x"}, ())
    save_file(
        {"lesion": tiny_cc_sam.vectors()["lesion"]},
        tmp_path / "table.safetensors",
        {"medseg.texts": json.dumps({"lesion": tiny_cc_sam.BANK["lesion"]})},
    )
    assert [label.name for label in plan(plain, {1: "x"}, ()).labels] == ["breast lesion"]


def test_a_preset_without_a_table_says_so(in_process: Run, picture: Path, tmp_path: Path) -> None:
    wanted = tiny_cc_sam.preset(tmp_path / "p", text_table=None)
    code, _, err = in_process(
        "segment", picture, "-o", "m.png", "--preset", wanted, "--random-weights", "--text", "fetal head"
    )
    assert (code, "has no table of texts" in err) == (2, True)


@pytest.mark.parametrize(
    ("change", "layout"),
    [
        ({}, "cc-sam"),
        ({"fusion": "none", "cnn": "none"}, "cc-sam"),
        ({"text": False}, "cc-sam"),
        ({"adapters": False, "text": False, "fusion": "none", "cnn": "none"}, "cc-sam"),
        ({"cnn": "samus"}, "cc-sam"),
        ({"cnn": "samus", "fusion": "samus"}, "cc-sam"),
        ({"cnn": "samus", "fusion": "samus", "text": False}, "samus"),
    ],
)
def test_checkpoints_are_told_from_those_of_samus(change: dict[str, Any], layout: str) -> None:
    assert identify(random_network(config_of({**tiny_cc_sam.SIZES, **change}), 0).state_dict()).layout == layout
