"""A signal that a thread has taken already: its handler's frame is on the stack, and no instruction of it has run.

CRIU stops restored processes one after the other, and a parent that it has just let go may hear of a child's stop
before its own. Such a thread is sent to the handler's end, where the kernel takes the frame away again.
"""

from __future__ import annotations

import os
import platform
import struct
from dataclasses import dataclass

from worker_agent.engine.ptrace import Traced


@dataclass(frozen=True)
class _Machine:
    """Places in the register set (linux: user_regs_struct, user_pt_regs): 8 bytes each."""

    counter: int
    argument: int
    stack: int
    link: int | None
    """The register with the address to return to; without one, it is on top of the stack."""
    returns: tuple[bytes, ...]
    """What is there: rt_sigreturn, as the C libraries and the vDSO call it."""


_MACHINES = {
    "x86_64": _Machine(16, 14, 19, None, (bytes.fromhex("48c7c00f0000000f05"), bytes.fromhex("b80f0000000f05"))),
    "aarch64": _Machine(32, 0, 31, 30, (bytes.fromhex("681180d2010000d4"),)),
}


def skip_handler(task: Traced, number: int) -> bool:
    """Leave the handler of this signal if the stopped thread stands at its first instruction. Did it?"""
    machine = _MACHINES.get(platform.machine())
    if machine is None:
        return False
    registers = bytearray(task.registers())
    values = list(struct.unpack(f"={len(registers) // 8}Q", registers))
    if values[machine.argument] != number or not task.mask() >> (number - 1) & 1:
        return False
    memory = os.open(f"/proc/{task.pid}/mem", os.O_RDONLY)
    try:
        if machine.link is None:
            back = int.from_bytes(os.pread(memory, 8, values[machine.stack]), "little")
            values[machine.stack] += 8
        else:
            back = values[machine.link]
        if not os.pread(memory, 16, back).startswith(machine.returns):
            return False
    except OSError:  # no address at all
        return False
    finally:
        os.close(memory)
    values[machine.counter] = back
    task.set_registers(struct.pack(f"={len(values)}Q", *values))
    return True
