"""The weakly supervised stage: cyclic rates, kept checkpoints, ensembles, doubt, and a batch as a data set."""

from __future__ import annotations

import hashlib
import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import batch_stand_in as stand_in
import numpy as np
import pytest
import torch
from balls import write_balls
from PIL import Image
from test_sam_unet_training import TINY, tiny_preset
from toy_recipe import SPLIT, Toy

from medseg_cli import pipelines, preset
from medseg_cli.datasets import read_dataset
from medseg_cli.device import select
from medseg_cli.errors import InputError, ModelError, UsageError
from medseg_cli.models import dynunet
from medseg_cli.models.dynunet import DynunetConfig
from medseg_cli.models.sam_unet.checkpoint import random_network
from medseg_cli.models.sam_unet.config import config_of
from medseg_cli.pipelines.class_ensemble import ClassEnsemble
from medseg_cli.pipelines.slice_ensemble import SliceEnsemble, mean_logits
from medseg_cli.pipelines.text_report import judged
from medseg_cli.training.loop import fit
from medseg_cli.training.plan import Plan, Stepped, Wishes, check_same
from medseg_cli.uncertainty import border, doubt, entropy

# Rates: 600 epochs in 3 cycles, as the specification counts them (section 7)


def cyclic(gamma: float, released: bool) -> Plan:
    return Plan(steps=600, cycles=3, gamma=gamma, keep=10, released_rate=released, warmup=0.0, learning_rate=0.01)


def test_the_published_rate_hardly_falls() -> None:
    for gamma, plateau in ((0.5, 0.00849), (0.8, 0.00756)):
        plan = cyclic(gamma, released=True)
        rates = [0.01 * plan.rate(step) for step in range(600)]
        assert rates[0] == rates[200] == rates[400] == 0.01
        assert rates[1] == pytest.approx(0.01 * (1 - 1 / 600) ** 0.9)
        assert rates[199] == rates[int(gamma * 200)] == pytest.approx(plateau, abs=5e-6)
        assert rates[:200] == rates[200:400] == rates[400:]


def test_ours_falls_within_each_cycle() -> None:
    plan = cyclic(0.8, released=False)

    rates = [plan.rate(step) for step in range(600)]

    assert rates[0] == rates[200] == rates[400] == 1
    assert rates[100] == pytest.approx(0.5**0.9)
    # 0.2 to the power of 0.9
    assert rates[160] == rates[199] == rates[599] == pytest.approx(0.234924, abs=1e-6)
    assert cyclic(1.0, released=False).rate(199) == pytest.approx((1 / 200) ** 0.9)
    # With a warm-up the first cycle alone begins below its peak; one cycle is the plain schedule.
    warm = replace(plan, warmup=0.01)
    assert (warm.rate(0), warm.rate(5), warm.rate(200)) == (pytest.approx(1 / 6), 1, 1)
    assert replace(plan, cycles=1).rate(300) == Plan(steps=600, warmup=0.0).rate(300)


def test_what_is_kept_lies_where_the_rate_stays() -> None:
    assert cyclic(0.5, released=True).kept[:10] == (110, 120, 130, 140, 150, 160, 170, 180, 190, 200)
    assert cyclic(0.8, released=False).kept == tuple(
        200 * cycle + each for cycle in range(3) for each in (164, 168, 172, 176, 180, 184, 188, 192, 196, 200)
    )
    assert replace(cyclic(1.0, released=False), keep=3).kept == (198, 199, 200, 398, 399, 400, 598, 599, 600)
    assert Plan(steps=600).kept == ()


def test_cycles_divide_a_run() -> None:
    from medseg_cli.pipelines.defaults import Defaults

    # 5 cases in batches of 2 are 3 steps an epoch; 7 epochs 21, which two cycles make 22.
    assert Wishes(epochs=7, cycles=2).plan(Defaults(), 2, 5).steps == 22
    for wishes, words in (
        ({"steps": 7, "cycles": 2}, "--steps 7 cannot be divided into 2 cycles"),
        ({"steps": 8, "cycles": 2, "patience": 3}, "--patience contradicts --cycles"),
    ):
        with pytest.raises(UsageError, match=words):
            Wishes(**wishes)  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="a cycle of 4 steps has no 5 checkpoints"):
        Wishes(steps=8, cycles=2, keep=5).plan(Defaults(), 2, 5)
    # A plan that was written before there were cycles is one without.
    before = {key: value for key, value in vars(Plan(steps=9)).items() if key not in ("cycles", "gamma", "keep")}
    check_same("run", before, Plan(steps=9))
    with pytest.raises(ModelError, match="cycles 1, now 3"):
        check_same("run", before, Plan(steps=9, cycles=3))


