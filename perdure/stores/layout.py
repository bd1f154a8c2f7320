"""The names of objects in a store.

    <xx>/<family>/<job>/manifests/<number>      a checkpoint: exists exactly if this does
    <xx>/<family>/<job>/packs/<id>              chunks of it, and of others of the family
    <xx>/<family>/<job>/claims/<epoch>          a container of the job was accepted; older ones may not commit any more
    <xx>/<family>/<job>/borrowed/<job>          that sibling may be using packs of this job
    <xx>/<family>/<job>/condemned/<id>          since then nobody was seen to need that pack; it goes after a while
    <xx>/<family>/<job>/over                    the job has ended, and siblings still need packs of it

A family is an array job with its children; any other job is one by itself. What two jobs share is shared within a
family only. `xx` is made from the family's name, so that S3 can spread jobs over its partitions.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from blake3 import blake3

from perdure.domain.jobs import folder_name

MOST_DIGITS = 9
_PACK_ID = re.compile(r"[0-9a-f]{32}")
_NUMBER = re.compile(r"[0-9]{9}")


@dataclass(frozen=True)
class Place:
    """Where one job's objects lie."""

    family: str
    job: str

    @staticmethod
    def of(job_id: str) -> Place:
        """Job ids are untrusted; what they become are safe words. A child of an array is `<array's id>:<index>`."""
        array = job_id.partition(":")[0]
        top = folder_name(array)
        family = f"{blake3(top.encode()).hexdigest()[:2]}/{top}/"
        return Place(family, f"{family}{folder_name(job_id)}/")

    @property
    def folder(self) -> str:
        """The job's own word in its family."""
        return self.job.removeprefix(self.family).rstrip("/")

    @property
    def manifests(self) -> str:
        """Prefix of its checkpoints."""
        return f"{self.job}manifests/"

    @property
    def packs(self) -> str:
        """Prefix of its packs."""
        return f"{self.job}packs/"

    @property
    def claims(self) -> str:
        """Prefix of its epochs."""
        return f"{self.job}claims/"

    @property
    def condemned(self) -> str:
        """Prefix of the packs that go."""
        return f"{self.job}condemned/"

    @property
    def borrowed(self) -> str:
        """Prefix of the siblings' marks."""
        return f"{self.job}borrowed/"

    @property
    def over(self) -> str:
        """The object that says that nobody of the job will write here any more."""
        return f"{self.job}over"

    def manifest(self, number: int) -> str:
        """The object that makes a checkpoint real."""
        return f"{self.manifests}{number:0{MOST_DIGITS}d}"

    def claim(self, epoch: int) -> str:
        """The object that fences older epochs."""
        return f"{self.claims}{epoch:0{MOST_DIGITS}d}"

    def pack_of(self, folder: str, pack_id: str) -> str:
        """A pack of any job of the family."""
        return f"{self.family}{folder}/packs/{pack_id}"

    def sibling(self, folder: str) -> Place:
        """Another job of the family."""
        return Place(self.family, f"{self.family}{folder}/")


def number_in(key: str) -> int | None:
    """The number at the end of the key of a manifest or claim; None for anything else."""
    word = key.rpartition("/")[2]
    return int(word) if _NUMBER.fullmatch(word) else None


def pack_in(key: str) -> str | None:
    """The pack's id at the end of a key; None for anything else."""
    word = key.rpartition("/")[2]
    return word if _PACK_ID.fullmatch(word) else None


def is_folder(word: str) -> bool:
    """Could it be the word of a job in a family?"""
    return bool(re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9-]{0,63}", word))
