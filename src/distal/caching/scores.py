"""Scores on disk, addressed by what they depend on, in shards that are written as scoring goes on.

    CACHE/scores/<key>/manifest.json                      what the entry is of, and where its shards begin and end
                       00000-<SHA-256>.safetensors        a shard: the scores of consecutive rows
                       lock                               empty; who works on which shard

The key is a hash of all that a score depends on: the weights, the token rows (which carry tokenizer, template and
truncation), the arithmetic, and the version of our own code. So an entry never goes stale; it only stops being asked
for. A shard's name holds the hash of its bytes, header included, and its header says which rows of which entry it
holds: no byte can change, and no file be mixed up, without being found.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import time
from collections import deque
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load, save

from distal.caching.files import check_writable, write_atomically
from distal.caching.folder import HOW_TO_MOVE_IT
from distal.caching.locks import PartLocks
from distal.caching.sealed import digest_of, seal, unseal
from distal.errors import CacheError, OutputError

__all__ = [
    "LOCK",
    "MANIFEST",
    "SCHEMA",
    "SCORING_VERSION",
    "SHARD_NAME",
    "ScoreCache",
    "ScoreEntry",
    "ShardFile",
]

SCHEMA = "distal.scores/1"
SCORING_VERSION = 2
"""Raised whenever a change of code changes scores by more than rounding, or where shards begin and end."""

MANIFEST, LOCK = "manifest.json", "lock"
SHARD_NAME = re.compile(r"(\d{5,})-([0-9a-f]{64})\.safetensors")

POLL = 0.2
"""Seconds between two looks at a shard that another process computes."""
PATIENCE = 120.0
"""Seconds of waiting for it, after which this process computes the shard itself: the other may have been stopped."""

Scores = NDArray[np.floating]
Warn = Callable[[str], None]


class ScoreCache:
    """Scores by key in a folder.

    Examples:
        >>> import numpy as np, tempfile
        >>> cache = ScoreCache(tempfile.mkdtemp())
        >>> entry = cache.entry({"weights": "w", "rows": "r"}, bounds=[0, 2, 3])
        >>> entry.prepare()
        >>> entry.save(0, np.array([-1.5, -2.0], dtype=np.float32))
        >>> {number: scores.tolist() for number, scores in entry.load_all().items()}
        {0: [-1.5, -2.0]}
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder) / "scores"

    @staticmethod
    def key(identity: Mapping[str, str]) -> str:
        """Hash of everything that the scores depend on, 64 hexadecimal digits."""
        return digest_of({**identity, "scoring_version": str(SCORING_VERSION)})

    def entry(
        self,
        identity: Mapping[str, str],
        *,
        bounds: Sequence[int] | NDArray[np.int64],
        dtype: str = "float32",
        about: Mapping[str, str] | None = None,
    ) -> ScoreEntry:
        """The entry of an identity, present or not.

        Args:
            identity: everything that the scores depend on.
            bounds: (shards + 1,) row numbers where shards begin and end.
            dtype: `float32` or `float64`.
            about: what people want to know who look at the entry; no part of the key.
        """
        full = {**identity, "scoring_version": str(SCORING_VERSION)}
        return ScoreEntry(
            self.folder / self.key(identity), full, [int(b) for b in bounds], dtype, about or {}
        )


