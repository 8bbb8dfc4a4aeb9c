"""Fetch the Java archives that ``jars.lock`` pins: Maven coordinates, sizes and SHA-256; nothing is used before it is verified.

Run as ``python -m infra.jars FOLDER`` by the bootstrap.  Files that are there and have the pinned size are taken as verified: they
got their name only after the check.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import ssl
import sys
import tarfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path

from fraud.errors import Unavailable

__all__ = ["LOCK_FILE", "Jar", "fetch_jars", "jar_paths", "parse_lock", "read_lock", "registry_folder", "repository_url"]

LOCK_FILE = Path(__file__).resolve().parent / "jars.lock"

_CHUNK_BYTES = 1 << 18
_ATTEMPTS = 4
_TIMEOUT_S = 60.0
_PARALLEL = 6


@dataclass(frozen=True)
class Jar:
    """One pinned archive: the ``part`` of the stack that uses it, and its Maven ``coordinates``.

    Coordinates are ``group:artifact:version[:extension[:classifier]]``.
    """

    part: str
    coordinates: str
    size_bytes: int
    sha256: str

    @property
    def file_name(self) -> str:
        """The name in the repository and on disk."""
        return self.repository_path.rsplit("/", 1)[1]

    @property
    def repository_path(self) -> str:
        """The path below the root of any Maven repository."""
        group, artifact, version, *rest = self.coordinates.split(":")
        extension = rest[0] if rest else "jar"
        classifier = f"-{rest[1]}" if len(rest) > 1 else ""
        return f"{group.replace('.', '/')}/{artifact}/{version}/{artifact}-{version}{classifier}.{extension}"


def parse_lock(text: str) -> list[Jar]:
    """Parse lines of ``part coordinates size sha256``; blank lines and ``#`` comments are skipped.  ValueError names a bad line."""
    jars = []
    for number, line in enumerate(text.splitlines(), start=1):
        words = line.split("#", 1)[0].split()
        if not words:
            continue
        if len(words) != 4 or len(words[3]) != 64 or not words[2].isdigit() or words[1].count(":") not in (2, 3, 4):
            raise ValueError(f"jars.lock, line {number}: expected 'part group:artifact:version size sha256', found {line!r}")
        jars.append(Jar(words[0], words[1], int(words[2]), words[3].lower()))
    return jars


def read_lock(path: Path = LOCK_FILE) -> list[Jar]:
    """The pinned archives of this checkout."""
    return parse_lock(path.read_text(encoding="utf-8"))


def jar_paths(folder: Path, part: str) -> list[Path]:
    """The archives of one part on disk; ``Unavailable`` names the first one that is missing."""
    paths = [folder / part / jar.file_name for jar in read_lock() if jar.part == part]
    for path in paths:
        if not path.exists():
            raise Unavailable("jars", f"{path.name} is missing in {path.parent}; run ./fraudguard again to fetch it")
    return paths


def registry_folder(folder: Path) -> Path:
    """Where the registry's archive was unpacked."""
    return folder / "registry" / "app"


def repository_url() -> str:
    """The Maven repository: ``FRAUDGUARD_MAVEN_URL`` (a mirror), else Maven Central as the jgo package names it."""
    configured = os.environ.get("FRAUDGUARD_MAVEN_URL")
    if configured:
        return configured.rstrip("/")
    from jgo.constants import MAVEN_CENTRAL_URL  # noqa: PLC0415 - 0.3 s that only a download needs

    return str(MAVEN_CENTRAL_URL).rstrip("/")


def fetch_jars(jars: Iterable[Jar], folder: Path, progress: Callable[[int, int, str], None] = lambda _done, _total, _text: None) -> int:
    """Download what is missing and unpack the registry; returns the number of files fetched.

    ``progress`` gets bytes done, bytes in total and the file just finished (or an empty text).  ``Unavailable`` when a file cannot
    be had or is not the pinned one; what arrived so far is kept, and the next call continues it.
    """
    pinned = list(jars)
    missing = [jar for jar in pinned if not _is_there(jar, folder)]
    if missing:
        _download_all(missing, folder, progress)
    for jar in pinned:
        if jar.part == "registry" and jar.file_name.endswith(".tar.gz"):
            _unpack(folder / jar.part / jar.file_name, registry_folder(folder), jar.sha256)
    return len(missing)


def _is_there(jar: Jar, folder: Path) -> bool:
    path = folder / jar.part / jar.file_name
    return path.exists() and path.stat().st_size == jar.size_bytes


