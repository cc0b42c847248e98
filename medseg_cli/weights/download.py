"""One file from one https address to one path: resumed where it stopped, never from another version of the file."""

from __future__ import annotations

import errno
import json
import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlsplit

from medseg_cli.errors import ModelError

if TYPE_CHECKING:
    import httpx

Progress = Callable[[int, int | None], None]

TRIES = 5  # attempts in a row that bring no new byte
PAUSE = 1.0  # seconds before the second attempt, doubled for each further one
_LOOPBACK = ("127.0.0.1", "::1", "localhost")
_SPARE = 64 * 2**20  # bytes left free on the disk
_OFF = ("", "0", "false", "no", "off")


def is_offline() -> bool:
    """Whether `MEDSEG_OFFLINE` forbids the network."""
    return os.environ.get("MEDSEG_OFFLINE", "").strip().lower() not in _OFF


def check_address(url: str) -> None:
    """https and file addresses are allowed; http only to this machine, where nobody sits in between.

    Raises:
        ModelError: another scheme, or the network is needed and forbidden.
    """
    parts = urlsplit(url)
    if parts.scheme == "file":
        return
    if parts.scheme != "https" and not (parts.scheme == "http" and parts.hostname in _LOOPBACK):
        raise ModelError(f"refused to download from {url}: only https:// and file:// are safe", "use an https address")
    if is_offline():
        raise ModelError(
            f"MEDSEG_OFFLINE is set: {parts.hostname} is not contacted", "unset MEDSEG_OFFLINE to download"
        )


def fetch(url: str, part: Path, size: int | None = None, progress: Progress | None = None) -> None:
    """Download `url` to `part`, going on where an earlier attempt stopped.

    `part.json` beside it remembers the address and the server's version of the file. On any failure, and on Ctrl-C,
    both stay, so that the next call resumes.

    Args:
        url: https, file, or http to this machine.
        part: file to fill.
        size: bytes expected, to refuse another file or a full disk early; None if unknown.
        progress: called with (bytes done, bytes in all or None).

    Raises:
        ModelError: refused, offline, not found, unreachable, too slow, of another size, or the disk is full.
    """
    check_address(url)
    try:
        part.parent.mkdir(parents=True, exist_ok=True)
        if urlsplit(url).scheme == "file":
            _copy(Path(unquote(urlsplit(url).path)), part, progress)
            return
        _fetch_https(url, part, size, progress)
    except OSError as error:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        raise ModelError(
            f"cannot write {part}: {'the disk is full' if full else error.strerror or error}",
            "free some space, or let MEDSEG_HOME name another folder; the download will go on where it stopped",
        ) from error


def discard(part: Path) -> None:
    """Forget an unfinished or wrong download."""
    part.unlink(missing_ok=True)
    _note_of(part).unlink(missing_ok=True)


def _copy(source: Path, part: Path, progress: Progress | None) -> None:
    if not source.is_file():
        raise ModelError(f"there is no file {source}", "check the file:// address")
    _check_space(part, source.stat().st_size, 0)
    shutil.copyfile(source, part)
    if progress:
        progress(part.stat().st_size, part.stat().st_size)


def _fetch_https(url: str, part: Path, size: int | None, progress: Progress | None) -> None:
    import httpx

    host = urlsplit(url).hostname
    idle = 0
    timeout = httpx.Timeout(20.0, read=60.0)
    hooks = {"request": [lambda request: check_address(str(request.url))]}  # redirects are held to the same rule
    with httpx.Client(follow_redirects=True, timeout=timeout, event_hooks=hooks) as client:
        while True:
            before = _size(part)
            try:
                if _attempt(client, url, part, size, progress):
                    return
                reason = "the connection ended early"
            except httpx.HTTPStatusError as error:
                status = error.response.status_code
                if status < 500 and status not in (408, 429):
                    raise _refused(url, status) from error
                reason = f"the server answers {status}"
            except httpx.TimeoutException:
                reason = "no answer in time"
            except (httpx.InvalidURL, httpx.UnsupportedProtocol, httpx.TooManyRedirects) as error:
                raise ModelError(f"cannot download {url}: {error}") from error
            except httpx.TransportError as error:
                reason = " ".join(str(error).split()) or type(error).__name__
            idle = 0 if _size(part) > before else idle + 1
            if idle >= TRIES:
                raise ModelError(
                    f"cannot download from {host}: {reason} ({TRIES} attempts)",
                    "check the connection and HTTPS_PROXY; the same command goes on where it stopped",
                )
            time.sleep(PAUSE * 2 ** max(idle - 1, 0))