def test_an_interrupted_run_keeps_the_same_checkpoints(tmp_path: Path) -> None:
    plan = Plan(steps=12, batch_size=2, validate_every=6, cycles=2, keep=2, gamma=0.5, seed=3)
    assert plan.kept == (5, 6, 11, 12)

    def stop(stepped: Stepped) -> None:
        if stepped.step == 11:
            raise InterruptedError

    fit(Toy(), SPLIT, plan, tmp_path / "straight", lambda line: None)
    with pytest.raises(InterruptedError):
        fit(Toy(), SPLIT, plan, tmp_path / "broken", lambda line: None, on_step=stop)
    # What was kept after the last checkpoint of the run is made again.
    made = sorted(path.name for path in (tmp_path / "broken" / "members").iterdir())
    assert made == ["step-0000005.safetensors", "step-0000006.safetensors", "step-0000011.safetensors"]
    fit(Toy(), SPLIT, plan, tmp_path / "broken", lambda line: None)
    files = [
        {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in (tmp_path / run / "members").iterdir()}
        for run in ("straight", "broken")
    ]
    assert files[0] == files[1]
    assert len(set(files[0].values())) == 4


# Doubt


def test_entropy_is_finite_where_nothing_is_in_doubt() -> None:
    found = entropy(torch.tensor([0.0, 0.25, 0.5, 1.0]))

    assert found.tolist() == pytest.approx([0, 0.811278, 1, 0], abs=1e-6)


def test_doubt_is_entropy_by_the_length_of_the_border() -> None:
    probability = torch.zeros(6, 7)
    probability[2:4, 3:5] = 1
    mask = probability > 0.5
    # Twelve pixels lie round two by two.
    assert int(border(mask).sum()) == 12
    assert doubt(probability, mask) == 0
    probability[0, :3] = 0.5
    assert doubt(probability, mask) == pytest.approx(100 * 3 / 12)
    assert doubt(probability, torch.zeros_like(mask)) is None
    # No border lies inside the picture: of one pixel at least, and no division by zero.
    assert doubt(torch.full((4, 4), 0.5), torch.ones(4, 4, dtype=torch.bool)) == pytest.approx(1600)
    assert int(border(torch.ones(4, 4, dtype=torch.bool)).sum()) == 0


def test_what_a_segmenter_doubts_comes_with_the_text() -> None:
    doubts = {"mean": 3.5, "most": 3.5, "slice": 0}
    said = [
        {"preset": "a", "asked": 0},
        {"preset": "b", "asked": 1, "objects": [{"id": "heart", "uncertainty": doubts, "predicted_iou": None}]},
    ]

    assert judged(said, "heart", None) == {"uncertainty": doubts, "predicted_iou": None}
    assert judged(said, "lungs", None) == {}


# Ensembles


def test_the_mean_is_that_of_probabilities() -> None:
    logits = torch.tensor([[2.0, -1.0, 400.0], [-0.5, -3.0, -399.0], [0.1, 5.0, 0.0]])

    mean = mean_logits(logits)

    assert mean.sigmoid().tolist() == pytest.approx(logits.sigmoid().mean(0).tolist(), abs=1e-6)
    assert torch.isfinite(mean_logits(torch.tensor([[400.0], [400.0]]))).all()
    # Not that of logits: one member that is very sure does not outvote two.
    assert mean_logits(torch.tensor([50.0, -1.0, -1.0])) < 0.2


def test_an_ensemble_is_a_network_of_slices() -> None:
    config = config_of(TINY)
    members = [random_network(config, seed).eval() for seed in (1, 2)]
    together = SliceEnsemble(members).eval()
    images, box = (
        torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0)),
        torch.tensor([[8.0, 9, 50, 40]]),
    )

    with torch.inference_mode():
        embeddings = together.encode(images)
        one = {name: value[:1] for name, value in embeddings.items()}
        found, score = together.decode(one, boxes=box, points=None, labels=None, masks=None)
        alone = []
        for member in members:
            own = {name: value[:1] for name, value in member.encode(images).items()}
            alone.append(member.decode(own, boxes=box, points=None, labels=None, masks=None))

    mean = torch.stack([logits.sigmoid() for logits, _ in alone]).mean(0)
    torch.testing.assert_close(found.sigmoid(), mean, atol=1e-5, rtol=0)
    assert not torch.allclose(alone[0][0], alone[1][0])
    scores = [each for _, each in alone if each is not None]
    assert (score is None) == (not scores)
    if score is not None:
        torch.testing.assert_close(score, torch.stack(scores).mean(0))


