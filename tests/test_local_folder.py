"""Folders of transformers that are broken: one line of ours, and never a library's advice to load them all the same."""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tiny_bert
import tiny_dino
import torch
from safetensors.torch import load_file, save_file

from medseg_cli.errors import ModelError, without_advice
from medseg_cli.models.grounding import load_detector

Run = Callable[..., tuple[int, str, str]]
Harm = Callable[[Path], Any]
WEIGHTS, TOKENS = "model.safetensors", ("tokenizer.json", "tokenizer_config.json", "vocab.txt")
FOREIGN = re.compile(
    r"https?:|weights_only|trust_remote|revision|ignore_mismatched|custom code|Traceback", re.IGNORECASE
)


class Code:
    """Unpickled, it would run a command."""

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, ("touch ran",)


@pytest.fixture(scope="module")
def bert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_bert.save(tmp_path_factory.mktemp("bert"))


@pytest.fixture(scope="module")
def dino(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_dino.save(tmp_path_factory.mktemp("detectors") / "dino")


def without(*names: str) -> Harm:
    return lambda folder: [(folder / name).unlink(missing_ok=True) for name in names]


def saying(name: str, content: str | bytes) -> Harm:
    data = content.encode() if isinstance(content, str) else content
    return lambda folder: (folder / name).write_bytes(data)


def changed(**facts: Any) -> Harm:
    def harm(folder: Path) -> None:
        config = folder / "config.json"
        config.write_text(json.dumps({**json.loads(config.read_text()), **facts}))

    return harm


def cut(name: str, size: int) -> Harm:
    return lambda folder: os.truncate(folder / name, size)


def pickled(content: Any) -> Harm:
    def harm(folder: Path) -> None:
        (folder / WEIGHTS).unlink()
        torch.save(content, folder / "pytorch_model.bin")

    return harm


def words(*vocabulary: str) -> Harm:
    def harm(folder: Path) -> None:
        (folder / "tokenizer.json").unlink()
        (folder / "vocab.txt").write_text("".join(f"{word}\n" for word in vocabulary))

    return harm


def without_numbers(folder: Path) -> None:
    state = {key: value * float("nan") for key, value in load_file(folder / WEIGHTS).items()}
    save_file(state, folder / WEIGHTS, {"format": "pt"})


# What both kinds of folders can suffer.
COMMON: list[tuple[str, Harm, str]] = [
    ("no-config", without("config.json"), "there is no config.json"),
    ("no-weights", without(WEIGHTS), "there is no model.safetensors or pytorch_model.bin"),
    ("config-cut", cut("config.json", 50), "config.json is no JSON"),
    ("config-list", saying("config.json", "[]"), "states no kind of model"),
    ("kind-unknown", changed(model_type="nonsense"), "of the kind 'nonsense', which transformers"),
    (
        "code-beside",
        changed(model_type="other", auto_map={"AutoConfig": "a/b--c.D", "AutoModel": "a/b--c.E"}),
        "code beside a model is never run",
    ),
    ("weights-cut", cut(WEIGHTS, 1000), f"{WEIGHTS} is truncated"),
    ("weights-page", saying(WEIGHTS, "<!doctype html>"), f"{WEIGHTS} is a web page"),
    ("weights-code", pickled({"a": Code()}), "pytorch_model.bin holds a pickled object (posix.system): refused"),
    ("weights-list", pickled([1, 2]), "pytorch_model.bin holds something else than a dictionary of tensors (list)"),
    ("tokens-cut", cut("tokenizer.json", 30), "tokenizer.json is no JSON"),
    ("tokens-none", without(*TOKENS), "holds no vocabulary: there is no tokenizer.json or vocab.txt"),
]
LANGUAGE: list[tuple[str, Harm, str]] = [
    *COMMON,
    ("other-sizes", changed(hidden_size=24), "have other sizes than its config.json says"),
    (
        "words-of-another",
        words(*tiny_bert.VOCABULARY, "more"),
        f"has {len(tiny_bert.VOCABULARY) + 1} words, its model takes {len(tiny_bert.VOCABULARY)}",
    ),
    ("words-without-unknown", words("a", "b"), "Missing [UNK] token"),
    ("not-finite", without_numbers, "numbers that are not finite"),
    ("type", changed(hidden_size="many"), "'hidden_size' expected int"),
]
PROCESSORS = ("preprocessor_config.json", "processor_config.json")
DETECTORS: list[tuple[str, Harm, str]] = [
    *COMMON,
    ("other-sizes", changed(num_queries=24), "have other sizes than its config.json says"),
    ("pictures-none", without(*PROCESSORS), "cannot read the detector in"),
    ("kind", changed(model_type="bert"), "of the kind bert, not a Grounding DINO"),
]


@pytest.mark.parametrize(("harm", "message"), [each[1:] for each in LANGUAGE], ids=[each[0] for each in LANGUAGE])
def test_broken_language_models(in_process: Run, tmp_path: Path, bert: Path, harm: Harm, message: str) -> None:
    harm(Path(shutil.copytree(bert, tmp_path / "model")))
    code, out, err = in_process("weights", "embed-text", "ultrasound", "--model", "model", "-o", "t.safetensors")
    assert (code, out, message in err) == (4, "", True), err
    assert [line.split(":")[0] for line in err.splitlines()] == ["error", "hint"]
    assert not FOREIGN.search(err), err
    assert not (tmp_path / "t.safetensors").exists()
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(("harm", "message"), [each[1:] for each in DETECTORS], ids=[each[0] for each in DETECTORS])
def test_broken_detectors(
    tmp_path: Path, dino: Path, harm: Harm, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    harm(Path(shutil.copytree(dino, tmp_path / "model")))
    with pytest.raises(ModelError) as caught:
        load_detector(Path("model"))
    said = f"{caught.value.message} {caught.value.hint}"
    assert message in said
    assert caught.value.hint
    assert "\n" not in said
    assert not FOREIGN.search(said)
    assert not (tmp_path / "ran").exists()


def test_a_model_that_reads_no_text_is_no_language_model(in_process: Run, tmp_path: Path, bert: Path) -> None:
    from transformers import ViTConfig, ViTModel

    folder = Path(shutil.copytree(bert, tmp_path / "model"))
    sizes = {"hidden_size": 12, "num_hidden_layers": 1, "num_attention_heads": 3, "intermediate_size": 8}
    ViTModel(ViTConfig(image_size=8, patch_size=4, **sizes)).save_pretrained(folder)
    code, _, err = in_process("weights", "embed-text", "ultrasound", "--model", folder, "-o", "t.safetensors")
    assert (code, "of the kind vit, which reads no text" in err) == (4, True), err


def test_a_table_never_lands_in_the_model_it_is_made_with(in_process: Run, tmp_path: Path, bert: Path) -> None:
    folder = Path(shutil.copytree(bert, tmp_path / "model"))
    before = (folder / WEIGHTS).read_bytes()
    command = ("weights", "embed-text", "ultrasound", "--model", "model", "-o")
    code, _, err = in_process(*command, f"model/{WEIGHTS}", "--overwrite")
    assert (code, f"model/{WEIGHTS} would lie among the files of --model" in err) == (3, True), err
    assert (folder / WEIGHTS).read_bytes() == before


@pytest.mark.usefixtures("no_large_files")
def test_a_full_disk_is_no_bug(in_process: Run, tmp_path: Path, bert: Path) -> None:
    """Safetensors tells it as an error of its own kind."""
    code, _, err = in_process("weights", "embed-text", "ultrasound", "--model", bert, "-o", "t.safetensors")
    assert (code, "cannot write t.safetensors: file too large" in err) == (3, True), err
    assert [path.name for path in tmp_path.iterdir() if "safetensors" in path.name] == []


@pytest.mark.parametrize(
    ("typed", "more"), [("medbret", ""), ("text-dmo", "did you mean preset 'text-demo'?"), ("no/such", ""), ("", "")]
)
def test_what_is_neither_a_folder_nor_a_preset(in_process: Run, typed: str, more: str) -> None:
    code, _, err = in_process("weights", "embed-text", "ultrasound", "--model", typed, "-o", "t.safetensors")
    assert (code, f"'{typed}' is neither a folder nor a preset" in err, more in err) == (4, True, True), err


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (OSError("Cannot load it. If you tried\nhttps://example.org, look there."), "Cannot load it."),
        (RuntimeError("Set weights_only=False."), "RuntimeError"),
        (KeyError("added_tokens"), "KeyError 'added_tokens'"),
        (EOFError(), "EOFError"),
        (ValueError("12 is not\n a multiple of 5. So it is."), "12 is not a multiple of 5. So it is."),
    ],
)
def test_advice_of_libraries_is_left_out(error: Exception, said: str) -> None:
    assert without_advice(error) == said
