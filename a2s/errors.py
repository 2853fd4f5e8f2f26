"""Errors that a user can act on: one clear line, exit code 2.

A2SError
├── ConfigError      a setting, flag, or output folder is wrong
├── DataError        an input image, shard, or mask is wrong
├── StorageError     files that should be there cannot be reached, damaged or not
├── LabelError       a label shard or a label generation is wrong
├── CheckpointError  a run folder or checkpoint is wrong
├── RankError        another training rank has died, hangs or failed
└── WeightsError     encoder weights are missing, damaged, or do not fit
"""


class A2SError(Exception):
    """Base of every error that names what is wrong, where, and what to do."""


class ConfigError(A2SError):
    """A setting, flag, or output folder is wrong."""


class DataError(A2SError):
    """An input image, shard, or mask is wrong."""


class StorageError(A2SError):
    """Files that should be there cannot be reached; it says nothing about what is in them."""


class LabelError(A2SError):
    """A label shard or a label generation is wrong."""


class CheckpointError(A2SError):
    """A run folder or checkpoint is wrong."""


class RankError(A2SError):
    """Another training rank has died, hangs or failed."""


class WeightsError(A2SError):
    """Encoder weights are missing, damaged, or do not fit."""