def test_an_ensemble_of_classes_has_their_mean_probability() -> None:
    steps = ((1, 1, 1), (2, 2, 2), (2, 2, 2))
    config = DynunetConfig(3, (4, 8, 8), ((3, 3, 3),) * 3, steps)
    members = [dynunet.random_network(config, seed).eval() for seed in (1, 2, 3)]
    image = torch.randn(1, 1, 8, 8, 8, generator=torch.Generator().manual_seed(0))

    with torch.inference_mode():
        together = ClassEnsemble(members).eval()(image)
        alone = torch.stack([member(image).softmax(1) for member in members])

    torch.testing.assert_close(together.exp(), alone.mean(0))
    assert not torch.allclose(alone[0], alone[1])


def test_volumes_are_segmented_together(in_process: Any, tmp_path: Path) -> None:
    """DynUNet from volumes: planned, trained in cycles, and its checkpoints answer as one."""
    data = write_balls(tmp_path / "Balls")
    base = preset.find("dynunet-baseline").model_copy(update={"options": {"patch_voxels": 4096, "base_filters": 4}})
    (tmp_path / "small.yaml").write_text(preset.dump(base))
    options = ("--preset", "small.yaml", "--steps", "4", "--cycles", "2", "--keep", "1", "--device", "cpu")
    code, _, err = in_process("finetune", data, "-o", "run", *options, "--tracker", "none")
    assert code == 0, err
    scan = data / "imagesTr" / "ball_0.nii.gz"
    code, _, err = in_process("segment", scan, "-o", "mask.nii.gz", "--preset", "run/ensemble.yaml")
    assert code == 0, err
    weights = json.loads(Path("mask.json").read_text())["weights"]
    assert len(weights["members"]) == 1
    assert weights["members"][0] != weights["sha256"]


# The chain: a batch draws masks, they train a network, its checkpoints answer together


def write_pictures(folder: Path, count: int = 12) -> Path:
    """Pictures 64 x 64 with a bright ellipse; in the last two it is cut off, and missing."""
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:64, :64]
    for number in range(count):
        row, column, a, b = *rng.uniform(24, 40, size=2), *rng.uniform(9, 15, size=2)
        column = 0 if number == count - 2 else column
        inside = ((x - column) / a) ** 2 + ((y - row) / b) ** 2 < (0 if number == count - 1 else 1)
        picture = (60 + rng.uniform(-20, 20, size=x.shape) + 140 * inside).clip(0, 255).astype(np.uint8)
        Image.fromarray(picture).save(folder / f"p{number:02d}.png")
    return folder


@pytest.fixture
def pseudo(in_process: Any, tmp_path: Path) -> Path:
    """Masks that `medseg batch` drew."""
    drawn_by = stand_in.write_preset(tmp_path / "bright")
    write_pictures(tmp_path / "pictures")
    code, _, err = in_process("batch", "pictures", "-o", "pseudo", "-p", drawn_by, "--jobs", 0)
    assert code == 0, err
    return tmp_path / "pseudo"


def test_a_batch_is_a_data_set_of_what_raised_no_flag(pseudo: Path, run_medseg: Any) -> None:
    found = read_dataset(pseudo)

    assert found.layout == "masks of medseg batch"
    assert [case.id for case in found.cases] == [f"p{number:02d}" for number in range(10)]
    assert all(case.label.name == f"{case.id}_seg.png" and case.image.name == f"{case.id}.png" for case in found.cases)
    assert found.labels == {1: "bright"}
    assert "left out of 12 cases: 2 flagged (border 1, empty 1)" in found.notes
    # Drawn in white, and read as one object.
    with Image.open(found.cases[0].label) as mask:
        assert set(np.unique(mask)) == {0, 255}
    table = pseudo / "cases.jsonl"
    rows = [json.loads(line) for line in table.read_text().splitlines()]
    for change, words in (
        ([{**row, "status": "absent"} for row in rows], "none of the 12 cases of .* is ok: 12 absent"),
        ([{**rows[0], "input": {"path": "gone.png"}}], "gone.png, segmented in .*, does not exist"),
        ([{**rows[0], "schema": "other"}], "another version"),
        ([{**rows[0], "labels": 3}], "another version"),
        ([3], "is damaged"),
    ):
        table.write_text("\n".join(map(json.dumps, change)))
        with pytest.raises(InputError, match=words):
            read_dataset(pseudo)


def trained(pseudo: Path, in_process: Any, steps: int, *options: object) -> Path:
    (pseudo.parent / "tiny.yaml").write_text(preset.dump(tiny_preset()))
    given = ("--preset", "tiny.yaml", "--start", "scratch", "--device", "cpu", "--tracker", "none", "--steps", steps)
    given = (*given, "--cycles", "2", "--keep", "2", "--batch-size", "4", "--learning-rate", "3e-3", *options)
    code, _, err = in_process("finetune", pseudo, "-o", "run", *given)
    assert code == 0, err
    assert err.rstrip().endswith("together: medseg segment SCAN -o MASK.png --preset run/ensemble.yaml")
    return pseudo.parent / "run"