class ShardFile(NamedTuple):
    """Where the scores of some rows are: shard number, first row, and the row behind the last one."""

    number: int
    start: int
    stop: int

    def encode(self, key: str, scores: Scores) -> bytes:
        """The file of a shard; the same for the same scores."""
        # One field: safetensors writes several in any order.
        header = {"schema": SCHEMA, "key": key, **self._asdict()}
        return save({"scores": np.ascontiguousarray(scores)}, {"distal": json.dumps(header, sort_keys=True)})

    @classmethod
    def decode(cls, content: bytes, *, key: str, digest: str) -> tuple[ShardFile, Scores]:
        """What a file holds.

        Raises:
            ValueError: its bytes do not have the hash, or it belongs elsewhere.
        """
        if hashlib.sha256(content).hexdigest() != digest:
            raise ValueError("its bytes do not have the checksum in its name")
        try:
            length = int.from_bytes(content[:8], "little")
            header = json.loads(json.loads(content[8 : 8 + length])["__metadata__"]["distal"])
            shard = cls(header["number"], header["start"], header["stop"])
            scores = load(content)["scores"]
        except (SafetensorError, ValueError, KeyError, TypeError) as error:
            raise ValueError(f"it is no shard of scores ({type(error).__name__})") from error
        if (header.get("schema"), header.get("key")) != (SCHEMA, key):
            raise ValueError("it belongs to another entry or version")
        if scores.shape != (shard.stop - shard.start,):
            raise ValueError(f"it holds {scores.shape} scores for rows {shard.start} to {shard.stop - 1}")
        return shard, scores


