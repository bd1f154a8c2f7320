"""Every error Perdure raises, in one tree.

    PerdureError                    anything of ours
    ├─ ConfigurationInvalid         a value a person gave us is not usable
    ├─ UnknownJob                   no such job
    ├─ UnknownNode                  no such node
    ├─ UnknownToken                 no such API token
    ├─ UnknownVolume                no such volume
    ├─ VolumeInUse                  a volume that somebody still needs is not deleted
    ├─ NotSignedIn                  nobody is signed in, or what was sent as proof is not good
    ├─ NotAllowed                   whoever is signed in may not do this
    ├─ TooManyTries                 too many failed sign-ins; wait
    ├─ PoolMisconfigured            the Cognito user pool is set up in a way that sign-in cannot work with
    ├─ LockOut                      the change would leave nobody who could undo it
    ├─ Fenced                       a message or write from an older epoch
    ├─ NotResumable                 no new job can go on from that job's checkpoint
    ├─ ResumptionPending            … and not yet known as which one it does
    ├─ CommandFailed                an outside program ended badly (runc, criu, mount, mkfs, …)
    │  └─ CommandTimeout            … or did not end in time
    ├─ CheckpointFailed             no checkpoint was made; the job goes on
    │  ├─ NotCheckpointable         the job holds something that cannot be frozen
    │  ├─ JobEnded                  the job ended meanwhile: there is nothing to save
    │  ├─ TooLate                   it would not have been committed before the instance goes
    │  └─ JobRootFull               the checkpoint would not fit
    ├─ RestoreFailed                the job was not brought back from this checkpoint
    │  ├─ DeviceNumberTaken         another file system of the node has the number by which the job knows its files
    │  └─ ImageInvalid              the checkpoint itself is damaged or incomplete
    ├─ FreezerFailed                a container's cgroup could not be found, thawed or emptied
    ├─ JobRootBusy                  an earlier try still has something mounted on, or a lock on, the job root
    ├─ EcsAgentRuns                 the ECS agent of an instance was not stopped
    ├─ VolumeFailed                 a job volume could not be made, attached, moved or mounted
    │  ├─ VolumeQuotaReached        … because the account may have no more
    │  ├─ AttachmentLimitReached    … because the instance can hold no more
    │  ├─ VolumeDamaged             … because its file system is damaged
    │  ├─ VolumeGone                … because it, or its snapshot, no longer exists
    │  └─ VolumeForeign             … because it, or its snapshot, does not bear our tags
    ├─ StoreFailed                  a store of checkpoints (a directory, S3) did not do what was asked
    │  ├─ StoreUnavailable          … because it was out of reach or overloaded
    │  ├─ StoreRefused              … and will not: no right, no such bucket, a full disk
    │  ├─ ObjectMissing             … because there is no such object
    │  └─ ObjectExists              … because there is one already
    ├─ CloudUnavailable             AWS did not answer, or answered with a fault worth trying again
    │  └─ CloudThrottled            … because it had too many calls
    ├─ TemporalUnavailable          the Temporal server is out of reach
    ├─ BackupInvalid                a backup file is damaged, cut off, or of a newer version
    ├─ DatabaseNotEmpty             a restore would mix with what is there
    └─ StackError                   the local stack cannot do what was asked
       └─ StackMissing              … because it is not running

Each message tells a person what happened, to what, and what to do. `retryable` says whether trying the same
thing again can help; Temporal retry policies list the others by class name (`NOT_RETRYABLE`).
"""

from __future__ import annotations


class PerdureError(Exception):
    """Anything that Perdure itself raises. `retryable`: may the same call succeed later?"""

    retryable = False


class ConfigurationInvalid(PerdureError):
    """A setting is not usable. The message names the setting, the value and what is allowed."""


class UnknownJob(PerdureError):
    """There is no job with that id."""


class UnknownNode(PerdureError):
    """There is no node with that id."""


class UnknownToken(PerdureError):
    """There is no API token with that number."""


class UnknownVolume(PerdureError):
    """There is no volume with that id, or it was deleted."""


class VolumeInUse(PerdureError):
    """The volume is not deleted, because a job or an instance needs it; the message says which."""


class NotSignedIn(PerdureError):
    """Nobody is signed in, or what was sent as proof is not good; the message says why, and never repeats it."""


class NotAllowed(PerdureError):
    """Whoever is signed in may not do this."""


class TooManyTries(PerdureError):
    """Too many failed sign-ins; another is looked at after `retry_after_seconds`."""

    def __init__(self, message: str, retry_after_seconds: int) -> None:
        self.retry_after_seconds = retry_after_seconds
        super().__init__(message)


class PoolMisconfigured(PerdureError):
    """The Cognito user pool, or its app client, is set up in a way that sign-in cannot work with."""


class LockOut(PerdureError):
    """The change would leave nobody who could undo it; the message says what proof is missing."""


class Fenced(PerdureError):
    """The sender belongs to an older epoch: a newer container of the same job has been accepted since."""


class NotResumable(PerdureError):
    """No new job can go on from that job's checkpoint; the message says why."""


class ResumptionPending(PerdureError):
    """A job is being resumed, and as which one is not known yet."""

    retryable = True


