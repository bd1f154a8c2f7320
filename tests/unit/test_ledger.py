"""The ledger by hand: every figure of a recorded job, then laws that hold for any job.

Expected money is written as the arithmetic that a person would do: dollars per hour x seconds / 3600, x the job's part.
The ledger rounds down at both ends of a span, so each figure may differ from the exact one by less than a micro-dollar
for each span it is made of.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from perdure.domain.checkpoints import Checkpoint
from perdure.domain.figures import Figures
from perdure.domain.jobs import Attempt, Job, JobState, Outage
from perdure.domain.ledger import LedgerEntry, ledger_entries, net_on_demand_saved_micros, net_saved_micros
from perdure.domain.nodes import Node
from perdure.domain.price_table import to_micros
from perdure.domain.prices import PricePoint, Prices, SpotPoints
from perdure.domain.volumes import VolumeLife

RECORDED = json.loads((Path(__file__).parent / "recorded" / "two_reclaims.json").read_text())
JOB = Job.model_validate(RECORDED["job"])
NODES = {one["instance_id"]: Node.model_validate(one) for one in RECORDED["nodes"]}
CHECKPOINTS = [Checkpoint.model_validate(one) for one in RECORDED["checkpoints"]]
PRICES = Prices(
    {
        (one["instance_type"], one["zone"]): SpotPoints(
            points=[PricePoint(at=at, micros_per_hour=to_micros(price)) for at, price in one["points"]],
            known_until=one["known_until"],
        )
        for one in RECORDED["spot"]
    },
    {(name, "us-east-1"): to_micros(price) for name, price in RECORDED["on_demand"].items()},
)
LATER = datetime(2026, 11, 3, tzinfo=UTC)


def entries(**changes: Any) -> dict[str, LedgerEntry]:
    job = JOB.model_copy(update=changes)
    return {line.key: line for line in ledger_entries(job, NODES, PRICES, LATER, CHECKPOINTS)}


def total(lines: Iterable[LedgerEntry], kind: str = "") -> Figures:
    return sum((line.figures for line in lines if line.kind == kind or not kind), Figures())


def usd(per_hour: str, seconds: float, part: Fraction = Fraction(1)) -> Fraction:
    """Micro-dollars, exactly."""
    return Fraction(per_hour) * 1_000_000 * Fraction(str(seconds)) / 3600 * part


def near(found: int, exact: Fraction, spans: int = 1) -> bool:
    return abs(found - exact) < spans


HALF = Fraction(1, 2)
"""Four vCPUs of eight."""


def test_the_job_is_counted_when_it_came_and_when_it_ended() -> None:
    lines = entries()
    assert lines["job"].figures == Figures(jobs=1) and lines["job"].at == JOB.created_at
    assert lines["outcome"].figures == Figures(jobs_succeeded=1) and lines["outcome"].at == JOB.finished_at
    assert entries(state=JobState.FAILED)["outcome"].figures == Figures(jobs_failed=1)
    assert entries(state=JobState.STOPPED)["outcome"].figures == Figures(jobs_stopped=1)
    assert "outcome" not in entries(state=JobState.RUNNING, finished_at=None)


def test_cpu_hours_are_requested_vcpus_by_run_time_counted_both_ways() -> None:
    ran = total(entries().values(), "run")
    # 08:02:30-10:30:20, 10:33:50-11:13:10, 11:16:55-14:20:00
    assert ran.run_ms == (8870 + 2360 + 10985) * 1000
    # 08:02:31-10:30:50, 10:33:51-11:13:10, 11:16:56-14:20:05: with the final checkpoint, from Batch's own starts
    assert ran.batch_run_ms == (8899 + 2359 + 10989) * 1000
    assert ran.cpu_ms == 4 * ran.run_ms == 88_860_000
    hours = [key for key in entries() if key.startswith("run/1/")]
    assert hours == ["run/1/2026-11-02T08", "run/1/2026-11-02T09", "run/1/2026-11-02T10"]
    assert entries()["run/1/2026-11-02T09"].figures.run_ms == 3_600_000


def test_an_instance_costs_its_spot_price_of_zone_and_minute() -> None:
    lines = entries()
    eight, nine, ten = (lines[f"instance/1/2026-11-02T{hour}"].figures for hour in ("08", "09", "10"))
    # accepted at 08:02:00: 3,480 s of the hour at 0.1536; at 09:30 the price rises to 0.1620;
    # Batch saw the container's end at 10:30:50
    assert near(eight.instance_micros, usd("0.1536", 3480)) and eight.instance_micros == 148_480
    assert near(nine.instance_micros, usd("0.1536", 1800) + usd("0.1620", 1800)) and nine.instance_micros == 157_800
    assert near(ten.instance_micros, usd("0.1620", 1850)) and ten.instance_micros == 83_250
    assert (eight.share_micros, nine.share_micros, ten.share_micros) == (74_240, 78_900, 41_625), "half the vCPUs"
    assert near(total([lines["instance/1/2026-11-02T08"]]).on_demand_micros, usd("0.384", 3480))
    assert nine.on_demand_micros == 384_000
    assert eight.estimated_micros == eight.unbilled_micros == eight.unpriced_ms == 0
    assert not lines["instance/1/2026-11-02T09"].estimated
    detail = lines["instance/1/2026-11-02T08"].detail
    assert (detail["usd_per_hour"], detail["seconds"], detail["our_part"]) == ("0.1536", 3480.0, "1/2")


def test_aws_does_not_bill_a_spot_instance_that_it_ends_within_its_first_hour() -> None:
    lines = entries()
    # i-0b2 lived 42 minutes. 10:33:20-11:00 at 0.077, 11:00-11:13:10 at 0.080
    ten, eleven = lines["instance/2/2026-11-02T10"].figures, lines["instance/2/2026-11-02T11"].figures
    assert near(ten.unbilled_micros, usd("0.077", 1600)) and near(eleven.unbilled_micros, usd("0.080", 790))
    assert ten.instance_micros == eleven.instance_micros == ten.share_micros == ten.estimated_micros == 0
    assert near(ten.on_demand_micros, usd("0.192", 1600)), "on demand it would have cost"
    for change in ({"ended_by": "user"}, {"ended_at": datetime(2026, 11, 2, 11, 31, 10, tzinfo=UTC)}, {"ended_by": ""}):
        node = NODES["i-0b2"].model_copy(update=change)
        billed = total(ledger_entries(JOB, {**NODES, "i-0b2": node}, PRICES, LATER, CHECKPOINTS), "instance")
        assert billed.unbilled_micros == 0, change
        assert near(billed.instance_micros, usd("0.077", 1600) + usd("0.080", 790) + Fraction(_billed()), 4)


def _billed() -> int:
    return total(entries().values(), "instance").instance_micros


def test_an_on_demand_instance_costs_its_list_price_whoever_ends_it() -> None:
    # i-0c3: 11:15:20-14:20:05 at 0.192
    third = total(line for key, line in entries().items() if key.startswith("instance/3/"))
    assert near(third.instance_micros, usd("0.192", 11085)) and third.share_micros == third.instance_micros
    assert third.on_demand_micros == third.instance_micros, "nothing saved against on demand"
    node = NODES["i-0c3"].model_copy(update={"ended_by": "aws", "ended_at": datetime(2026, 11, 2, 7, 30, tzinfo=UTC)})
    lines = ledger_entries(JOB, {**NODES, "i-0c3": node}, PRICES, LATER, CHECKPOINTS)
    assert total(lines).unbilled_micros == total(entries().values()).unbilled_micros


def test_the_total_instance_cost() -> None:
    whole = total(entries().values())
    exact = usd("0.1536", 3480 + 1800) + usd("0.1620", 1800 + 1850) + usd("0.192", 11085)
    assert near(whole.instance_micros, exact, 8) and 980_700 < whole.instance_micros < 980_780
    assert near(whole.unbilled_micros, usd("0.077", 1600) + usd("0.080", 790), 2)
    on_demand = usd("0.384", 3480 + 3600 + 1850) + usd("0.192", 1600 + 790 + 11085)
    assert near(whole.on_demand_micros, on_demand, 10)


def test_a_protection_with_notice() -> None:
    line = entries()["protection/1"]
    found, detail = line.figures, line.detail
    # ran 08:02:30-10:30:20 = 8,870 s, none of it lost. Overhead: freeze 0.3 + dump 27.7 + detach 12 + attach 8 +
    # restore 22 = 70 s, and boot and pull of i-0b2: launched 10:31:10, container at 10:33:20 = 130 s of the 140 waited
    assert (found.protections, found.lost_ms, found.lost_micros) == (1, 0, 0)
    assert (detail["ran_seconds"], detail["preserved_seconds"], detail["pull_seconds"]) == (8870.0, 8870.0, 130.0)
    assert found.saved_ms == (8870 - 70 - 130) * 1000
    assert found.saved_cpu_ms == 4 * found.saved_ms
    # worth: half of m5.2xlarge, 08:02:30-09:30 at 0.1536, 09:30-10:30:20 at 0.1620; paid: 28 s of it; i-0b2 was free
    exact = usd("0.1536", 5250, HALF) + usd("0.1620", 3620, HALF) - usd("0.1620", 28, HALF)
    assert near(found.saved_micros, exact, 3) and 192_800 < found.saved_micros < 192_830
    # on demand would not have cost: 28 s of i-0a1, 30 s of i-0b2
    assert near(found.redone_on_demand_micros, usd("0.384", 28) + usd("0.192", 30), 3)
    # naive: the whole attempt as Batch counts it, 08:02:31-10:30:50, the whole instance, nothing subtracted
    assert found.naive_saved_ms == 8_899_000 and found.naive_saved_cpu_ms == 4 * 8_899_000
    assert near(found.naive_saved_micros, usd("0.1536", 5249) + usd("0.1620", 3650))
    assert not line.estimated and line.at == JOB.outages[0].ended_at


def test_a_protection_without_notice_loses_what_came_after_the_checkpoint() -> None:
    line = entries()["protection/2"]
    found = line.figures
    # ran 10:33:50-11:13:10 = 2,360 s; checkpoint 11 was frozen at 11:03:50, so 560 s were lost and 1,800 s preserved.
    # Overhead: detach 40 + attach 30 + restore 25 = 95 s. i-0c3 was up already: how long the pull took is not known
    assert (found.protections, found.lost_ms, found.saved_ms) == (1, 560_000, (1800 - 95) * 1000)
    assert line.detail["pull_seconds"] is None and "not known" in str(line.detail["pull"])
    # lost: 11:03:50-11:13:10 at 0.080; worth: 10:33:50-11:00 at 0.077, 11:00-11:03:50 at 0.080;
    # paid: i-0c3 from 11:15:20 to 11:16:55, on demand at 0.192
    assert near(found.lost_micros, usd("0.080", 560))
    assert near(found.saved_micros, usd("0.077", 1570) + usd("0.080", 230) - usd("0.192", 95), 3)
    assert near(found.redone_on_demand_micros, usd("0.192", 560) + usd("0.192", 95), 2)
    assert found.naive_saved_ms == 2_359_000
    assert near(found.naive_saved_micros, usd("0.077", 1569) + usd("0.080", 790))


def test_freezes_of_checkpoints_after_which_the_job_went_on() -> None:
    found = total(entries().values(), "checkpoints")
    # 0.8 s and 0.9 s on half of m5.2xlarge, 1.25 s on the instance that was free, 1.5 s on m5.xlarge on demand
    assert found.frozen_ms == 800 + 900 + 1250 + 1500, "the final checkpoint's freeze belongs to its outage"
    words = [Checkpoint.model_construct(**{**dict(one), "kind": one.kind.value}) for one in CHECKPOINTS]
    assert total(ledger_entries(JOB, NODES, PRICES, LATER, words), "checkpoints") == found, "kinds as the records have"
    assert near(found.frozen_micros, usd("0.1536", 0.8, HALF) + usd("0.1620", 0.9, HALF) + usd("0.192", 1.5), 3)
    assert near(found.redone_on_demand_micros, usd("0.384", 1.7) + usd("0.192", 1.25) + usd("0.192", 1.5), 4)


def test_volumes_and_the_snapshot_cost_by_the_second_of_the_month() -> None:
    found, lines = total(entries().values()), entries()
    november = 30 * 86400
    # 08:02:05-10:33:05 and 10:32:40-14:20:30, 100 GiB of gp3 at 0.08 a month; the snapshot 130 s at 0.05
    assert (
        near(found.volume_micros, Fraction(100 * 80_000 * (9060 + 13670), november), 2) and found.volume_micros > 70_000
    )
    assert near(found.snapshot_micros, Fraction(100 * 50_000 * 130, november))
    assert lines["volume/vol-1/2026-11-02"].estimated and "price table" in str(lines["volume/vol-1/2026-11-02"].detail)
    assert found.estimated_micros == found.volume_micros + found.snapshot_micros, "nothing else rests on an estimate"


def test_waits_that_no_outage_counts() -> None:
    lines = entries()
    # The first container waited 30 s for its volume; the two restores are in their outages.
    assert [key for key in lines if key.startswith("wait/")] == ["wait/1"]
    assert near(lines["wait/1"].figures.wait_micros, usd("0.1536", 30, HALF))
    assert near(lines["wait/1"].figures.redone_on_demand_micros, usd("0.384", 30))


def test_a_container_that_never_ran_is_a_wait() -> None:
    never = Attempt.model_validate(
        {
            **RECORDED["job"]["attempts"][2],
            "epoch": 4,
            "started_at": None,
            "restored_from": None,
            "batch_started_at": None,
        }
    )
    again = JOB.attempts[2].model_copy(update={"epoch": 5})
    lines = entries(attempts=[*JOB.attempts[:2], never, again])
    assert near(lines["wait/4"].figures.wait_micros, usd("0.192", 11085))
    assert not any(key.startswith("run/4") for key in lines)


def test_what_protection_saved_after_everything() -> None:
    whole = total(entries().values())
    parts = [line.figures for line in entries().values()]
    assert net_saved_micros(whole) == sum(net_saved_micros(part) for part in parts)
    saved = usd("0.1536", 5250, HALF) + usd("0.1620", 3592, HALF)
    saved += usd("0.077", 1570) + usd("0.080", 230) - usd("0.192", 95)
    costs = usd("0.1536", 30.8, HALF) + usd("0.1620", 0.9, HALF) + usd("0.192", 1.5)
    costs += Fraction(100 * (80_000 * (9060 + 13670) + 50_000 * 130), 30 * 86400)
    assert near(net_saved_micros(whole), saved - costs, 12)
    assert whole.naive_saved_micros > 2 * net_saved_micros(whole), "the naive figure flatters"


def test_what_spot_saved_against_on_demand() -> None:
    whole = total(entries().values())
    # On demand: the same stays, but 58 s of the first outage, 560 s lost again and 95 s of the second, 30 s of waiting
    # and 4.45 s of freezes would not have been.
    needed = usd("0.384", 3480 + 3600 + 1850 - 28 - 30 - 1.7) + usd("0.192", 1600 + 790 + 11085 - 30 - 655 - 2.75)
    costs = whole.instance_micros + whole.volume_micros + whole.snapshot_micros
    assert near(net_on_demand_saved_micros(whole), needed - costs, 20)
    assert net_on_demand_saved_micros(whole) < whole.on_demand_micros - whole.instance_micros


def test_the_page_shows_these_figures() -> None:
    page = (Path(__file__).parents[2] / "docs" / "ledger.md").read_text()
    whole, lines = total(entries().values()), entries()
    amounts = [getattr(whole, name) for name in type(whole).model_fields if name.endswith("micros")]
    told_otherwise = {whole.redone_on_demand_micros, whole.lost_micros, whole.estimated_micros, 0}
    amounts += [net_saved_micros(whole), net_on_demand_saved_micros(whole)]
    amounts += [lines[f"protection/{epoch}"].figures.saved_micros for epoch in (1, 2)]
    for micros in set(amounts) - told_otherwise:
        assert f"{micros / 1e6:.6f}" in page, micros
    assert f"{whole.cpu_ms / 3_600_000:.3f} h" in page


def test_savings_can_be_negative() -> None:
    # Reclaimed a minute after the start: restoring took longer than the work was worth.
    short = JOB.attempts[0].model_copy(
        update={"accepted_at": JOB.outages[0].started_at - timedelta(seconds=90), "started_at": None}
    )
    begun = JOB.outages[0].started_at - timedelta(seconds=60)
    lines = entries(attempts=[short.model_copy(update={"started_at": begun}), *JOB.attempts[1:]])
    assert lines["protection/1"].figures.saved_ms == (60 - 70 - 130) * 1000
    assert lines["protection/1"].figures.saved_cpu_ms == 4 * (60 - 70 - 130) * 1000


def test_a_clean_start_takes_back_what_was_saved_before() -> None:
    # The second outage ends in a clean start: all work is lost, that of the first attempt too.
    all_work = 8870.0 + 2360.0
    second = JOB.outages[1].model_copy(update={"restored_from": None, "work_lost_seconds": all_work})
    third = JOB.attempts[2].model_copy(update={"restored_from": None})
    lines = entries(outages=[JOB.outages[0], second], attempts=[*JOB.attempts[:2], third])
    first, last = lines["protection/1"].figures, lines["protection/2"].figures
    assert last.protections == 0 and last.naive_saved_ms == 0 and last.lost_ms == round(all_work * 1000)
    assert lines["protection/1"].detail["preserved_seconds"] == 8870.0
    assert lines["protection/2"].detail["preserved_seconds"] == -8870.0
    assert first.saved_ms + last.saved_ms == -(70 + 130 + 95) * 1000, "only the overhead is left"
    assert lines["protection/2"].estimated


def test_an_outage_of_unknown_length_counts_nothing() -> None:
    unknown = JOB.outages[1].model_copy(update={"seconds": None, "work_lost_seconds": None})
    assert "protection/2" not in entries(outages=[JOB.outages[0], unknown])
    still_out = JOB.outages[1].model_copy(update={"seconds": None, "ended_at": None})
    assert "protection/2" not in entries(outages=[JOB.outages[0], still_out])


def test_what_is_not_known_has_no_figure_and_says_so() -> None:
    lines = ledger_entries(JOB, {}, PRICES, LATER, CHECKPOINTS)
    found = total(lines)
    assert found.instance_micros == found.on_demand_micros == found.naive_saved_micros == 0
    assert found.unpriced_ms == (8930 + 2390 + 11085) * 1000, "three stays without a price"
    assert all(line.estimated for line in lines if line.kind in {"instance", "protection"})
    elsewhere = [one.model_copy(update={"zone": "mars-north-1a"}) for one in JOB.volumes]
    lines = list(entries(volumes=elsewhere, volume_zone=None).values())
    assert total(lines, "volume").volume_micros == 0 and total(lines, "volume").unpriced_ms == (9060 + 13670) * 1000


def test_without_price_points_the_shipped_table_answers_as_an_estimate() -> None:
    lines = ledger_entries(JOB, NODES, Prices(), LATER, CHECKPOINTS)
    first = next(line for line in lines if line.key == "instance/1/2026-11-02T09")
    assert first.figures.instance_micros == first.figures.estimated_micros == 153_600, "40 % of 0.384"
    assert first.estimated and "price table" in str(first.detail["source"])


def test_an_unknown_pay_type_is_taken_to_be_spot_and_marked() -> None:
    nodes = {**NODES, "i-0a1": NODES["i-0a1"].model_copy(update={"pay_type": ""})}
    line = next(x for x in ledger_entries(JOB, nodes, PRICES, LATER) if x.key == "instance/1/2026-11-02T09")
    assert line.estimated and line.figures.estimated_micros == line.figures.instance_micros == 157_800


@st.composite
def histories(draw: st.DrawFn) -> tuple[Job, dict[str, Node], Prices]:
    """Any plausible job: some stays with outages between, odd vCPUs, prices that change at odd instants."""
    begin = datetime(2026, 2, 27, 22, tzinfo=UTC)
    now, attempts, outages, nodes, spot = begin, [], [], {}, {}
    milli = st.integers(0, 9_000_000)
    for epoch in range(1, draw(st.integers(1, 4)) + 1):
        accepted = now + timedelta(milliseconds=draw(milli))
        started = accepted + timedelta(milliseconds=draw(st.integers(0, 90_000)))
        ended = started + timedelta(milliseconds=draw(milli))
        name = f"i-{epoch}"
        attempts.append(
            Attempt(epoch=epoch, attempt=epoch, instance_id=name, zone="us-east-1a", container_id=name,
                    accepted_at=accepted, started_at=started, ended_at=ended, restored_from=epoch - 1 or None)
        )  # fmt: skip
        nodes[name] = Node(
            instance_id=name, zone="us-east-1a", instance_type=f"t{epoch}", vcpus=draw(st.integers(1, 7)),
            pay_type=draw(st.sampled_from(["spot", "on-demand", ""])), launched_at=accepted - timedelta(minutes=2),
            ended_at=ended if draw(st.booleans()) else None, ended_by=draw(st.sampled_from(["aws", "user", ""])),
        )  # fmt: skip
        points = draw(
            st.lists(st.tuples(st.integers(-(10**10), 4 * 10**10), st.integers(1, 10**7)), min_size=1, max_size=5)
        )
        spot[f"t{epoch}", "us-east-1a"] = SpotPoints(
            points=[PricePoint(at=begin + timedelta(microseconds=at), micros_per_hour=price) for at, price in points],
            known_until=begin + timedelta(hours=draw(st.integers(0, 9))),
        )
        if epoch > 1:
            before = attempts[-2]
            assert before.ended_at is not None and before.started_at is not None
            ran = (before.ended_at - before.started_at).total_seconds()
            outages.append(
                Outage(epoch=epoch - 1, kind="notice", started_at=before.ended_at, ended_at=started,
                       seconds=(started - before.ended_at).total_seconds(), restored_from=epoch - 1,
                       work_lost_seconds=round(draw(st.floats(0, 1)) * ran, 3),
                       phases={"restored": (started - accepted).total_seconds()})
            )  # fmt: skip
        now = ended
    volume = VolumeLife(
        volume_id="v", zone="us-east-1a", volume_type="gp3", size_gib=draw(st.integers(1, 999)), created_at=begin
    )
    job = Job(job_id="j", created_at=begin, vcpus=draw(st.sampled_from([0.25, 1, 3, None])), attempts=attempts,
              outages=outages, volumes=[volume], state=JobState.RUNNING)  # fmt: skip
    on_demand = {(node.instance_type, "us-east-1"): draw(st.integers(1, 10**7)) for node in nodes.values()}
    return job, nodes, Prices(spot, on_demand)


GROWING = """
    jobs run_ms batch_run_ms cpu_ms instance_micros share_micros on_demand_micros unbilled_micros wait_micros
    volume_micros estimated_micros protections lost_ms lost_micros naive_saved_ms naive_saved_micros