class ScoreEntry:
    """The scores of one data set under one model; made by `ScoreCache.entry`."""

    def __init__(
        self,
        folder: Path,
        identity: Mapping[str, str],
        bounds: list[int],
        dtype: str,
        about: Mapping[str, str],
    ) -> None:
        self.folder = folder
        self.key = folder.name
        self.dtype = dtype
        self._record: dict[str, Any] = {
            "schema": SCHEMA,
            "kind": "scores",
            "key": self.key,
            "identity": dict(identity),
            "about": dict(about),
            "dtype": dtype,
            "bounds": bounds,
        }
        self.shards = [ShardFile(n, bounds[n], bounds[n + 1]) for n in range(len(bounds) - 1)]
        self._damaged: dict[int, list[Path]] = {}
        self._locks: PartLocks | None = None

    # ------------------------------------------------------------------ reading

    def load_all(self, warn: Warn = lambda message: None) -> dict[int, Scores]:
        """Scores of every shard that is there and whole, by its number.

        Args:
            warn: called with a message for each damaged file: which it is and which rows it held. Its shard counts
                as missing.
        """
        found: dict[int, list[Path]] = {}
        for path in self._files():
            matched = SHARD_NAME.fullmatch(path.name)
            if matched is not None:
                found.setdefault(int(matched[1]), []).append(path)
        if found:
            self._check_manifest(warn)
        loaded = {
            shard.number: self._first_whole(shard, found.get(shard.number, []), warn) for shard in self.shards
        }
        return {number: scores for number, scores in loaded.items() if scores is not None}

    def load(self, number: int, warn: Warn = lambda message: None) -> Scores | None:
        """Scores of one shard, or None where it is missing or damaged."""
        shard = self.shards[number]
        return self._first_whole(shard, sorted(self.folder.glob(f"{number:05d}-*.safetensors")), warn)

    def touch(self) -> None:
        """Note that the entry has been used, so that `distal cache prune` knows; a read-only cache stays as it is."""
        with suppress(OSError):
            os.utime(self.folder / MANIFEST)

    def _files(self) -> list[Path]:
        try:
            return sorted(self.folder.iterdir())
        except (FileNotFoundError, NotADirectoryError):
            return []
        except OSError as error:
            raise CacheError(
                f"cannot read cached scores in {self.folder} ({error.strerror or error}); make the folder readable, or "
                f"{HOW_TO_MOVE_IT}"
            ) from error

    def _first_whole(self, shard: ShardFile, paths: Sequence[Path], warn: Warn) -> Scores | None:
        for path in paths:
            try:
                return self._read(shard, path)
            except (OSError, ValueError) as error:
                known = self._damaged.setdefault(shard.number, [])
                if path not in known:
                    known.append(path)
                    reason = (error.strerror or error) if isinstance(error, OSError) else error
                    warn(
                        f"cached scores are damaged: {path} (shard {shard.number}, rows {shard.start} to "
                        f"{shard.stop - 1}): {reason}. Only these rows are scored again."
                    )
        return None

    def _read(self, shard: ShardFile, path: Path) -> Scores:
        matched = SHARD_NAME.fullmatch(path.name)
        if matched is None:
            raise ValueError("its name is not that of a shard")
        held, scores = ShardFile.decode(path.read_bytes(), key=self.key, digest=matched[2])
        if held != shard or str(scores.dtype) != self.dtype:
            raise ValueError(f"it holds {held} in {scores.dtype}, where {shard} in {self.dtype} should be")
        return scores

    def _check_manifest(self, warn: Warn) -> None:
        path = self.folder / MANIFEST
        try:
            if unseal(path.read_bytes())["key"] != self.key:
                raise ValueError("it belongs to another entry")
        except FileNotFoundError:
            self._write_manifest_if_possible()
        except (OSError, ValueError, KeyError) as error:
            warn(f"the manifest of cached scores is damaged: {path}: {error}. It is written again.")
            self._write_manifest_if_possible()

    # ------------------------------------------------------------------ writing

    def prepare(self) -> None:
        """Find out before hours of scoring whether shards can be written, and write the manifest.

        Raises:
            OutputError: the folder cannot be written.
        """
        with _explained(self.folder):
            if not (self.folder / MANIFEST).exists():
                self._write_manifest()
            check_writable(self.folder / LOCK)
            if self._locks is None:
                self._locks = PartLocks(self.folder / LOCK)

    def save(self, number: int, scores: Scores) -> None:
        """Write a shard; afterwards nothing is left of damaged files in its place.

        Raises:
            OutputError: the folder cannot be written.
        """
        shard = self.shards[number]
        content = shard.encode(self.key, scores)
        path = self.folder / f"{number:05d}-{hashlib.sha256(content).hexdigest()}.safetensors"
        with _explained(self.folder):
            if not (self.folder / MANIFEST).exists():  # the entry was removed while we computed
                self._write_manifest()
            write_atomically(path, content)
        if self._locks is not None:
            self._locks.release(number)
        for damaged in self._damaged.pop(number, []):
            if damaged != path:
                with suppress(OSError):
                    damaged.unlink()

    def _write_manifest(self) -> None:
        write_atomically(self.folder / MANIFEST, seal(self._record))

    def _write_manifest_if_possible(self) -> None:
        # The shards say themselves what they are: a cache that cannot be written is as good to read without it.
        with suppress(OutputError):
            self._write_manifest()

    # ------------------------------------------------------------------ several processes

    def turns(
        self, missing: Sequence[int], warn: Warn = lambda message: None
    ) -> Generator[tuple[int, Scores | None]]:
        """Goes through missing shards in such an order that no other process is at the same one.

        A shard that another process computes is left for later. When only such shards remain, we wait for them; a
        process that dies loses its locks, and what it did not finish is ours.

        Yields:
            Number of a shard, and its scores where another process has completed it meanwhile; otherwise the caller
            computes and saves them, and holds the shard until then.
        """
        locks = self._locks
        assert locks is not None, "prepare() comes first"
        waiting, refused, since = deque(missing), 0, time.monotonic()
        while waiting:
            number = waiting.popleft()
            granted = locks.acquire(number)
            all_taken = refused > len(waiting)
            if not granted and not (all_taken and time.monotonic() - since > PATIENCE):
                waiting.append(number)
                refused += 1
                if refused % len(waiting) == 0:  # all of them, once more
                    time.sleep(POLL)
                continue
            known = self.load(number, warn)
            if known is not None:
                locks.release(number)
            yield number, known
            refused, since = 0, time.monotonic()

    def close(self) -> None:
        """Let go of the locks."""
        if self._locks is not None:
            self._locks.close()
            self._locks = None


@contextmanager
def _explained(folder: Path) -> Generator[None]:
    """Says what to do where the folder cannot be written."""
    try:
        yield
    except OSError as error:
        cause = error.__cause__ if isinstance(error, OutputError) else error
        reason = getattr(cause, "strerror", None) or cause
        raise OutputError(
            f"cannot write cached scores to {folder} ({reason}); the shards that are there are kept, and the next run "
            f"goes on from them. Make the folder writable or make room, or {HOW_TO_MOVE_IT}."
        ) from error
