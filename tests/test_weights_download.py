"""Downloads against a real server on loopback: resumed, verified, refused."""

from __future__ import annotations

import dataclasses
import hashlib
import io
import json
from collections.abc import Callable
from pathlib import Path

import checkpoints
import pytest
import torch
from checkpoints import Site, serve
from filelock import FileLock

from medseg_cli.errors import ModelError
from medseg_cli.weights import catalogue, download, store
from medseg_cli.weights import pull as pulling
from medseg_cli.weights.pull import pull

BODY = bytes(range(256)) * 4096  # 1 MiB


@pytest.fixture(autouse=True)
def no_pauses(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(download, "PAUSE", 0.0)
    for name in ("http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def published(monkeypatch: pytest.MonkeyPatch) -> bytes:
    """A small torch file that takes the place of SAM ViT-B's in the catalogue: other size and hash, same rules."""
    buffer = io.BytesIO()
    torch.save(checkpoints.sam(), buffer)
    body = buffer.getvalue()
    changed = tuple(
        dataclasses.replace(each, size=len(body), sha256=hashlib.sha256(body).hexdigest())
        if each.name == "sam-vit-b"
        else each
        for each in catalogue.CATALOGUE
    )
    monkeypatch.setattr(catalogue, "CATALOGUE", changed)
    return body


def test_a_file_arrives_whole(tmp_path: Path):
    seen: list[tuple[int, int | None]] = []
    with serve(Site(BODY)) as site:
        download.fetch(site.url, tmp_path / "a.part", progress=lambda done, total: seen.append((done, total)))
    assert (tmp_path / "a.part").read_bytes() == BODY
    assert seen[-1] == (len(BODY), len(BODY))


@pytest.mark.parametrize(
    "validator", [{"etag": '"v1"'}, {"etag": 'W/"v1"', "modified": "Tue, 01 Sep 2026 10:00:00 GMT"}]
)
def test_a_broken_connection_is_resumed_not_repeated(tmp_path: Path, validator: dict[str, str]):
    with serve(Site(BODY, cut=[300_000, 500_000], **validator)) as site:
        download.fetch(site.url, tmp_path / "a.part")
    assert (tmp_path / "a.part").read_bytes() == BODY
    assert [request.get("range") for request in site.requests] == [None, "bytes=300000-", "bytes=800000-"]
    assert site.requests[1]["if-range"] == (validator.get("modified") or validator["etag"])


def test_a_later_run_resumes_what_an_earlier_one_left(tmp_path: Path):
    part = tmp_path / "a.part"

    def stop(done: int, total: int | None) -> None:
        raise KeyboardInterrupt

    with serve(Site(BODY, cut=[400_000])) as site:
        with pytest.raises(KeyboardInterrupt):
            download.fetch(site.url, part, progress=stop)
        left = part.stat().st_size
        assert 0 < left < len(BODY)
        download.fetch(site.url, part)
    assert part.read_bytes() == BODY
    assert site.requests[-1]["range"] == f"bytes={left}-"


def test_another_version_on_the_server_starts_over(tmp_path: Path):
    part = tmp_path / "a.part"
    with serve(Site(BODY)) as site:
        part.write_bytes(b"old " * 100)
        (tmp_path / "a.part.json").write_text(json.dumps({"url": site.url, "version": '"v0"'}))
        download.fetch(site.url, part)
    assert part.read_bytes() == BODY
    assert site.requests[0]["if-range"] == '"v0"'


@pytest.mark.parametrize("behaviour", [{"ranges": False}, {"etag": ""}])
def test_a_server_that_cannot_resume_sends_all_again(tmp_path: Path, behaviour: dict[str, object]):
    with serve(Site(BODY, cut=[300_000], **behaviour)) as site:
        download.fetch(site.url, tmp_path / "a.part")
    assert (tmp_path / "a.part").read_bytes() == BODY
    assert len(site.requests) == 2


def test_a_part_that_is_complete_already_is_not_fetched_again(tmp_path: Path):
    part = tmp_path / "a.part"
    with serve(Site(BODY)) as site:
        download.fetch(site.url, part)
        part.write_bytes(BODY)
        download.fetch(site.url, part)
    assert part.read_bytes() == BODY
    assert len(site.requests) == 2


def test_server_trouble_is_waited_out(tmp_path: Path):
    with serve(Site(BODY, status=[503, 500, 429])) as site:
        download.fetch(site.url, tmp_path / "a.part")
    assert (tmp_path / "a.part").read_bytes() == BODY


@pytest.mark.parametrize(
    ("status", "word"), [(404, "does not have"), (403, "refuses"), (401, "login"), (410, "no longer")]
)
def test_a_refusal_is_said_at_once(tmp_path: Path, status: int, word: str):
    with serve(Site(BODY, status=[status] * 9)) as site, pytest.raises(ModelError, match=rf"{word}.*HTTP {status}"):
        download.fetch(site.url, tmp_path / "a.part")
    assert len(site.requests) == 1


def test_a_dead_server_is_named_after_all_attempts(tmp_path: Path):
    with serve(Site(BODY)) as site:
        pass
    with pytest.raises(ModelError, match=r"cannot download from 127\.0\.0\.1.*5 attempts"):
        download.fetch(site.url, tmp_path / "a.part")


def test_a_server_that_never_sends_a_byte_more_is_given_up(tmp_path: Path):
    with serve(Site(BODY, cut=[1000] + [0] * 20)) as site, pytest.raises(ModelError, match="5 attempts"):
        download.fetch(site.url, tmp_path / "a.part")
    assert (tmp_path / "a.part").stat().st_size == 1000


def test_a_web_page_is_no_checkpoint(tmp_path: Path):
    with (
        serve(Site(b"<html>sign in</html>", content_type="text/html; charset=utf-8")) as site,
        pytest.raises(ModelError, match="web page"),
    ):
        download.fetch(site.url, tmp_path / "a.part")


@pytest.mark.parametrize(
    "url", ["http://example.org/a.pth", "ftp://example.org/a.pth", "sam-vit-b", "http://127.0.0.1.evil.org/a"]
)
def test_only_safe_addresses(url: str, tmp_path: Path):
    with pytest.raises(ModelError, match="only https:// and file:// are safe"):
        download.fetch(url, tmp_path / "a.part")


def test_a_redirect_out_of_safety_is_refused(tmp_path: Path):
    with serve(Site(BODY, redirect="http://example.org/a.pth")) as site, pytest.raises(ModelError, match="refused"):
        download.fetch(site.url, tmp_path / "a.part")


@pytest.mark.parametrize("value", ["1", "true", "YES"])
def test_offline_forbids_the_network_but_not_files(value: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("MEDSEG_OFFLINE", value)
    (tmp_path / "a b.pth").write_bytes(BODY)
    with serve(Site(BODY)) as site, pytest.raises(ModelError, match="MEDSEG_OFFLINE"):
        download.fetch(site.url, tmp_path / "a.part")
    assert site.requests == []
    download.fetch((tmp_path / "a b.pth").as_uri(), tmp_path / "b.part")
    assert (tmp_path / "b.part").read_bytes() == BODY


def test_offline_zero_means_online(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("MEDSEG_OFFLINE", "0")
    with serve(Site(BODY)) as site:
        download.fetch(site.url, tmp_path / "a.part")
    assert (tmp_path / "a.part").read_bytes() == BODY


def test_proxies_of_the_environment_are_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    with serve(Site(BODY)) as proxy:
        address = proxy.url.rsplit("/", 1)[0]
        monkeypatch.setenv("http_proxy", address)
        monkeypatch.setenv("no_proxy", "")
        monkeypatch.setattr(download, "_LOOPBACK", ("weights.test",))
        download.fetch("http://weights.test/a.pth", tmp_path / "a.part")
    assert proxy.requests[0]["host"] == "weights.test"
    assert (tmp_path / "a.part").read_bytes() == BODY


def test_too_little_space_is_said_before_downloading(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    free = len(BODY) + download._SPARE
    monkeypatch.setattr(download.shutil, "disk_usage", lambda _: type("Usage", (), {"free": free})())
    with serve(Site(BODY)) as site, pytest.raises(ModelError, match="GB free"):
        download.fetch(site.url, tmp_path / "a.part")
    assert not (tmp_path / "a.part").exists()


def test_pull_stores_verified_safetensors(published: bytes):
    with serve(Site(published, cut=[len(published) // 2])) as site:
        record = pull("sam-vit-b", url=site.url)
        again = pull("sam-vit-b", url=site.url)
    assert record == again
    assert len(site.requests) == 2, "the second pull needs no server"
    assert record.source_sha256 == hashlib.sha256(published).hexdigest()
    assert store.path("sam-vit-b") == store.folder() / "sam-vit-b.safetensors"
    assert list((store.folder() / "downloads").glob("*.part*")) == []


def test_pull_removes_what_is_not_the_published_file(published: bytes):
    wrong = bytes(reversed(published))
    with serve(Site(wrong)) as site, pytest.raises(ModelError, match=r"SHA-256 .* removed") as caught:
        pull("sam-vit-b", url=site.url)
    assert "medseg weights import FILE --name sam-vit-b" in caught.value.hint
    assert caught.value.exit_code == 4
    assert not store.file_of("sam-vit-b").exists()
    assert list((store.folder() / "downloads").glob("*.part*")) == []


def test_pull_tries_afresh_when_the_resumed_part_was_bad(published: bytes):
    part = store.folder() / "downloads" / "sam-vit-b.part"
    part.parent.mkdir(parents=True)
    part.write_bytes(b"\0" * 100)
    with serve(Site(published)) as site:
        part.with_name("sam-vit-b.part.json").write_text(json.dumps({"url": site.url, "version": site.etag}))
        record = pull("sam-vit-b", url=site.url)
    assert [request.get("range") for request in site.requests] == ["bytes=100-", None]
    assert record.source_sha256 == hashlib.sha256(published).hexdigest()


def test_pull_refuses_a_file_of_another_size_before_downloading_it(published: bytes):
    with serve(Site(published + b"more")) as site, pytest.raises(ModelError, match=r"offers \d+ bytes"):
        pull("sam-vit-b", url=site.url)


def test_pull_replaces_a_damaged_store_file(published: bytes):
    with serve(Site(published)) as site:
        pull("sam-vit-b", url=site.url)
        store.file_of("sam-vit-b").write_bytes(b"damaged")
        with pytest.raises(ModelError, match="damaged"):
            store.path("sam-vit-b")
        pull("sam-vit-b", url=site.url)
    assert store.path("sam-vit-b").is_file()


def test_pull_from_a_file_address(published: bytes, tmp_path: Path):
    (tmp_path / "mirror.pth").write_bytes(published)
    assert pull("sam-vit-b", url=(tmp_path / "mirror.pth").as_uri()).layout == "sam-vit-b"
    assert (tmp_path / "mirror.pth").exists()


@pytest.mark.parametrize("name", [each.name for each in catalogue.CATALOGUE if not each.url])
def test_what_only_a_page_offers_says_so(name: str):
    with pytest.raises(ModelError, match="cannot be downloaded by a program") as caught:
        pull(name)
    known = catalogue.entry(name)
    assert known is not None
    assert f"medseg weights import FILE --name {name}" in caught.value.hint
    assert known.page in caught.value.hint


def test_pull_of_an_unknown_name_suggests_one():
    with pytest.raises(ModelError, match="did you mean 'sam-vit-b'"):
        pull("sam_vit_b")


def test_a_second_pull_waits_for_the_first(published: bytes, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(pulling, "WAIT", 0.1)
    waited: list[bool] = []
    lock = store.folder() / "downloads" / "sam-vit-b.lock"
    lock.parent.mkdir(parents=True)
    tell: Callable[[], None] = lambda: waited.append(True)  # noqa: E731
    with serve(Site(published)) as site:
        with FileLock(lock, thread_local=False), pytest.raises(ModelError, match="another medseg"):
            pull("sam-vit-b", url=site.url, on_wait=tell)
        assert waited == [True]
        assert pull("sam-vit-b", url=site.url, on_wait=tell).name == "sam-vit-b"
    assert waited == [True]
