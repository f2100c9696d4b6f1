"""``MlflowException``: what MLflow raises, raised in the same places."""

from __future__ import annotations

from prov4ml.errors import UsageError

__all__ = ["MlflowException"]


class MlflowException(UsageError):
    """A call that MLflow refuses too.  Other mistakes are ``TypeError`` or ``UsageError``."""

    def __init__(self, message: object, error_code: str | int = "INVALID_PARAMETER_VALUE") -> None:
        super().__init__(str(message))
        self.message = str(message)
        self.error_code = error_code
