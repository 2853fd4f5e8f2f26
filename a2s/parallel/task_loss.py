"""Why a Ray task gave no result, by the error that Ray raises. tasks.py passes ray in."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from a2s.errors import A2SError, StorageError
from a2s.parallel.ray_session import RAY_DIED


@dataclass(frozen=True)
class Loss:
    """A task without result."""

    kind: str
    """`crash`, `timeout`, `model` (its actor died), `no_gpu` or `node`."""
    reason: str
    verdict: str = ""
    """One word for the list of failures, if an image is given up because of it."""


def timed_out(deadline_sec: float) -> Loss:
    """The task was stopped."""
    return Loss("timeout", f"not done after {deadline_sec:g} s, stopped", "timeout")


def result_of(ray: Any, reference: Any) -> Any:
    """The result of a finished task, or its `Loss`.

    Raises: exceptions of the task unchanged.
    """
    errors = ray.exceptions
    try:
        return ray.get(reference)
    except errors.RayError as error:
        # A failure of the model actor reaches the task as the cause of its error.
        cause = error.cause if isinstance(error, errors.RayTaskError) else error
        if isinstance(cause, errors.RayActorError):
            first_line = str(cause).strip().split("\n", 1)[0]
            return Loss("model", f"the process that holds the model died ({first_line})")
        if isinstance(cause, errors.OutOfMemoryError):
            reason = "its worker was stopped because memory ran out (try fewer --workers)"
            return Loss("crash", reason, "memory")
        if isinstance(cause, (errors.NodeDiedError, errors.ObjectLostError)):
            return Loss("node", "its node was lost")
        if isinstance(cause, errors.WorkerCrashedError):
            return Loss("crash", "its worker process died", "crashes")
        if isinstance(cause, errors.LocalRayletDiedError):
            raise StorageError(RAY_DIED) from None
        if isinstance(cause, A2SError):
            raise cause from None
        raise (cause if isinstance(cause, Exception) else error) from error