class CommandFailed(PerdureError):
    """An outside program ended with a non-zero status. Carries its argv, status and the end of its stderr."""

    def __init__(self, argv: list[str], status: int, stderr: str) -> None:
        self.argv = argv
        self.status = status
        self.stderr = stderr
        super().__init__(f"`{' '.join(argv[:6])}` ended with status {status}: {stderr.strip()[-600:] or 'no message'}")


class CommandTimeout(CommandFailed):
    """An outside program did not end within its time limit (seconds) and was killed."""

    retryable = True

    def __init__(self, argv: list[str], limit_seconds: float, stderr: str) -> None:
        super().__init__(argv, -9, f"not finished after {limit_seconds:g} s; {stderr}")
        self.limit_seconds = limit_seconds


class CheckpointFailed(PerdureError):
    """No checkpoint was made; the job runs on. `step` is the engine step that failed."""

    retryable = True

    def __init__(self, message: str, step: str = "") -> None:
        self.step = step
        super().__init__(message)


class NotCheckpointable(CheckpointFailed):
    """The job holds something open that cannot be frozen now; the message names it."""

    retryable = False


class JobEnded(CheckpointFailed):
    """The job ended before it was saved, or is about to: there is nothing to save, and nothing failed."""

    retryable = False

    def __init__(self, step: str = "") -> None:
        super().__init__("the job ended before it was saved: there is nothing to save", step)


class TooLate(CheckpointFailed):
    """A checkpoint would not be committed before the instance goes: it was not begun, or given up."""

    retryable = False


class JobRootFull(CheckpointFailed):
    """A checkpoint would not leave the reserve free on the job root."""

    retryable = False


class RestoreFailed(PerdureError):
    """The job was not brought back from this checkpoint. `node_fault`: surely the node is to blame, not the checkpoint;
    `image_fault`: the cause is in the checkpoint, and no node can restore it; neither: either may be."""

    def __init__(self, message: str, step: str = "", node_fault: bool = False, image_fault: bool = False) -> None:
        self.step = step
        self.node_fault = node_fault
        self.image_fault = image_fault
        super().__init__(message)


class DeviceNumberTaken(RestoreFailed):
    """Another file system of this node has the device number by which the job knows its files."""

    def __init__(self, number: int) -> None:
        said = f"the device number 0:{number}, by which the job knows its files, is taken on this node"
        super().__init__(said, "overlay", node_fault=True)


class ImageInvalid(RestoreFailed):
    """The checkpoint is damaged: no manifest, a wrong checksum, a missing or extra file. The fault is in the image."""

    def __init__(self, message: str, step: str = "") -> None:
        super().__init__(message, step, image_fault=True)


class FreezerFailed(PerdureError):
    """A container's cgroup could not be found, thawed or emptied."""

    retryable = True


class JobRootBusy(PerdureError):
    """An earlier try still holds the job root (a lock or a mount below it)."""

    retryable = True


class EcsAgentRuns(PerdureError):
    """The ECS agent of this instance was not stopped; the message says why."""


class VolumeFailed(PerdureError):
    """A job volume could not be made, attached, moved, formatted or mounted."""

    retryable = True


class VolumeQuotaReached(VolumeFailed):
    """The account may have no more volumes, or not so large or fast a one, in this region."""

    retryable = False


class AttachmentLimitReached(VolumeFailed):
    """As many volumes are attached to the instance as it can hold."""

    retryable = False


class VolumeDamaged(VolumeFailed):
    """The file system of a job volume is damaged; the message says how, and what to do. It is as it was."""

    retryable = False


class VolumeGone(VolumeFailed):
    """A job volume or snapshot no longer exists: somebody deleted it behind our back."""

    retryable = False


class VolumeForeign(VolumeFailed):
    """A volume or snapshot does not bear Perdure's tags, so it is not touched."""

    retryable = False


class StoreFailed(PerdureError):
    """A store of checkpoints did not do what was asked."""


class StoreUnavailable(StoreFailed):
    """The store did not answer, or asked for patience. Whether the call took effect is not known."""

    retryable = True


class StoreRefused(StoreFailed):
    """The store will not do it, however often it is asked. The message says what to look at."""


class ObjectMissing(StoreFailed):
    """There is no such object in the store."""


class ObjectExists(StoreFailed):
    """There is an object of that name already, which is not overwritten."""


class CloudUnavailable(PerdureError):
    """AWS did not answer, or answered with a fault that is worth trying again."""

    retryable = True


class CloudThrottled(CloudUnavailable):
    """AWS refused a call because there were too many. Nothing was done; the same call is worth trying again later."""


class TemporalUnavailable(PerdureError):
    """The Temporal server is out of reach."""

    retryable = True


class BackupInvalid(PerdureError):
    """A backup file is damaged, cut off, or of a newer version."""


class DatabaseNotEmpty(PerdureError):
    """A restore would mix with what the database holds already."""


class StackError(PerdureError):
    """The local stack cannot do what was asked; the message says why."""


class StackMissing(StackError):
    """There is no running local stack of that name."""


def _not_retryable(root: type[PerdureError]) -> list[str]:
    names = [] if root.retryable else [root.__name__]
    return names + [name for child in root.__subclasses__() for name in _not_retryable(child)]


NOT_RETRYABLE: list[str] = sorted(set(_not_retryable(PerdureError)))
"""Class names for Temporal's `non_retryable_error_types`."""
