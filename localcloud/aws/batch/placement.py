"""Where waiting jobs go: a pure function from what waits and what there is to what is to be done."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from localcloud.aws.cloud_config import InstanceShape, smallest_shape


@dataclass(frozen=True)
class Need:
    """A waiting job."""

    job_id: str
    vcpus: float
    memory_mib: int
    zones: frozenset[str]
    """Where it may go: its own zone, or those with capacity."""


@dataclass(frozen=True)
class Room:
    """What is free on a node. `ready` False: it is being launched, so jobs can count on it but not start yet."""

    instance_id: str
    zone: str
    vcpus: float
    memory_mib: int
    ready: bool = True

    def holds(self, need: Need) -> bool:
        """May and can the job go here?"""
        return self.zone in need.zones and self.vcpus >= need.vcpus and self.memory_mib >= need.memory_mib

    def minus(self, need: Need) -> Room:
        """What is left once the job is here."""
        return replace(self, vcpus=self.vcpus - need.vcpus, memory_mib=self.memory_mib - need.memory_mib)


@dataclass
class Plan:
    """Jobs to start now, nodes to launch, and jobs that no instance type can hold."""

    starts: list[tuple[str, str]] = field(default_factory=list)
    """(job id, instance id)"""
    launches: list[tuple[str, InstanceShape]] = field(default_factory=list)
    """(zone, shape)"""
    impossible: list[str] = field(default_factory=list)


def place(needs: list[Need], rooms: list[Room], usual: InstanceShape, launchable_vcpus: float) -> Plan:
    """Take the jobs in order. Each goes to the ready node with most vCPUs free, else it counts on one that is being
    launched, else a node is launched in the zone with the fewest. A job that must wait does not hold up the next."""
    plan, rooms = Plan(), list(rooms)
    for need in needs:
        fitting = [place for place, room in enumerate(rooms) if room.holds(need)]
        if fitting:
            best = max(fitting, key=lambda place: (rooms[place].ready, rooms[place].vcpus, -place))
            if rooms[best].ready:
                plan.starts.append((need.job_id, rooms[best].instance_id))
            rooms[best] = rooms[best].minus(need)
            continue
        shape = smallest_shape(need.vcpus, need.memory_mib, usual)
        if shape is None:
            plan.impossible.append(need.job_id)
        elif need.zones and shape.vcpus <= launchable_vcpus:
            zone = min(sorted(need.zones), key=lambda zone: sum(room.zone == zone for room in rooms))
            plan.launches.append((zone, shape))
            launchable_vcpus -= shape.vcpus
            rooms.append(Room("", zone, shape.vcpus, shape.memory_mib, ready=False).minus(need))
    return plan
