"""How long a last checkpoint will take, by those on its volume: never longer than the best of them says."""

from __future__ import annotations

from perdure.domain.checkpoints import ImageFile, ManifestHead
from tests.unit.test_manifest import DIGEST, manifest
from worker_agent.engine.pace import seconds_needed

MIB = 1 << 20


def head(mebibytes: int, **phases: float) -> ManifestHead:
    image = ImageFile(path="images/pages-1.img", size=mebibytes * MIB, blake3=DIGEST)
    return manifest(images=[image], phases=phases)


def test_without_a_checkpoint_before_it_nothing_is_foretold() -> None:
    assert seconds_needed(100_000 * MIB, []) == 0


def test_small_dumps_tell_nothing_about_large_ones() -> None:
    """Starting CRIU takes .2 s, whatever there is to write: taken for a pace, it would refuse every large job."""
    assert seconds_needed(100_000 * MIB, [head(1, dump=0.3, sync=0.1, checksums=0.01)]) == 0
    assert seconds_needed(100_000 * MIB, [head(1000)]) == 0, "a manifest without phases"


def test_sync_and_checksums_count_and_the_best_pace_does() -> None:
    slow = head(1000, pause=0.5, dump=10.0, clone=1.0, resume=9.0, sync=20.0, checksums=10.0, commit=0.5, prune=50.0)
    fast = head(1000, pause=0.1, dump=1.0, clone=0.2, sync=2.0, checksums=1.0, commit=0.1)
    assert seconds_needed(1000 * MIB, [slow]) == 42.0
    assert round(seconds_needed(1000 * MIB, [slow, fast]), 6) == 4.4
    assert round(seconds_needed(10_000 * MIB, [slow, fast]), 6) == 40.4
