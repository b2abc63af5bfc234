"""Every error this library raises on purpose.

::

    RecsysError                      something we can explain
    ├── ConfigurationError           a setting, a file or a machine is not as it must be
    │   └── ServerError              a server cannot be found or started
    │       ├── RecordRefusedError   the log is there and will never take this record
    │       └── SpoolRefusalError    the log is away, and no room is left to wait for it
    ├── InputError (ValueError)      the caller's data is wrong; names the field
    │   ├── EventError               an event does not fit its schema
    │   └── MappingError             a data-set mapping does not fit its tables
    ├── FeatureError                 a feature, view or service is unknown or of another shape
    ├── BundleError                  a bundle is missing, damaged or of another version
    └── StageError                   a stage of the request path failed or ran out of time
        ├── DeadlineExceededError    it ran out of time
        ├── OverloadedError          too much is waiting before it
        ├── FeatureLayoutError       the store holds features the bundle cannot read
        └── CircuitOpenError         its server has not answered of late and is not asked

A message says what was wanted, what was found and what to do.
"""

from __future__ import annotations


class RecsysError(Exception):
    """Something went wrong that we can explain; the message is fit for a user."""


class ConfigurationError(RecsysError):
    """A setting, a file or a machine is not as it must be."""


class ServerError(ConfigurationError):
    """A server (Kafka, Redis, Triton, API) cannot be found or started."""


class RecordRefusedError(ServerError):
    """The log answers, and refuses a record for what it is; sending it again does not help."""


class SpoolRefusalError(ServerError):
    """Records can neither be given to the log nor kept on disk until it is back.

    Attributes:
        reason: In one word, for counters: ``"full"``, ``"old"`` or ``"disk"``.
    """

    def __init__(self, message: str, *, reason: str) -> None:
        super().__init__(message)
        self.reason = reason


class InputError(RecsysError, ValueError):
    """The caller's data is wrong.

    Attributes:
        field: Path of the offending field (``"events[3].item_id"``), or ``""`` when the whole is.
    """

    def __init__(self, message: str, *, field: str = "") -> None:
        super().__init__(message)
        self.field = field


class EventError(InputError):
    """An event does not fit its schema.

    Attributes:
        code: The reason in one word, for counters: ``"malformed"`` (not JSON, not UTF-8, too big),
            ``"schema"`` (a field is wrong), ``"time"`` (in the future) or ``"duplicate"``.
    """

    def __init__(self, message: str, *, field: str = "", code: str = "schema") -> None:
        super().__init__(message, field=field)
        self.code = code


class MappingError(InputError):
    """A data-set mapping does not fit its tables."""


class FeatureError(RecsysError):
    """A feature, view or service is unknown or of another shape than the bundle wants."""


class BundleError(RecsysError):
    """A bundle is missing, damaged or of a version this code cannot run."""


class StageError(RecsysError):
    """A stage of the request path failed.

    Attributes:
        stage: Which one: ``"features"``, ``"recommend"``, ``"rank"``, ``"similar"``, ``"events"``.
    """

    def __init__(self, message: str, *, stage: str) -> None:
        super().__init__(message)
        self.stage = stage


class DeadlineExceededError(StageError):
    """A stage ran out of its share of the request's deadline."""


class FeatureLayoutError(StageError):
    """The online store was written for other feature declarations than the bundle's."""


class OverloadedError(StageError):
    """Too much is waiting before a stage; the caller should come back in a moment."""


class CircuitOpenError(StageError):
    """The stage's server has not answered of late, so it was not asked."""