""".split()  # noqa: SIM905


@settings(max_examples=25, deadline=None)
@given(histories(), st.integers(0, 50_000_000), st.integers(0, 50_000_000))
def test_a_later_look_never_makes_a_cost_smaller(
    history: tuple[Job, dict[str, Node], Prices], first: int, second: int
) -> None:
    job, nodes, prices = history
    looks = [job.created_at + timedelta(milliseconds=at) for at in sorted((first, second))]
    before, after = (total(ledger_entries(job, nodes, prices, at)) for at in looks)
    for name in GROWING:
        assert getattr(after, name) >= getattr(before, name), name


@settings(max_examples=25, deadline=None)
@given(histories(), st.randoms())
def test_the_order_of_lists_does_not_matter_and_sums_are_exact(
    history: tuple[Job, dict[str, Node], Prices], random: Any
) -> None:
    job, nodes, prices = history
    until = datetime(2026, 3, 3, tzinfo=UTC)
    lines = ledger_entries(job, nodes, prices, until)
    shuffled = {name: random.sample(getattr(job, name), len(getattr(job, name))) for name in ("attempts", "outages")}
    assert ledger_entries(job.model_copy(update=shuffled), nodes, prices, until) == lines
    assert len({line.key for line in lines}) == len(lines)
    for attempt in job.attempts:
        node = nodes[attempt.instance_id]
        end = min(attempt.ended_at or until, node.ended_at or until)
        history_of = prices.on_demand if node.pay_type == "on-demand" else prices.spot
        place = "us-east-1" if node.pay_type == "on-demand" else "us-east-1a"
        whole = history_of(node.instance_type, place).cost(attempt.accepted_at, end).micros
        mine = total(line for line in lines if line.key.startswith(f"instance/{attempt.epoch}/"))
        assert mine.instance_micros + mine.unbilled_micros == whole, "slices add up to the whole, to the micro-dollar"
        assert mine.share_micros <= mine.instance_micros and mine.estimated_micros <= mine.instance_micros
    assert all(type(value) is int for line in lines for value in line.figures.model_dump().values())
    assert total(lines).protections == len(job.outages)


@pytest.mark.parametrize("until", ["2026-11-02T07:00:00Z", "2026-11-02T10:32:00Z"])
def test_nothing_of_later_is_counted(until: str) -> None:
    at = datetime.fromisoformat(until)
    lines = ledger_entries(JOB, NODES, PRICES, at, CHECKPOINTS)
    assert all(line.at <= at for line in lines) and not any(line.kind == "protection" for line in lines)


def test_every_cost_of_protection_is_subtracted_once() -> None:
    costs = {"volume_micros": 10, "snapshot_micros": 100, "store_micros": 1_000, "key_micros": 10_000}
    assert net_saved_micros(Figures(saved_micros=1_000_000, frozen_micros=1, wait_micros=2, **costs)) == 988_887
    spent = Figures(on_demand_micros=1_000_000, redone_on_demand_micros=1, instance_micros=2, **costs)
    assert net_on_demand_saved_micros(spent) == 988_887


def test_rehearsals_and_jobs_without_protection_are_counted_with_their_job() -> None:
    counted = entries(rehearsals=3, rehearsal_failures=1, unprotected="there is no store")["job"].figures
    assert counted == Figures(jobs=1, jobs_unprotected=1, rehearsals=3, rehearsal_failures=1)
    assert entries()["job"].figures == Figures(jobs=1)


def test_hours_that_are_left_out_change_no_later_one() -> None:
    first = datetime(2026, 11, 2, 10, tzinfo=UTC)
    every = ledger_entries(JOB, NODES, PRICES, LATER, CHECKPOINTS)
    hourly = [line for line in every if line.kind in {"run", "instance"}]
    later = [line for line in ledger_entries(JOB, NODES, PRICES, LATER, CHECKPOINTS, hours_from=first)]
    assert [line for line in later if line.kind in {"run", "instance"}] == [line for line in hourly if line.at >= first]
    assert [line for line in later if line not in hourly] == [line for line in every if line not in hourly]
    assert any(line.at < first for line in hourly) and all(line.figures != Figures() for line in every)


def test_a_volume_without_a_price_counts_its_time_and_says_so() -> None:
    elsewhere = [volume.model_copy(update={"zone": "xx-nowhere-1a"}) for volume in JOB.volumes]
    lines = ledger_entries(JOB.model_copy(update={"volumes": elsewhere}), NODES, PRICES, LATER, CHECKPOINTS)
    unknown = [line for line in lines if line.kind == "volume"]
    assert total(unknown).volume_micros == 0 and total(unknown).unpriced_ms == 1000 * (9_060 + 13_670)
    assert {(line.detail["source"], line.detail["usd_per_month"]) for line in unknown} == {("no price is known", None)}
    assert [line.detail["seconds"] for line in unknown] == [line.figures.unpriced_ms / 1000 for line in unknown]
    assert total(entries().values(), "volume").unpriced_ms == 0


def test_a_volume_at_the_price_that_aws_names_is_no_estimate_and_its_speed_is_told() -> None:
    prices = Prices(
        storage={(kind, "us-east-1"): to_micros(usd) for kind, usd in (("gp3", "0.08"), ("gp3-throughput", "0.04"))}
    )
    fast = JOB.volumes[0].model_copy(update={"throughput_mib_per_second": 225})
    (line,) = [
        line
        for line in ledger_entries(JOB.model_copy(update={"volumes": [fast]}), NODES, prices, LATER)
        if line.kind == "volume"
    ]
    assert not line.estimated and line.figures.estimated_micros == 0
    assert line.detail["gp3-throughput"] == 100 and "gp3" not in line.detail
    assert line.detail["usd_per_month"] == "12"  # 100 GiB at 0.08, 100 MiB/s at 0.04


def test_a_line_of_freezes_is_no_estimate_where_the_prices_are_known() -> None:
    assert [line.estimated for line in entries().values() if line.kind == "checkpoints"] == [False] * 4


def test_lines_say_the_seconds_that_they_count() -> None:
    lines = entries().values()
    for kind, counted in {"run": "run_ms", "checkpoints": "frozen_ms"}.items():
        said = [line.detail["seconds"] for line in lines if line.kind == kind]
        assert said == [getattr(line.figures, counted) / 1000 for line in lines if line.kind == kind] and any(said)
    assert [line.detail["seconds"] for line in lines if line.kind == "wait"] == [30.0]
    assert all(line.estimated for line in lines if line.kind == "snapshot"), "only the volume's size is known"


def test_a_checkpoint_that_does_not_say_how_long_the_job_stood_still_counts_no_freeze() -> None:
    silent = [one.model_copy(update={"phases": {"dump": 1.0}}) for one in CHECKPOINTS]
    lines = ledger_entries(JOB, NODES, PRICES, LATER, silent)
    assert not any(line.kind == "checkpoints" for line in lines)


def test_pull_and_check_of_the_volume_are_overhead_in_time_and_in_money() -> None:
    last = JOB.attempts[2]
    nodes = {
        **NODES,
        last.instance_id: NODES[last.instance_id].model_copy(
            update={"launched_at": datetime(2026, 11, 2, 11, 14, tzinfo=UTC)}
        ),
    }
    outage = JOB.outages[1].model_copy(update={"phases": {**JOB.outages[1].phases, "checked": 5.0}})
    job = JOB.model_copy(update={"outages": [JOB.outages[0], outage], "vcpus": 0.5})
    over = outage.ended_at
    assert over is not None
    (line,) = [one for one in ledger_entries(job, nodes, PRICES, over, CHECKPOINTS) if one.key == "protection/2"]
    # i-0c3 was launched at 11:14:00, 50 s after the death, and its container came at 11:15:20: a pull of 80 s.
    assert line.detail["pull_seconds"] == 80.0 and line.detail["restored_seconds"] == 30.0
    assert line.detail["detached_seconds"] == 40.0 and line.detail["overhead_seconds"] == 180.0
    assert line.figures.saved_ms == (1800 - 180) * 1000 and line.figures.saved_cpu_ms == (1800 - 180) * 500
    part = Fraction(1, 8)  # half a vCPU of four
    exact = usd("0.077", 1570, part) + usd("0.080", 230, part) - usd("0.192", 95 + 80, part)
    assert near(line.figures.saved_micros, exact, 3)
    first = entries()["protection/1"].detail
    assert (first["frozen_seconds"], first["dumped_seconds"]) == (0.3, 27.7)


def test_an_attach_is_counted_where_there_was_one() -> None:
    first, second = (entries()[f"protection/{epoch}"] for epoch in (1, 2))
    assert (first.figures.volume_attaches, first.figures.volume_attach_ms) == (1, 8_000)
    assert (second.detail["lost_seconds"], second.detail["attached_seconds"]) == (560.0, 30.0)
    assert (first.detail["pull"], second.detail["pull"]) == (
        "from its launch to the container",
        "not known: the instance was up already",
    )
    phases = {name: seconds for name, seconds in JOB.outages[0].phases.items() if name != "attached"}
    stored = entries(outages=[JOB.outages[0].model_copy(update={"phases": phases}), JOB.outages[1]])["protection/1"]
    assert (stored.figures.volume_attaches, stored.figures.volume_attach_ms) == (0, 0)
