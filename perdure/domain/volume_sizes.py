"""How large and how fast a job volume is where nobody says: by the memory that its job asks for, and by the notice.

A final checkpoint writes a job's memory once at most, in what the notice leaves for that. The volume holds the
checkpoints that are kept, one more while it is written, and the job's files, of which nobody knows anything beforehand.
What goes beyond what a volume's size pays for, AWS charges for: each amount has its own price.
"""

from __future__ import annotations

from typing import NamedTuple

from perdure.domain.prices import Prices, Rate
from perdure.domain.volumes import GP3_IOPS, GP3_THROUGHPUT, VolumeOptions

LEAST_GIB, FILES_GIB, MOST_GIB = 100, 50, 16_384
WRITING_SECONDS = 90
"""Of the 120 of a notice: the rest is for the freeze, the commit, the unmount and the detach."""
MOST_MIB_PER_SECOND = 1_000
"""Every region's gp3 has it (EBS user guide, "General Purpose SSD volumes"); more is for people to ask for."""


def usual_size_gib(memory_mib: int | None, keep: int) -> int:
    """For a job that asks for so much memory (None: not known) and keeps so many checkpoints."""
    checkpoints = -(-(keep + 1) * (memory_mib or 0) // 1024)
    return min(MOST_GIB, max(LEAST_GIB, FILES_GIB + checkpoints))


def usual_speed(volume_type: str, memory_mib: int | None, options: VolumeOptions) -> VolumeOptions:
    """The options with a throughput, and the operations that it needs, where gp3 has none that was set. As they are
    where gp3's own is enough."""
    wanted = min(MOST_MIB_PER_SECOND, -(-(memory_mib or 0) // WRITING_SECONDS))
    if volume_type != "gp3" or options.throughput_mib_per_second or wanted <= GP3_THROUGHPUT[0]:
        return options
    if options.iops:  # they were set: no more than they allow
        wanted = min(wanted, options.iops // 4)
    needed = 4 * wanted if 4 * wanted > GP3_IOPS else 0
    return options.model_copy(update={"throughput_mib_per_second": wanted, "iops": options.iops or needed})


class Amount(NamedTuple):
    """So much of something that has a price a month: GiB of a volume type, operations a second, MiB/s."""

    kind: str
    amount: int


def billed(
    volume_type: str, size_gib: int, iops: int, throughput_mib_per_second: int, volumes: int = 1
) -> list[Amount]:
    """What AWS charges for: the size, of all `volumes` alike together, and of each what its type has not by itself."""
    found = [Amount(volume_type, size_gib)]
    if volume_type in {"gp3", "io1", "io2"}:  # gp2 has its operations for nothing
        more = iops - (GP3_IOPS if volume_type == "gp3" else 0)
        found.append(Amount(f"{volume_type}-iops", volumes * max(0, more)))
    if volume_type == "gp3":
        found.append(Amount("gp3-throughput", volumes * max(0, throughput_mib_per_second - GP3_THROUGHPUT[0])))
    return [one for one in found if one.amount]


def month_rate(prices: Prices, region: str, amounts: list[Amount]) -> Rate | None:
    """Micro-dollars a month for all of it; None where one of the prices is not known."""
    rates = [(prices.storage(one.kind, region), one.amount) for one in amounts]
    known = [(rate, amount) for rate, amount in rates if rate is not None]
    if not known or len(known) < len(rates):
        return None
    guessed = [rate for rate, _ in known if rate.estimated]
    return Rate(
        micros=sum(rate.micros * amount for rate, amount in known),
        estimated=bool(guessed),
        source=(guessed or [known[0][0]])[0].source,
    )
