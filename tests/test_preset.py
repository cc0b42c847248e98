"""Presets: shipped ones are valid, YAML round trips, mistakes are named by file and key, hostile YAML is refused."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from medseg_cli import preset as presets
from medseg_cli.errors import ModelError
from medseg_cli.preset_format import Preset
from medseg_cli.preset_weights import CatalogueWeights, ShippedWeights
from medseg_cli.weights import catalogue, store

VALID: dict[str, Any] = {
    "name": "mine",
    "title": "My organ",
    "pipeline": "3dsam-adapter",
    "modality": ["CT"],
    "dims": 3,
    "weights": {"file": "weights/mine.safetensors", "sha256": "0" * 64},
    "preprocessing": {
        "spacing": [1, 1, 2.5],
        "orientation": "RAS",
        "intensity": {"method": "clip-zscore", "low": -100, "high": 300, "mean": 60, "std": 50.5},
    },
    "prompts": {"kinds": ["point"]},
    "labels": [{"value": 1, "name": "organ", "color": "#ff0000", "snomed": "5366008"}],
    "licence": "CC0",
    "source": "here",
}


def changed(path: str, value: Any) -> dict[str, Any]:
    """`VALID` with one key set (or removed, for Ellipsis)."""
    data = copy.deepcopy(VALID)
    *way, last = path.split(".")
    at: Any = data
    for step in way:
        at = at[int(step) if step.isdigit() else step]
    if value is ...:
        del at[last]
    else:
        at[int(last) if last.isdigit() else last] = value
    return data


def write(folder: Path, data: Any, name: str = "mine.yaml") -> Path:
    path = folder / name
    path.write_text(data if isinstance(data, str) else yaml.safe_dump(data, sort_keys=False), "utf-8")
    return path


@pytest.mark.parametrize("name", presets.names())
def test_shipped_presets_are_valid(name: str):
    found = presets.find(name)
    assert found.path == presets.shipped_folder().resolve() / f"{name}.yaml"
    if found.weights is None:
        with pytest.raises(ModelError, match="is trained on your own data first"):
            store.resolve(found)
    elif isinstance(found.weights, CatalogueWeights):
        assert catalogue.entry(found.weights.name) is not None
    else:
        assert store.resolve(found).sha256 == found.weights.sha256, "an embedded model states its hash"


def test_the_official_3dsam_adapter_presets_have_the_official_numbers():
    """Section 7 of the method's specification: clip range, mean, standard deviation of each data set."""
    official = {
        "sam3d-kits": (-54, 247, 59.53867, 55.457336),
        "sam3d-pancreas": (-39, 204, 68.45214, 63.422806),
        "sam3d-lits": (-48, 163, 60.057533, 40.198017),
        "sam3d-colon": (-57, 175, 65.175035, 32.651197),
    }
    for name, numbers in official.items():
        how = presets.find(name).preprocessing
        assert how.intensity.method == "clip-zscore"
        assert (how.intensity.low, how.intensity.high, how.intensity.mean, how.intensity.std) == numbers
        assert how.spacing == (1, 1, 1)


def test_a_valid_preset_loads_with_defaults(tmp_path: Path):
    found = presets.load(write(tmp_path, VALID))
    assert found.weights_file == tmp_path.resolve() / "weights/mine.safetensors"
    assert found.postprocessing.keep == "all"
    assert found.prompts.minus is False
    assert found.options == {}
    with pytest.raises(ValueError, match="frozen"):
        found.name = "other"  # type: ignore[misc]


def test_dump_and_load_give_the_same_preset(tmp_path: Path):
    first = presets.load(write(tmp_path, VALID))
    second = presets.load(write(tmp_path, presets.dump(first), "again.yaml"))
    assert second.model_dump() == first.model_dump()


text = st.text(st.characters(blacklist_categories=("Cs", "Cc")), min_size=1, max_size=20)
finite = st.floats(-1e6, 1e6)


