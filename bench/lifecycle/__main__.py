"""Runs what is asked for and prints the tables as Markdown.

`.venv/bin/python -m bench.lifecycle [--jobs 100,1000,10000] [--seconds 120] [--nodes 100] [--in-memory]`,
`… --memory`, `… --week`.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import signal
import sys
import time

from bench.lifecycle.agents import Agent, start_all
from bench.lifecycle.bed import made, quiet
from bench.lifecycle.figures import machine
from bench.lifecycle.memory import kept_in_memory
from bench.lifecycle.notice import reclaim
from bench.lifecycle.steady import steady
from bench.lifecycle.week import a_week
from perdure.contracts import names
from perdure.contracts.reconciling import ReconciliationState

WARM = 20
"""Jobs after which the control worker has made what it makes once."""


async def measure(options: argparse.Namespace, jobs: int) -> tuple[dict[str, float], dict[str, float]]:
    """One size, on a bed of its own."""
    async with made(options.in_memory) as (bed, client):
        await client.start_workflow(
            names.RECONCILIATION, ReconciliationState(), id=names.RECONCILIATION_ID, task_queue=names.CONTROL_QUEUE
        )
        agents = [Agent(client, number, options.interval) for number in range(jobs)]
        await start_all(agents[:WARM])
        await quiet(bed, client)
        warm, begun = bed.worker.memory_info().rss, time.time()
        await start_all(agents[WARM:])
        await quiet(bed, client)
        started = time.time() - begun
        say(f"{jobs} jobs run after {started:.0f} s")
        found = await steady(bed, client, agents, options.seconds, options.interval)
        found["started"] = started
        found["rss_mb"] = bed.worker.memory_info().rss / 1e6
        found["kb_per_job"] = (bed.worker.memory_info().rss - warm) / 1e3 / (jobs - WARM)
        found["server_mb"] = bed.server.memory_info().rss / 1e6
        found["load"] = os.getloadavg()[0]
        noticed = await reclaim(bed, agents[: options.nodes]) if options.nodes else {}
        return found, noticed


def say(text: str) -> None:
    """Progress, beside the table."""
    print(text, file=sys.stderr, flush=True)


async def sizes(options: argparse.Namespace) -> None:
    """The steady life and the notice, for each size."""
    rows, notices = [], []
    for jobs in options.jobs:
        found, noticed = await measure(options, jobs)
        rows.append(
            f"| {jobs:,} | {found['sent']} in {found['took']:.0f} s ({found['rate']:.2f}/s) | {found['recorded']} "
            f"| {100 * found['control']:.1f} % | {found['each_ms']:.1f} ms | {100 * found['server']:.0f} % "
            f"| {1000 * found['p50']:.0f} / {1000 * found['p99']:.0f} ms "
            f"| {1000 * found['early']:.0f} → {1000 * found['late']:.0f} ms | {found['backlog']} "
            f"| {found['kb_per_job']:.0f} KB | {found['rss_mb']:.0f} / {found['server_mb']:.0f} MB "
            f"| {found['load']:.1f} |"
        )
        if noticed:
            notices.append(
                f"| {jobs:,} | {noticed['nodes']} in {noticed['spread']:.2f} s "
                f"| {noticed['joined']}: {noticed['joined_p50']:.2f} / {noticed['joined_max']:.2f} s "
                f"| {noticed['recorded']}: {noticed['recorded_p50']:.2f} / {noticed['recorded_max']:.2f} s "
                f"| {noticed['control_cpu']:.1f} / {noticed['server_cpu']:.1f} s |"
            )
        say(rows[-1])
        say(notices[-1] if noticed else "")
    print("| jobs | reports sent | recorded | control worker, of a core | a cycle | server, of a core |", end="")
    print(" recorded after p50 / p99 | first → second half | backlog | memory a job | worker / server | load |")
    print("| --- " * 12 + "|")
    print("\n".join(rows))
    if notices:
        print("\n| beside | nodes noticed | joined p50 / last | recorded p50 / last | CPU control / server |")
        print("| --- " * 5 + "|")
        print("\n".join(notices))


async def memory(options: argparse.Namespace) -> None:
    """What an open job takes."""
    print("| jobs kept | checkpoints in all | memory a job | CPU a checkpoint |\n" + "| --- " * 4 + "|", flush=True)
    for share in (1.0, 0.25):
        for row in await kept_in_memory(options.in_memory, share):
            cpu = f"{row['ms']:.1f} ms" if row["cycles"] else ""
            print(f"| {100 * share:.0f} % | {row['cycles']:.0f} | {row['kb']:.0f} KB | {cpu} |", flush=True)


async def week(options: argparse.Namespace) -> None:
    """One job for so many days."""
    found = await a_week(options.days)
    print("| " + " | ".join(found) + " |\n" + "| --- " * len(found) + "|")
    print("| " + " | ".join(f"{value:,.0f}" for value in found.values()) + " |")


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else "")
    parser.add_argument("--jobs", default="100,1000,10000", help="sizes, one after another")
    parser.add_argument("--seconds", type=float, default=120, help="of each measured window")
    parser.add_argument("--interval", type=float, default=900, help="seconds between two checkpoints of a job")
    parser.add_argument("--nodes", type=int, default=100, help="noticed at once after the steady part; 0: none")
    parser.add_argument("--in-memory", action="store_true", help="Temporal without a file")
    parser.add_argument("--memory", action="store_true", help="instead: what an open job takes in the control worker")
    parser.add_argument("--week", action="store_true", help="instead: one job's week, a checkpoint a minute")
    parser.add_argument("--days", type=float, default=7, help="how long that week is")
    found = parser.parse_args()
    found.jobs = [int(one) for one in found.jobs.split(",")]
    return found


async def main(options: argparse.Namespace) -> None:
    """What was asked for."""
    print(machine(options.in_memory) + "\n", flush=True)
    await (memory if options.memory else week if options.week else sizes)(options)


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("ended"))  # what was started is ended too
    asyncio.run(main(arguments()))
