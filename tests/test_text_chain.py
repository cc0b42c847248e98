"""The published chains stage by stage on a small network, where vocabularies are, and that nothing is fetched."""

from __future__ import annotations

import json
import socket
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import colour_clip
import nibabel as nib
import numpy as np
import pytest
import torch
import yaml
from numpy.typing import NDArray
from PIL import Image
from safetensors.torch import save_file
from scipy import ndimage
from torch import nn

from medseg_cli import pipelines
from medseg_cli.dense_crf import V1, dense_crf
from medseg_cli.models.clip.checkpoint import random_network, to_hugging_face
from medseg_cli.models.clip.config import ClipConfig
from medseg_cli.models.clip.maps import How, maps, unit
from medseg_cli.models.clip.network import Clip, tower_of
from medseg_cli.models.clip.words import words_of
from medseg_cli.preset import Preset, find, load
from medseg_cli.prompt import Prompt
from medseg_cli.scan import Scan
from medseg_cli.segmentation import Label, Segmentation

Run = Callable[..., tuple[int, str, str]]
SMALL: dict[str, Any] = {**colour_clip.MODEL, "width": 24, "depth": 4, "heads": 2, "text_width": 16, "text_heads": 2}


@dataclass
class Recorder:
    """A segmenter that fills its boxes and remembers what it was asked."""

    preset: Preset
    asked: list[Prompt] = field(default_factory=list)

    def segment(self, scan: Scan, prompt: Prompt, stages: object) -> Segmentation:
        self.asked.append(prompt)
        mask = np.zeros(scan.shape, np.uint8)
        for value, target in enumerate(prompt.targets, start=1):
            for box in target.boxes:
                (i0, j0, _), (i1, j1, _) = box.first, box.second
                mask[round(i0) : round(i1) + 1, round(j0) : round(j1) + 1] = value
        labels = tuple(Label(value, str(value)) for value in range(1, len(prompt.targets) + 1))
        return Segmentation(mask, labels, scan, {})


@pytest.fixture
def recorders(monkeypatch: pytest.MonkeyPatch) -> dict[str, Recorder]:
    """Stands in for SAM, whose weights nobody has here: preset name → what was asked of it."""
    made: dict[str, Recorder] = {}
    build = pipelines.build

    def recorded(preset: Preset, *arguments: Any, **options: Any) -> Any:
        if preset.pipeline != "sam":
            return build(preset, *arguments, **options)
        return made.setdefault(preset.name, Recorder(preset))

    monkeypatch.setattr(pipelines, "build", recorded)
    return made


@pytest.fixture(scope="module")
def network() -> Clip:
    model = random_network(ClipConfig(**SMALL), 5)
    assert isinstance(model, Clip)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.mul_(3)
    return model.eval().requires_grad_(False)


@pytest.fixture
def picture() -> NDArray[np.uint8]:
    """70 rows of 100 pixels: blobs, so that maps have somewhere to go."""
    noise = np.random.default_rng(2).normal(size=(70, 100, 3))
    smooth = ndimage.gaussian_filter(noise, (6, 6, 0))
    low, high = smooth.min(), smooth.max()
    return np.asarray((smooth - low) / (high - low) * 255, np.uint8)


def shrunk(name: str, network: nn.Module, folder: Path, layer: int) -> Preset:
    """A shipped preset with the small network in place of BiomedCLIP; all else is as shipped."""
    data = yaml.safe_load((find(name).path or Path()).read_text())
    save_file(dict(network.state_dict()), folder / "small.safetensors")
    data["model"], data["weights"] = SMALL, {"file": "small.safetensors"}
    data["options"]["words"] = colour_clip.WORDS
    data["options"]["saliency"]["layer"] = layer
    (folder / f"{name}.yaml").write_text(yaml.safe_dump(data))
    return load(folder / f"{name}.yaml")


def expected_map(network: nn.Module, picture: NDArray[np.uint8], how: How) -> NDArray[np.float32]:
    tokens, _ = words_of(ClipConfig(**SMALL), colour_clip.WORDS)(["the red thing"])
    text = network.encode_text(tokens)  # type: ignore[operator]
    scale = float(network.logit_scale.exp())  # type: ignore[operator,union-attr]
    found = maps(tower_of(network), picture, text, scale, how, SMALL["mean"], SMALL["std"], 0)
    return unit(found[0]).numpy()


