"""One rehearsal, from the checkpoint to the verdict: `python -m worker_agent.rehearse.stage SPEC`.

It runs in a mount, network and pid namespace of its own (staging.py). At its end the kernel ends all that is in them.

verify → files → network → images → config → restore, left stopped → look
"""

from __future__ import annotations

from perdure import garbage

if __name__ == "__main__":
    garbage.none_while_loading()

import json
import os
import re
import subprocess
import sys
from pathlib import Path

from perdure.domain.checkpoints import Manifest, RehearsalVerdict
from perdure.domain.errors import CommandFailed, ImageInvalid, PerdureError, RestoreFailed
from perdure.image.layout import IMAGES
from worker_agent.engine import (
    Container,
    Freezer,
    Tools,
    criu_options,
    page_images,
    restore_failure,
    runc,
)
from worker_agent.engine import job_root as roots
from worker_agent.engine.cgroup_view import own_folders
from worker_agent.engine.connections import link_images
from worker_agent.engine.restore import changed_images
from worker_agent.rehearse import looks, shielding
from worker_agent.rehearse.shielding import NotTried
from worker_agent.rehearse.spec import Answer, Spec

_OF_THE_STAGE = re.compile(r"Cannot allocate memory|signal 9|signal: killed|No such device|No space left on device")
"""Causes that say more of a rehearsal's limits than of the checkpoint: its memory, its network without devices."""


def main() -> None:
    """Entry. Prints an Answer as JSON; any other end means that it was cut short."""
    spec = Spec.model_validate_json(Path(sys.argv[1]).read_bytes())
    print(rehearse(spec).model_dump_json(), flush=True)
    os._exit(0)


def rehearse(spec: Spec) -> Answer:
    """The verdict. Never raises an error of ours, of the disk or of a program."""
    try:
        return Answer(verdict=RehearsalVerdict.PASSED, processes=_rehearse(spec))
    except NotTried as why:
        return Answer(verdict=RehearsalVerdict.NOT_TRIED, reason=str(why))
    except RestoreFailed as problem:
        if problem.node_fault:  # this node's matter: it says nothing of the checkpoint
            return Answer(verdict=RehearsalVerdict.NOT_TRIED, reason=str(problem))
        return Answer(verdict=RehearsalVerdict.FAILED, reason=str(problem))
    except (PerdureError, OSError, subprocess.SubprocessError) as problem:
        return Answer(verdict=RehearsalVerdict.NOT_TRIED, reason=f"it could not be rehearsed: {problem}")


def _rehearse(spec: Spec) -> int:
    shielding.leave_other_mounts(spec)
    spec.alone.touch()
    manifest = _verify(spec)
    _refuse_large_copies(spec, manifest)
    root = shielding.mount_files(spec)
    config = shielding.shielded_config(spec, root)
    shielding.alone_on_the_network(spec, manifest)
    images = _images(spec, manifest)
    bundle = spec.folder / "bundle"
    bundle.mkdir(mode=0o700)
    (bundle / "config.json").write_text(json.dumps(config))
    _restore(spec, bundle, root, images, manifest)
    return looks.compare(images)


def _verify(spec: Spec) -> Manifest:
    """Every byte of the image. ImageInvalid."""
    manifest = roots.store(spec.job_root).verify(spec.number)
    if manifest.job_id not in {spec.job_id, *spec.predecessors}:
        raise ImageInvalid(f"checkpoint {spec.number} belongs to another job: {manifest.job_id[:64]!r}", "verify")
    page_images.check_length(roots.store(spec.job_root).folder(spec.number) / IMAGES)
    if manifest.gpus:
        raise NotTried("it uses a GPU, which has no room for two of it")
    return manifest


def _refuse_large_copies(spec: Spec, manifest: Manifest) -> None:
    """NotTried, if what a restore would write to the job volume might fill it. What a job has open for writing on a
    shared mount is copied, and so are open files without a name; its own files are cloned, which takes no space."""
    written = shielding.written_bytes(spec, roots.store(spec.job_root).folder(spec.number) / IMAGES)
    nameless = sum(image.size for image in manifest.images if "/ghost-file-" in f"/{image.path}")
    if written > shielding.LARGEST_COPY:
        raise NotTried(f"it writes to files of {written >> 20} MiB on shared mounts, which would have to be copied")
    if roots.free_bytes(spec.job_root) < spec.reserve_bytes + written + nameless:
        raise NotTried("its open files would have to be copied, and too little is free on the job volume")


def _images(spec: Spec, manifest: Manifest) -> Path:
    """The images as a restore on this node would read them: hard links, because the checkpoint may be dropped
    meanwhile."""
    source = roots.store(spec.job_root).folder(spec.number) / IMAGES
    kept = manifest.surroundings.address
    own = {kept: kept} if spec.own_network or kept else {address: address for address in manifest.addresses}
    changed, _ = changed_images(source, own, manifest)
    link_images(source, spec.folder / IMAGES, changed)
    return spec.folder / IMAGES


def _restore(spec: Spec, bundle: Path, root: Path, images: Path, manifest: Manifest) -> None:
    """The container exists, every process of it stopped before its first instruction. RestoreFailed."""
    tools = Tools(criu=spec.criu, path_first=spec.path_first, runc=spec.runc)
    container = Container(
        id=spec.container_id,
        bundle=bundle,
        runc_root=str(spec.folder / "runc"),
        job_root=spec.job_root,
        work_dir=spec.folder / "work",
        keeper_socket=spec.folder / "none",
        rootfs=root,
        lower_layers=tuple(spec.lower_layers),
        tools=tools,
        cgroups_path=spec.cgroup,
        own_network=True,
        failure_logs=spec.failure_logs,
    )
    unified = Freezer.of_process(os.getpid()).unified
    criu_options.write_options(
        container.criu_config,
        restore=True,
        cgroup_root=spec.cgroup if unified else "",
        cgroup_folders={} if unified else own_folders(container),
    )
    argv = [spec.runc, "--root", container.runc_root, "--criu", str(spec.criu), "restore"]
    argv += [*runc.restore_argv(container, images), "--bundle", str(bundle), container.id]
    read_end, write_end = os.pipe()
    os.set_blocking(read_end, False)
    try:
        done = subprocess.run(
            argv, stdin=read_end, stdout=write_end, stderr=write_end, env=tools.environment(),
            timeout=spec.restore_seconds, start_new_session=True,
        )  # fmt: skip
    except subprocess.TimeoutExpired as late:
        said = f"the restore was not done after {spec.restore_seconds:g} s at low priority"
        raise NotTried(said) from late
    except OSError as error:
        raise CommandFailed(argv, 127, str(error)) from error
    if done.returncode != 0:
        words = _words(read_end)
        message = f"`runc restore` ended with status {done.returncode}: {words}"
        problem = restore_failure(container, message, needed_bytes=manifest.image_bytes)
        if done.returncode < 0 or _OF_THE_STAGE.search(str(problem)):
            raise NotTried(f"the place of the rehearsal did not do for it: {problem}")
        raise problem


def _words(read_end: int) -> str:
    try:
        return os.read(read_end, 65536).decode("utf-8", "replace").strip()
    except BlockingIOError:
        return ""


if __name__ == "__main__":
    garbage.keep_what_is_loaded()
    main()
