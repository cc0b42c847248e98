"""The embedding cache: what it remembers, what it forgets, and which files it refuses to trust."""

from __future__ import annotations

import errno
import os
import stat
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from medseg_cli.embeddings import EmbeddingCache, embedding_key
from medseg_cli.errors import InputError

KEYS = [f"{number:02x}" * 32 for number in range(4)]


def embedding(value: float, count: int = 256) -> dict[str, torch.Tensor]:
    return {"features": torch.full((1, count), value), "half": torch.full((1, 3), value, dtype=torch.bfloat16)}


def same(a: dict[str, torch.Tensor] | None, b: dict[str, torch.Tensor]) -> bool:
    return a is not None and a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in b)


def test_key_depends_on_everything_that_the_embedding_depends_on() -> None:
    picture = np.arange(24, dtype=np.uint8).reshape(4, 6)
    base = ("a" * 64, "b" * 64, {"size": 64, "fit": "longest"}, picture)
    changed = [
        ("c" * 64, *base[1:]),
        (base[0], "c" * 64, *base[2:]),
        (*base[:2], {"size": 64, "fit": "stretch"}, picture),
        (*base[:3], picture + np.uint8(1)),
        (*base[:3], picture.reshape(6, 4)),
    ]
    keys = {embedding_key(*each) for each in (base, *changed)}
    assert len(keys) == 6
    assert all(len(key) == 64 for key in keys)
    # Neither the order of the mapping nor the memory layout of the picture matters.
    assert embedding_key(*base[:2], {"fit": "longest", "size": 64}, np.asfortranarray(picture)) == embedding_key(*base)


def test_memory_forgets_the_least_recently_used_first() -> None:
    size = sum(value.nbytes for value in embedding(0).values())
    cache = EmbeddingCache(2 * size)
    cache.put(KEYS[0], embedding(0))
    cache.put(KEYS[1], embedding(1))
    assert same(cache.get(KEYS[0]), embedding(0))
    cache.put(KEYS[2], embedding(2))
    assert cache.get(KEYS[1]) is None
    assert same(cache.get(KEYS[0]), embedding(0))
    assert same(cache.get(KEYS[2]), embedding(2))


def test_what_exceeds_the_limit_alone_is_not_kept_and_drives_nothing_out() -> None:
    cache = EmbeddingCache(sum(value.nbytes for value in embedding(0).values()))
    cache.put(KEYS[0], embedding(0))
    cache.put(KEYS[1], embedding(1, count=4096))
    assert cache.get(KEYS[1]) is None
    assert same(cache.get(KEYS[0]), embedding(0))


def test_a_slice_of_a_batch_does_not_keep_the_batch_alive() -> None:
    batch = torch.zeros(100, 256)
    cache = EmbeddingCache(2**20)
    cache.put(KEYS[0], {"features": batch[3:4]})
    kept = cache.get(KEYS[0])
    assert kept is not None
    assert kept["features"].untyped_storage().nbytes() == 1024
    batch += 1
    assert not kept["features"].any()


def test_disk_outlives_the_process(tmp_path: Path) -> None:
    folder = tmp_path / "new" / "cache"
    EmbeddingCache(0, folder).put(KEYS[1], embedding(1.5))
    script = (
        "import sys; from pathlib import Path; from medseg_cli.embeddings import EmbeddingCache\n"
        "found = EmbeddingCache(0, Path(sys.argv[1])).get(sys.argv[2])\n"
        "assert found['features'].tolist() == [[1.5] * 256] and found['half'].tolist() == [[1.5] * 3]\n"
    )
    subprocess.run([sys.executable, "-c", script, str(folder), KEYS[1]], check=True)
    (file,) = (path for path in folder.rglob("*") if path.is_file())
    assert file == folder / KEYS[1][:2] / f"{KEYS[1]}.safetensors"
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert EmbeddingCache(0, folder).get(KEYS[2]) is None


@pytest.mark.parametrize("damage", ["cut", "flip", "text", "empty", "renamed", "no key", "other type"])
def test_damaged_and_foreign_files_are_noted_and_replaced(tmp_path: Path, damage: str) -> None:
    cache = EmbeddingCache(0, tmp_path)
    cache.put(KEYS[0], embedding(1))
    file = tmp_path / KEYS[0][:2] / f"{KEYS[0]}.safetensors"
    content = bytearray(file.read_bytes())
    if damage == "cut":
        file.write_bytes(content[:-5])
    elif damage == "flip":
        content[-100] ^= 1
        file.write_bytes(content)
    elif damage == "text":
        file.write_text("no embedding")
    elif damage == "empty":
        file.write_bytes(b"")
    elif damage == "renamed":
        cache.put(KEYS[1], embedding(2))
        os.replace(tmp_path / KEYS[1][:2] / f"{KEYS[1]}.safetensors", file)
    elif damage == "no key":
        save_file(load_file(file), file)
    else:
        file.write_bytes(content.replace(b"BF16", b"I16 ").replace(b'"I16 "', b'"I16" '))
    assert cache.get(KEYS[0]) is None
    assert len(cache.notes) == 1
    assert str(file) in cache.notes[0]
    cache.put(KEYS[0], embedding(1))
    assert same(cache.get(KEYS[0]), embedding(1))
    assert len(cache.notes) == 1


def test_an_unusable_folder_is_refused_before_any_work(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match=r"cannot keep embeddings in .*file"):
        EmbeddingCache(0, tmp_path / "file")
    with pytest.raises(InputError, match="not a directory"):
        EmbeddingCache(0, tmp_path / "file" / "below")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_read_only_folder_is_refused(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(InputError, match="permission denied"):
        EmbeddingCache(0, tmp_path)


def test_a_full_disk_is_said_and_leaves_no_part_of_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache = EmbeddingCache(0, tmp_path)

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(InputError, match="no space left on device") as caught:
        cache.put(KEYS[0], embedding(1))
    assert "--embedding-cache" in caught.value.hint
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


def test_processes_share_a_folder(tmp_path: Path) -> None:
    script = (
        "import sys, torch; from pathlib import Path; from medseg_cli.embeddings import EmbeddingCache\n"
        "cache = EmbeddingCache(0, Path(sys.argv[1]))\n"
        "for turn in range(40):\n"
        "    cache.put(sys.argv[2], {'features': torch.arange(4096.)[None]})\n"
        "    assert torch.equal(cache.get(sys.argv[2])['features'], torch.arange(4096.)[None])\n"
        "assert not cache.notes, cache.notes\n"
    )
    running = [subprocess.Popen([sys.executable, "-c", script, str(tmp_path), KEYS[3]]) for _ in range(2)]
    assert [process.wait(timeout=120) for process in running] == [0, 0]
    assert len([path for path in tmp_path.rglob("*") if path.is_file()]) == 1