def box_of(mask: NDArray[np.bool_]) -> list[int]:
    """The published box round the largest part: x0, y0, and one beyond the last pixel within the picture."""
    parts, count = ndimage.label(mask, np.ones((3, 3)))
    largest = parts == 1 + int(np.argmax(ndimage.sum(mask, parts, range(1, count + 1))))
    rows, columns = np.nonzero(largest)
    height, width = mask.shape
    return [
        int(columns.min()),
        int(rows.min()),
        min(int(columns.max()) + 1, width - 1),
        min(int(rows.max()) + 1, height - 1),
    ]


def asked_box(recorder: Recorder) -> list[float]:
    ((target,),) = (prompt.targets for prompt in recorder.asked)
    (box,) = target.boxes
    assert not target.clicks
    return [*box.first[:2], *box.second[:2]]


def run_chain(run: Run, preset: Preset, picture: NDArray[np.uint8]) -> dict[str, Any]:
    Image.fromarray(picture).save("scan.png")
    code, _, err = run("segment", "scan.png", "-o", "m.png", "--preset", preset.path, "--text", "the red thing")
    assert code == 0, err
    report: dict[str, Any] = json.loads(Path("m.json").read_text())
    return report


def test_the_first_chain(
    in_process: Run, recorders: dict[str, Recorder], network: Clip, picture: NDArray[np.uint8], tmp_path: Path
) -> None:
    report = run_chain(in_process, shrunk("medclip-sam-v1", network, tmp_path, 1), picture)

    saliency = expected_map(network, picture, How("gscorecam-official", layer=1, geometry="official"))
    assert asked_box(recorders["sam-vit-b"]) == box_of(dense_crf(picture, saliency, V1))
    assert report["pipeline"]["presence"] is None


def test_the_second_chain(
    in_process: Run, recorders: dict[str, Recorder], network: Clip, picture: NDArray[np.uint8], tmp_path: Path
) -> None:
    from sklearn.cluster import KMeans

    run_chain(in_process, shrunk("medclip-sam-v2", network, tmp_path, 1), picture)

    saliency = expected_map(network, picture, How("m2ib", layer=1, beta=1.0, geometry="official"))
    rows, columns = (np.floor((np.arange(256) + 0.5) * size / 256).astype(int) for size in saliency.shape)
    means = KMeans(2, n_init=10, random_state=10).fit(saliency[rows[:, None], columns].reshape(-1, 1))
    bright = saliency > means.cluster_centers_.mean()
    assert asked_box(recorders["sam-vit-h"]) == pytest.approx(box_of(bright), abs=2)


def test_our_chain_asks_whether_it_is_there(
    in_process: Run, recorders: dict[str, Recorder], network: Clip, picture: NDArray[np.uint8], tmp_path: Path
) -> None:
    report = run_chain(in_process, shrunk("medclip-sam", network, tmp_path, 1), picture)

    (presence,) = report["pipeline"]["presence"]
    assert presence["threshold"] == 0.5
    assert len(recorders["sam-vit-b"].asked) == presence["present"]
    assert report["pipeline"]["saliency"]["geometry"] == "squash"


def test_layouts_agree_whatever_epsilon_they_were_written_for(network: Clip, tmp_path: Path) -> None:
    """The Hugging Face repackaging has 1e-12 in the image tower's norms, the published network 1e-6."""
    import medseg_cli

    torch.save(to_hugging_face(network.state_dict()), tmp_path / "hf.bin")
    theirs = random_network(ClipConfig(**SMALL), 0).eval()
    theirs.load_state_dict(network.state_dict())
    for module in theirs.visual.modules():  # type: ignore[union-attr]
        if isinstance(module, nn.LayerNorm):
            assert module.eps == 1e-6
            module.eps = 1e-12
    ours = medseg_cli.load_model("biomedclip", checkpoint=tmp_path / "hf.bin", **SMALL)
    images = torch.rand(4, 3, 64, 64, generator=torch.Generator().manual_seed(1))

    with torch.no_grad():
        unit = nn.functional.normalize
        difference = (unit(ours.encode_image(images)) - unit(theirs.encode_image(images))).abs().max()  # type: ignore[operator]

    assert 0 < difference < 1e-4


def test_the_published_map_has_196_cells() -> None:
    with torch.device("meta"):
        tower = tower_of(Clip(ClipConfig()))

    assert tower.grid == (14, 14)
    assert len(tower.blocks) == 12


