"""`medseg weights pull`: download, verify, convert into the store. The only code path that uses the network."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from medseg_cli.errors import ModelError
from medseg_cli.weights import download, store
from medseg_cli.weights.catalogue import Entry, entry
from medseg_cli.weights.importer import import_file

if TYPE_CHECKING:
    from collections.abc import Iterator

WAIT = 3600.0  # seconds that a second pull of the same weights waits for the first


def pull(
    name: str,
    *,
    url: str = "",
    progress: download.Progress | None = None,
    on_wait: Callable[[], None] | None = None,
) -> store.Record:
    """Bring a catalogue entry into the store; does nothing when it is there and sound.

    Args:
        name: catalogue name.
        url: another address of the same file, such as a mirror; it is verified all the same.
        progress: called with (bytes done, bytes in all or None).
        on_wait: called once if another process is pulling the same weights.

    Raises:
        ModelError: unknown, only to be had by hand, offline, the download failed, or it is not the published file.
    """
    known = entry(name)
    if known is None:
        raise store.missing(name)
    if (present := _sound(name)) is not None:
        return present
    address = url or known.url
    if not address:
        raise ModelError(f"'{name}' cannot be downloaded by a program", store.how_to_get(name))
    download.check_address(address)
    part = store.folder() / "downloads" / f"{name}.part"
    with _alone(part, on_wait):
        if (present := _sound(name)) is not None:
            return present
        try:
            _fetch_verified(known, address, part, progress)
        except ModelError as error:
            by_hand = f"or get {known.file} from {known.page} and type: medseg weights import FILE --name {name}"
            raise ModelError(error.message, "; ".join(filter(None, (error.hint, by_hand)))) from error
        record = import_file(part, name, overwrite=True, source=address)
        download.discard(part)
    return record


def _fetch_verified(known: Entry, address: str, part: Path, progress: download.Progress | None) -> None:
    """Download and compare with the published hash; a wrong file is removed, after one fresh try if it was resumed."""
    resumed = part.is_file()
    download.fetch(address, part, known.size, progress)
    if known.sha256 is None:
        return
    digest = store.sha256_of(part)
    if not digest.startswith(known.sha256) and resumed:
        download.discard(part)
        download.fetch(address, part, known.size, progress)
        digest = store.sha256_of(part)
    if not digest.startswith(known.sha256):
        download.discard(part)
        raise ModelError(
            f"what {address} sent has SHA-256 {digest[:12]}..., '{known.name}' has {known.sha256[:12]}...: removed",
            "a proxy or mirror may have changed it",
        )


def _sound(name: str) -> store.Record | None:
    """The record of weights that are in the store and undamaged."""
    record, file = store.record(name), store.file_of(name)
    if record is None or not file.is_file() or store.checked_hash(file) != record.sha256:
        return None
    return record


@contextmanager
def _alone(part: Path, on_wait: Callable[[], None] | None) -> Iterator[None]:
    """Hold the lock of one download, waiting for another process that has it."""
    from filelock import FileLock, Timeout

    try:
        part.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ModelError(
            f"cannot create {part.parent}: {error.strerror}", "let MEDSEG_HOME name a folder that can be written"
        ) from error
    lock = FileLock(part.with_suffix(".lock"))
    try:
        lock.acquire(timeout=0)
    except Timeout:
        if on_wait:
            on_wait()
        try:
            lock.acquire(timeout=WAIT)
        except Timeout as error:
            raise ModelError(f"another medseg has been downloading {part.stem} for an hour", "stop it first") from error
    try:
        yield
    finally:
        lock.release()