@given(
    title=text,
    spacing=st.none() | st.tuples(*[st.floats(0.01, 50)] * 3),
    intensity=st.just({"method": "zscore"})
    | st.builds(
        lambda a, step, mean, std: {"method": "clip-zscore", "low": a, "high": a + step, "mean": mean, "std": std},
        finite, st.floats(1, 1e4), finite, st.floats(0.001, 1e4),
    )
    | st.builds(lambda a, b: {"method": "percentile", "low": a, "high": b}, st.floats(0, 40), st.floats(50, 100)),
    names=st.lists(text, min_size=1, max_size=4, unique=True),
    options=st.dictionaries(text, st.none() | st.booleans() | st.integers() | finite | text | st.lists(finite)),
)  # fmt: skip
def test_every_preset_survives_the_round_trip(
    tmp_path_factory: pytest.TempPathFactory, title: str, spacing: Any, intensity: Any, names: list[str], options: Any
):
    labels = [{"value": i + 1, "name": name, "color": "#00ff00"} for i, name in enumerate(names)]
    data = VALID | {"title": title, "labels": labels, "options": options}
    data["preprocessing"] = {"spacing": spacing, "intensity": intensity}
    first = Preset.model_validate(data)
    path = tmp_path_factory.getbasetemp() / "round-trip.yaml"
    path.write_text(presets.dump(first), "utf-8")
    assert presets.load(path).model_dump() == first.model_dump()


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("licence", ..., "licence: is required"),
        ("titel", "x", r"unknown key 'titel' \(did you mean 'title'\?\); allowed: name, title, pipeline"),
        (
            "preprocessing.spacin",
            1,
            r"preprocessing: unknown key 'spacin' .*'spacing'.*allowed: spacing, orientation, inten",
        ),
        (
            "preprocessing.intensity.max",
            1,
            r"preprocessing\.intensity: unknown key 'max'; allowed: method, low, high, mean",
        ),
        ("preprocessing.intensity.std", 0, r"preprocessing\.intensity\.std: input should be greater than 0, got 0"),
        ("preprocessing.intensity.high", -200, r"preprocessing\.intensity: low -100 must be below high -200"),
        (
            "preprocessing.intensity.method",
            "minmax",
            r"preprocessing\.intensity: .*'minmax'.*'zscore', 'clip-zscore', 'perc",
        ),
        ("preprocessing.intensity.mean", float("nan"), r"preprocessing\.intensity\.mean: .*finite"),
        ("preprocessing.spacing", [1, 0, 1], r"preprocessing\.spacing\[1\]: input should be greater than 0, got 0"),
        ("preprocessing.spacing", [1, 1], r"preprocessing\.spacing\[2\]: is required"),
        ("preprocessing.orientation", "RAX", r"preprocessing\.orientation: .*got 'RAX'"),
        ("weights", {"file": "x.zip"}, r"weights\.file: .*safetensors.*got 'x\.zip'"),
        ("weights", {"file": "a.safetensors", "name": "b"}, r"weights: unknown key 'name'; allowed: file, sha256"),
        ("weights", {"name": "a", "sha256": "0"}, r"weights: unknown key 'sha256'; allowed: name"),
        ("weights.sha256", "abc", r"weights\.sha256: "),
        ("dims", 4, r"dims: .*2 or 3, got 4"),
        ("labels", [], r"labels: must name what these weights segment"),
        ("prompts.kinds", ["scribble"], r"prompts\.kinds\[0\]: .*'point', 'box', 'text' or 'mask', got 'scribble'"),
        ("labels.0.snomed", "5366007", r"labels\[0\]\.snomed: '5366007' is no SNOMED CT identifier"),
        ("labels.0.color", "red", r"labels\[0\]\.color: .*got 'red'"),
        ("labels.0.value", 0, r"labels\[0\]\.value: "),
        ("labels", [VALID["labels"][0], {**VALID["labels"][0], "name": "b"}], r"every value must be used once"),
        ("labels", [VALID["labels"][0], {**VALID["labels"][0], "value": 2}], r"every name must be used once"),
        ("name", "My Preset", r"name: .*got 'My Preset'"),
        ("postprocessing", {"keep": "some"}, r"postprocessing\.keep: "),
        ("accuracy", [{"metric": "Dice", "value": 0.9, "data": "x"}], r"accuracy\[0\]\.command: is required"),
    ],
)
def test_a_mistake_is_named_in_one_line(tmp_path: Path, key: str, value: Any, said: str):
    path = write(tmp_path, changed(key, value))
    with pytest.raises(ModelError, match=said) as caught:
        presets.load(path)
    assert caught.value.message.startswith(f"{path}: ")
    assert "\n" not in caught.value.message
    assert caught.value.exit_code == 4


def test_several_mistakes_are_counted(tmp_path: Path):
    with pytest.raises(ModelError, match=r"\(and 1 more\)$"):
        presets.load(write(tmp_path, changed("dims", 4) | {"modality": []}))