def vocabulary(folder: Path) -> Path:
    path = folder / "vocab.txt"
    path.write_text("\n".join(colour_clip.WORDS) + "\n")
    return path


def test_a_vocabulary_beside_the_weights_and_no_socket(
    in_process: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    preset = colour_clip.preset(tmp_path / "preset", options={"words": []})
    scan = np.zeros((96, 128, 3), np.uint8)
    scan[12:36, 80:112, 0] = 255
    Image.fromarray(scan).save(tmp_path / "scan.png")
    words = ("segment", "scan.png", "-o", "m.png", "--preset", preset.path, "--text", "red")
    code, _, err = in_process(*words)
    assert code == 4
    assert "no vocabulary" in err
    vocabulary(tmp_path / "preset")

    def forbidden(*arguments: object, **options: object) -> None:
        raise AssertionError("a socket was opened")

    monkeypatch.setattr(socket.socket, "connect", forbidden)
    monkeypatch.setattr(socket, "create_connection", forbidden)
    monkeypatch.setattr(socket, "getaddrinfo", forbidden)
    code, _, err = in_process(*words)

    assert code == 0, err
    assert np.array(Image.open("m.png"))[12:36, 80:112].mean() > 200


def test_the_store_takes_a_folder_with_its_vocabulary(in_process: Run, medseg_home: Path, tmp_path: Path) -> None:
    colour_clip.preset(tmp_path / "preset", options={"words": []})
    vocabulary(tmp_path / "preset")

    code, _, err = in_process("weights", "import", tmp_path / "preset", "--name", "colours-clip")
    assert code == 0, err
    assert (medseg_home / "weights" / "colours-clip.vocab.txt").read_text().splitlines() == colour_clip.WORDS

    stored = colour_clip.preset(
        tmp_path / "other",
        weights={"name": "colours-clip"},
        options={"words": [], "vocabulary": "colours-clip"},
    )
    scan = np.zeros((96, 128, 3), np.uint8)
    scan[12:36, 80:112, 0] = 255
    Image.fromarray(scan).save(tmp_path / "scan.png")
    code, _, err = in_process("segment", "scan.png", "-o", "m.png", "--preset", stored.path, "--text", "red")
    assert code == 0, err
    # And as it lies there, without the store.
    here = ("--weights", tmp_path / "preset", "--preset", stored.path)
    code, _, err = in_process("segment", "scan.png", "-o", "n.png", *here, "--text", "red")
    assert code == 0, err
    assert Path("n.png").read_bytes() == Path("m.png").read_bytes()


@pytest.mark.parametrize(
    ("content", "name", "words"),
    [
        ("lung\nheart\n", "biomedclip", "no vocabulary"),
        (None, "biomedclip", "cannot read"),
        ("\n".join(colour_clip.WORDS), "", "does not tell which weights"),
        ("\n".join(colour_clip.WORDS), "nobody", "no weights are called"),
    ],
)
def test_vocabularies_that_are_refused(
    content: str | None, name: str, words: str, in_process: Run, medseg_home: Path, tmp_path: Path
) -> None:
    if content is not None:
        (tmp_path / "vocab.txt").write_text(content)

    code, _, err = in_process("weights", "import", tmp_path / "vocab.txt", *(["--name", name] if name else []))

    assert code == 4
    assert words in err
    assert not (medseg_home / "weights").exists()


def test_a_model_of_open_clip_by_its_name(in_process: Run, tmp_path: Path, picture: NDArray[np.uint8]) -> None:
    preset = colour_clip.preset(
        tmp_path / "preset", model={"open_clip": "ViT-S-32-alt"}, options={"words": [], "presence": None}
    )
    Image.fromarray(picture).save("scan.png")

    code, _, err = in_process(
        "segment",
        "scan.png",
        "-o",
        "m.png",
        "--preset",
        preset.path,
        "--text",
        "a thing",
        "--random-weights",
        "--explain",
    )

    assert code == 0, err
    assert json.loads(Path("m.json").read_text())["random_weights"]
    assert b"RANDOM WEIGHTS" in nib.load("m_explain/a_thing.nii.gz").header["descrip"].tobytes()
    for name in ("a_thing.png", "scores.json"):
        assert b"RANDOM WEIGHTS" in Path("m_explain", name).read_bytes()