def _attempt(client: httpx.Client, url: str, part: Path, size: int | None, progress: Progress | None) -> bool:
    """One request; True when the file is complete."""
    have = _size(part)
    note = _read_note(part)
    headers = {"Accept-Encoding": "identity"}
    if have and note.get("url") == url and note.get("version"):
        headers |= {"Range": f"bytes={have}-", "If-Range": note["version"]}
    with client.stream("GET", url, headers=headers) as response:
        if response.status_code == 416:
            if _extent(response)[1] == have:
                return True
            discard(part)
            return False
        response.raise_for_status()
        if response.headers.get("content-type", "").startswith("text/html"):
            raise ModelError(f"{url} answers with a web page instead of the file", "open it in a browser")
        start, total = _extent(response)
        if start not in (0, have):
            discard(part)
            return False
        if size is not None and total is not None and total != size:
            raise ModelError(f"{url} offers {total} bytes, the published file has {size}", "the file was exchanged")
        _check_space(part, total or size or 0, start)
        _write_note(part, url, response)
        done = start
        with part.open("ab" if start else "wb") as stream:
            for chunk in response.iter_raw():  # a chunk size would hold back, and lose, what came before a break
                stream.write(chunk)
                done += len(chunk)
                if progress:
                    progress(done, total)
    expected = size if total is None else total
    return expected is None or done >= expected


def _extent(response: httpx.Response) -> tuple[int, int | None]:
    """First byte that a response brings, and the size of the whole file (None if not said)."""
    if response.status_code in (206, 416):
        span, _, whole = response.headers.get("content-range", "").removeprefix("bytes ").partition("/")
        first = span.partition("-")[0]
        return (int(first) if first.isdigit() else -1), (int(whole) if whole.isdigit() else None)
    length = response.headers.get("content-length", "")
    return 0, (int(length) if length.isdigit() else None)


def _refused(url: str, status: int) -> ModelError:
    why = {401: "needs a login", 403: "refuses access to", 404: "does not have", 410: "no longer has"}
    host = urlsplit(url).hostname
    return ModelError(f"{host} {why.get(status, f'answers {status} for')} {url} (HTTP {status})")


def _check_space(part: Path, total: int, have: int) -> None:
    """Room for the rest of the download and for the converted copy, which has about the same size."""
    free = shutil.disk_usage(part.parent).free
    needed = (total - have) + total + _SPARE
    if free < needed:
        raise ModelError(
            f"{part.parent} has {free / 1e9:.1f} GB free, {needed / 1e9:.1f} GB are needed",
            "free some space, or let MEDSEG_HOME name a folder on another disk",
        )


def _size(part: Path) -> int:
    return part.stat().st_size if part.is_file() else 0


def _note_of(part: Path) -> Path:
    return part.with_name(part.name + ".json")


def _read_note(part: Path) -> dict[str, str]:
    try:
        note = json.loads(_note_of(part).read_text("utf-8"))
    except (OSError, ValueError):
        return {}
    return note if isinstance(note, dict) else {}


def _write_note(part: Path, url: str, response: httpx.Response) -> None:
    """Remember what `If-Range` needs: a strong ETag or, without one, the modification date."""
    tag = response.headers.get("etag", "")
    version = tag if tag and not tag.startswith("W/") else response.headers.get("last-modified", "")
    _note_of(part).write_text(json.dumps({"url": url, "version": version}), "utf-8")