BOMB = "a: &a [x, x, x]\nb: &b [*a, *a, *a]\nc: [*b, *b, *b]\n"


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (BOMB, r"line 2, column \d+: aliases"),
        ("a: !!python/object/apply:os.system ['touch ran']", "could not determine a constructor"),
        ("a: !!python/name:os.system", "could not determine a constructor"),
        ("name: a\nname: b", "line 2, column 1: key 'name' is given twice"),
        ("a: " + "[" * 200_000, "nested deeper than 16 levels"),
        ("a: " + "x" * 300_000, "larger than 256 KiB"),
        ("? [a, b]\n: c", "a key must be text"),
        ("a: b\n---\na: c", "but found another document"),
        ("- a\n- b", "no YAML mapping"),
        ("just text", "no YAML mapping"),
        ("", "no YAML mapping"),
        ("a: [1, 2", "expected ',' or ']'"),
        ("a: \x07", "not allowed"),
    ],
)
def test_hostile_or_broken_yaml_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, body: str, said: str):
    monkeypatch.chdir(tmp_path)
    path = write(tmp_path, body)
    with pytest.raises(ModelError, match=said) as caught:
        presets.load(path)
    assert str(path) in caught.value.message
    assert not (tmp_path / "ran").exists()


def test_unreadable_files_are_named(tmp_path: Path):
    (tmp_path / "latin.yaml").write_bytes(b"name: \xe9\xe8")
    with pytest.raises(ModelError, match="is not UTF-8"):
        presets.load(tmp_path / "latin.yaml")
    with pytest.raises(ModelError, match="no preset file"):
        presets.find(tmp_path / "nowhere.yaml")
    with pytest.raises(ModelError, match=r"holds no preset\.yaml"):
        presets.find(tmp_path)


def test_an_unknown_name_lists_all_and_suggests_the_closest():
    with pytest.raises(ModelError, match="did you mean 'hippocampus-mr'") as caught:
        presets.find("hipocampus-mr")
    assert all(name in caught.value.hint for name in presets.names())


def test_user_folder_path_and_run_folder_are_found(tmp_path: Path, medseg_home: Path):
    folder = medseg_home / "presets"
    folder.mkdir(parents=True)
    write(folder, VALID)
    run = tmp_path / "run"
    run.mkdir()
    write(run, VALID | {"name": "tuned"}, "preset.yaml")
    assert "mine" in presets.names()
    assert presets.find("mine").path == (folder / "mine.yaml").resolve()
    assert presets.find(str(folder / "mine.yaml")).name == "mine"
    assert presets.find(run).name == "tuned"
    assert presets.find(run).weights_file == run.resolve() / "weights/mine.safetensors"


def test_a_user_preset_hides_a_shipped_one_of_its_name(medseg_home: Path):
    folder = medseg_home / "presets"
    folder.mkdir(parents=True)
    write(folder, VALID | {"name": "sam3d-kits"}, "sam3d-kits.yaml")
    assert presets.find("sam3d-kits").title == "My organ"


def test_file_and_name_must_agree_in_a_presets_folder(medseg_home: Path):
    folder = medseg_home / "presets"
    folder.mkdir(parents=True)
    write(folder, VALID, "other.yaml")
    with pytest.raises(ModelError, match="name is 'mine'"):
        presets.find("other")


def test_the_schema_describes_what_is_accepted():
    schema = presets.schema()
    assert schema["additionalProperties"] is False
    assert set(schema["required"]) <= set(VALID)
    assert set(schema["properties"]) == set(Preset.model_fields)


def test_snomed_check_digits_are_checked():
    """Codes of SNOMED International's own examples: myocardial infarction, clinical finding, hippocampus, neoplasm."""
    for code in ("22298006", "404684003", "5366008", "108369006"):
        Preset.model_validate(changed("labels.0.snomed", code))
        for wrong in {str(int(code) + step) for step in (1, 2, 3, 10)}:
            with pytest.raises(ValueError, match="check digit"):
                Preset.model_validate(changed("labels.0.snomed", wrong))


def test_weights_references_are_told_apart():
    assert isinstance(Preset.model_validate(VALID).weights, ShippedWeights)
    assert Preset.model_validate(changed("weights", {"name": "sam-vit-b"})).weights == CatalogueWeights(
        name="sam-vit-b"
    )