def _download_all(jars: Sequence[Jar], folder: Path, progress: Callable[[int, int, str], None]) -> None:
    root, context = repository_url(), _tls_context()
    total = sum(jar.size_bytes for jar in jars)
    arrived = dict.fromkeys(jars, 0)

    def download(jar: Jar) -> Jar:
        def count(size_bytes: int) -> None:
            arrived[jar] = size_bytes
            progress(sum(arrived.values()), total, "")

        _download(jar, f"{root}/{jar.repository_path}", folder / jar.part, context, count)
        return jar

    with ThreadPoolExecutor(_PARALLEL) as pool:
        waiting = [pool.submit(download, jar) for jar in sorted(jars, key=lambda jar: -jar.size_bytes)]
        try:
            for done in as_completed(waiting):
                progress(sum(arrived.values()), total, done.result().file_name)
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def _tls_context() -> ssl.SSLContext:
    """The machine's trusted roots, and certifi's for machines that have none."""
    context = ssl.create_default_context()
    try:
        import certifi  # noqa: PLC0415 - a mirror over plain HTTP needs no roots
    except ImportError:
        return context
    context.load_verify_locations(certifi.where())
    return context


def _download(jar: Jar, url: str, folder: Path, context: ssl.SSLContext, count: Callable[[int], None]) -> None:
    """Fetch one file through a ``.part`` beside it, which a later attempt continues."""
    folder.mkdir(parents=True, exist_ok=True)
    partial = folder / f"{jar.file_name}.part"
    for attempt in range(1, _ATTEMPTS + 1):
        try:
            _continue_download(url, partial, jar.size_bytes, context, count)
            break
        except (OSError, TimeoutError) as error:
            refused = isinstance(error, urllib.error.HTTPError) and error.code in (401, 403, 404)
            if refused or attempt == _ATTEMPTS:
                raise Unavailable("maven", f"{jar.coordinates} could not be fetched from {url}: {error}") from error
            time.sleep(2.0 ** (attempt - 1))
    found = _sha256_of(partial)
    if found != jar.sha256:
        partial.unlink()
        raise Unavailable("maven", f"{url} is not the pinned file: SHA-256 {found}, jars.lock says {jar.sha256}")
    partial.replace(folder / jar.file_name)


def _continue_download(url: str, partial: Path, size_bytes: int, context: ssl.SSLContext, count: Callable[[int], None]) -> None:
    have = partial.stat().st_size if partial.exists() else 0
    if have > size_bytes:
        partial.unlink()
        have = 0
    if have == size_bytes:
        return
    request = urllib.request.Request(url, headers={"Range": f"bytes={have}-"} if have else {})  # noqa: S310 - configured repository
    with urllib.request.urlopen(request, timeout=_TIMEOUT_S, context=context) as answer:  # noqa: S310
        if answer.status != 206:
            have = 0  # the server sends the whole file again
        with partial.open("ab" if have else "wb") as out:
            while chunk := answer.read(_CHUNK_BYTES):
                out.write(chunk)
                have += len(chunk)
                count(have)
    if have < size_bytes:
        raise TimeoutError(f"the connection closed after {have} of {size_bytes} bytes")


def _sha256_of(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _unpack(archive: Path, folder: Path, sha256: str) -> None:
    """Unpack into ``folder`` in one step; a stamp inside says from which archive."""
    stamp = folder / "unpacked.sha256"
    if stamp.exists() and stamp.read_text(encoding="ascii") == sha256:
        return
    fresh = folder.with_name(f"{folder.name}.part")
    shutil.rmtree(fresh, ignore_errors=True)
    with tarfile.open(archive) as tar:
        if hasattr(tarfile, "data_filter"):
            tar.extractall(fresh, filter="data")
        else:  # Python before 3.11.4; the archive is the pinned one, whose names are known to stay inside
            tar.extractall(fresh)  # noqa: S202
    (fresh / stamp.name).write_text(sha256, encoding="ascii")
    shutil.rmtree(folder, ignore_errors=True)
    fresh.rename(folder)


def _show_progress() -> Callable[[int, int, str], None]:
    """A bar on a terminal, a line per large step elsewhere."""
    last = {"percent": -1, "time": 0.0}
    terminal = sys.stderr.isatty()

    def show(done: int, total: int, _file_name: str) -> None:
        percent = 100 * done // max(total, 1)
        step = percent != last["percent"] if terminal else percent // 20 != last["percent"] // 20
        if not step:
            return
        last["percent"] = percent
        text = f"fraudguard: fetching jars {percent:3d} %  {done / 1e6:.0f} of {total / 1e6:.0f} MB"
        print(f"\r{text}\x1b[K" if terminal else text, end="\n" if not terminal or percent == 100 else "", file=sys.stderr, flush=True)

    return show


def main(arguments: Sequence[str]) -> int:
    """Fetch everything into the folder given as the only argument."""
    try:
        fetch_jars(read_lock(), Path(arguments[0]), _show_progress())
    except Unavailable as error:
        print(f"\nfraudguard: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