def test_checkpoints_of_a_run_answer_together(pseudo: Path, in_process: Any) -> None:
    run = trained(pseudo, in_process, 8, "--released-code", "--gamma", "0.5")

    assert json.loads((run / "run.json").read_text())["plan"]["released_rate"] is True
    assert (
        "in 2 cycles as the published code has it (gamma 0.5; `ensemble.yaml` averages 4"
        in (run / "card.md").read_text()
    )
    together = preset.find(run / "ensemble.yaml")
    files = [together.weights.file, *(each.file for each in together.weights.members)]  # type: ignore[union-attr]
    assert files == [f"member-{number:02d}.safetensors" for number in (1, 2, 3, 4)]
    assert len({hashlib.sha256((run / file).read_bytes()).hexdigest() for file in files}) == 4
    # What is kept during the run is of no use afterwards.
    shutil.rmtree(run / "members")
    before = (run / "ensemble.yaml").read_bytes()
    code, _, err = in_process("finetune", "--resume", "run")
    assert (code, (run / "ensemble.yaml").read_bytes()) == (0, before), err
    code, _, err = in_process("segment", "pictures/p00.png", "-o", "mask.png", "--preset", "run/ensemble.yaml")
    assert code == 0, err
    report = json.loads(Path("mask.json").read_text())
    assert len(json.dumps(report).split(together.weights.members[0].sha256)) > 1  # type: ignore[union-attr]
    # One of them is exchanged.
    (run / files[2]).write_bytes((run / files[1]).read_bytes())
    code, _, err = in_process("segment", "pictures/p00.png", "-o", "other.png", "--preset", "run/ensemble.yaml")
    assert (code, "damaged or exchanged" in " ".join(err.split())) == (4, True), err
    (run / files[2]).unlink()
    code, _, err = in_process("segment", "pictures/p00.png", "-o", "other.png", "--preset", "run/ensemble.yaml")
    assert (code, "one of its checkpoints, is missing" in " ".join(err.split())) == (4, True), err


def test_what_cannot_be_an_ensemble(pseudo: Path, in_process: Any, tmp_path: Path) -> None:
    new = ("finetune", pseudo, "-o", "r", "--preset", "hippocampus-mr", "--steps", "4", "--device", "cpu")
    for options, words in (
        (("--cycles", "2"), "which pipeline 3dsam-adapter cannot be"),
        (("--gamma", "0.5"), "--gamma is of --cycles"),
        (("--cycles", "3"), "--steps 4 cannot be divided into 3 cycles"),
    ):
        code, _, err = in_process(*new, *options)
        assert (code, words in " ".join(err.split())) == (2, True), err
    base = preset.find("hippocampus-mr")
    other = {"file": "x.safetensors", "sha256": "0" * 64}
    several = preset.with_absolute_weights(base).model_dump(mode="json")
    several["weights"]["members"] = [other]
    (tmp_path / "several.yaml").write_text(json.dumps(several))
    with pytest.raises(ModelError, match="takes one checkpoint, and preset hippocampus-mr names several"):
        pipelines.build(preset.find(tmp_path / "several.yaml"), select("cpu", "fp32", 0, False))


@pytest.mark.slow
def test_a_network_learns_from_masks_that_a_model_drew(pseudo: Path, in_process: Any) -> None:
    """Held-back pictures, true ellipses: the ensemble finds them, and is less sure of a picture of noise."""
    trained(pseudo, in_process, 160)
    rng = np.random.default_rng(5)
    y, x = np.mgrid[:64, :64]
    truth = ((x - 30) / 12) ** 2 + ((y - 36) / 10) ** 2 < 1
    doubts = []
    for name, contrast in (("clear", 140), ("faint", 35)):
        picture = (60 + rng.uniform(-20, 20, size=x.shape) + contrast * truth).clip(0, 255).astype(np.uint8)
        Image.fromarray(picture).save(f"{name}.png")
        code, _, err = in_process("segment", f"{name}.png", "-o", f"{name}_mask.png", "--preset", "run/ensemble.yaml")
        assert code == 0, err
        objects = json.loads(Path(f"{name}_mask.json").read_text())["pipeline"]["objects"]
        doubts.append(objects[0]["uncertainty"]["mean"] if objects[0]["uncertainty"] else float("inf"))
    with Image.open("clear_mask.png") as picture:
        found = np.asarray(picture) > 127
    assert 2 * (found & truth).sum() / (found.sum() + truth.sum()) > 0.85
    assert doubts[0] < doubts[1]
