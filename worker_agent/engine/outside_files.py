"""Open files on mounts that do not go back with the job: a restore must not ask whether they have the size they had.

On a shared file system the job, or another one, wrote on after the checkpoint. The container engine makes files such as
/etc/hosts anew. CRIU refuses a file of another size ("has bad size"), and the job would never come back (tried). So the
image to restore from does not say what size they had; where the job was in them stays. A shared file that has become
smaller is refused as before.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from contextlib import suppress

from perdure.domain.checkpoints import MountRule
from worker_agent.engine import criu_image
from worker_agent.engine.connections import FILES_MAGIC
from worker_agent.engine.criu_image import Message
from worker_agent.engine.inside import folder_of

_REGULAR, _NAME, _SIZE = 3, 6, 8
"""images/fdinfo.proto: file_entry.reg; images/regfile.proto."""


def without_sizes(image: bytes, mounts: Iterable[MountRule]) -> bytes | None:
    """The `files.img` to restore from instead of this one; None where it may stay as it is. ImageInvalid. Blocks."""
    rules = {os.fsencode(rule.destination.strip("/")): rule for rule in mounts}
    if not any(_is_outside(rule) and place in image for place, rule in rules.items()):
        return None
    entries = [criu_image.parse(entry) for entry in criu_image.entries(image, FILES_MAGIC)]
    changed = False
    for entry in entries:
        regular = criu_image.part(entry, _REGULAR)
        if regular is not None and _may_differ(regular, rules):
            changed = True
            encoded = criu_image.encode(criu_image.with_field(regular, _SIZE, None))
            entry[:] = criu_image.with_field(entry, _REGULAR, encoded)
    return criu_image.image(FILES_MAGIC, map(criu_image.encode, entries)) if changed else None


def _is_outside(rule: MountRule) -> bool:
    """A file or folder that the container engine bound, and that it makes anew; or a shared one."""
    return rule.rule == "shared" or (rule.rule == "fresh" and rule.source.startswith("/"))


def _may_differ(regular: Message, rules: dict[bytes, MountRule]) -> bool:
    """A shared file that is smaller now may not: what the job writes next would leave a hole before it."""
    name = next((field.value for field in regular if field.number == _NAME and isinstance(field.value, bytes)), b"")
    name = name.strip(b"/")
    place = max((place for place in rules if name == place or name.startswith(place + b"/")), key=len, default=None)
    if place is None or not _is_outside(rules[place]):
        return False
    rule, inside = rules[place], os.fsdecode(name[len(place) :])
    with suppress(OSError):  # CRIU will say it
        with folder_of(rule.source, inside) as folder:
            now = os.stat(os.path.basename(inside) or ".", dir_fd=folder, follow_symlinks=False)
        return rule.rule != "shared" or now.st_size >= criu_image.number(regular, _SIZE)
    return True
