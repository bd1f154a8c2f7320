"""From the configuration's store section to a store, and to one job's checkpoints in it."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from perdure.domain.configuration import StoreConfiguration
from perdure.domain.errors import ConfigurationInvalid
from perdure.stores.directory import DirectoryObjects
from perdure.stores.objects import Objects
from perdure.stores.patience import Patient
from perdure.stores.sealing import SMALLEST_KEY
from perdure.stores.stored_checkpoints import PATIENCE


def open_store(configuration: StoreConfiguration) -> Patient:
    """The store. Nothing is asked of it yet. ConfigurationInvalid if there is none, StoreRefused if it cannot be
    reached as configured."""
    if configuration.kind == "none":
        raise ConfigurationInvalid("no store is configured (store.kind)")
    if configuration.kind == "directory":
        store: Objects = DirectoryObjects(Path(configuration.directory))
    else:
        from perdure.stores.s3 import S3Objects  # botocore takes a while to load

        store = S3Objects(
            configuration.bucket,
            configuration.prefix,
            region=configuration.region,
            kms_key=configuration.kms_key,
            owner=configuration.bucket_owner,
        )
    return Patient(store, PATIENCE)


def read_key(configuration: StoreConfiguration, path: Path) -> bytes:
    """The installation's key for the seals of manifests, if the configuration wants them sealed, else nothing.

    ConfigurationInvalid if the file is missing, too short, or readable by others: what others know proves nothing.
    """
    if not configuration.sealed:
        return b""
    try:
        with open(path, "rb", opener=lambda name, flags: os.open(name, flags | os.O_NOFOLLOW | os.O_CLOEXEC)) as file:
            status = os.fstat(file.fileno())
            key = file.read(4096).strip()
    except OSError as error:
        said = f"store.sealed is on, and the key in {path} cannot be read: {error.strerror}"
        raise ConfigurationInvalid(said) from error
    if stat.S_IMODE(status.st_mode) & 0o077:
        raise ConfigurationInvalid(f"the store's key in {path} can be read by others: `chmod 600 {path}`")
    if len(key) < SMALLEST_KEY:
        raise ConfigurationInvalid(f"the store's key in {path} has {len(key)} bytes; it needs {SMALLEST_KEY} or more")
    return key
