"""The client's errors as the port's: one table, used by the gateway.

Messages name the address without credentials, and never a stored value. What matters to a caller is decided here once:
whether a write may have been applied although no answer came, and whether trying again is worth the time.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from botocore import exceptions as boto

from agno_docstores.errors import Conflict, StorageMissingError, StoreError, StoreUnavailableError
from agno_docstores_dynamo.layout import Item

#: Refused before it was looked at: nothing was applied.
THROTTLED = frozenset(
    {
        "ProvisionedThroughputExceededException",
        "ProvisionedThroughputExceeded",
        "ThrottlingException",
        "ThrottlingError",
        "Throttling",
        "RequestLimitExceeded",
        "LimitExceededException",
    }
)
#: Failed on the server's side, or still running there: applied or not.
UNCERTAIN = frozenset(
    {"InternalServerError", "InternalServerErrorException", "ServiceUnavailable", "TransactionInProgressException"}
)
DENIED = frozenset({"AccessDeniedException", "AccessDenied", "UnauthorizedOperation", "NotAuthorizedException"})
CREDENTIALS = frozenset(
    {
        "UnrecognizedClientException",
        "InvalidSignatureException",
        "ExpiredTokenException",
        "ExpiredToken",
        "MissingAuthenticationTokenException",
        "IncompleteSignature",
    }
)
#: No connection came about: nothing was sent.
UNREACHABLE = (boto.EndpointConnectionError, boto.ConnectTimeoutError, boto.ProxyConnectionError, boto.SSLError)
#: The connection broke, or no answer came in time.
UNANSWERED = (boto.ConnectionError, boto.HTTPClientError, boto.ResponseStreamingError)
NO_CREDENTIALS = (
    boto.NoCredentialsError,
    boto.PartialCredentialsError,
    boto.CredentialRetrievalError,
    boto.TokenRetrievalError,
    boto.SSOError,
    boto.ProfileNotFound,
)


class DeniedError(StoreError):
    """The credentials in use may not do this."""


class InUseError(StoreError):
    """Somebody else is creating this table just now."""


class OversizeError(StoreError):
    """DynamoDB found an item too large that was counted as small enough."""


class ConditionFailed(Conflict):
    """The condition of a single write did not hold. `item`: what was there, if that was asked for and there was any."""

    def __init__(self, item: Item | None) -> None:
        super().__init__()
        self.item = item


class Cancelled(Conflict):
    """A transaction was cancelled. `failed`: number of the step, and what was there instead."""

    def __init__(self, failed: Mapping[int, Item | None], *, contended: bool, resent: bool = False) -> None:
        super().__init__(resent=resent)
        self.failed = dict(failed)
        self.contended = contended  # another transaction had one of the items in hand


class Translator:
    """Errors of the client, as the gateway's `translate` wants them; the address is filled in."""

    def __init__(self, address: str, *, resends: bool = False) -> None:
        """`resends`: the client sends a request several times by itself, and tells of the last time only. Then an
        earlier one may have been applied, whatever is said of the last."""
        self.address = address
        self.resends = resends

    def __call__(self, operation: str, error: Exception) -> Exception | None:
        if isinstance(error, boto.ClientError):
            told = self._answered(operation, error)
            if error.response.get("ResponseMetadata", {}).get("RetryAttempts"):
                # The answer is to the last time that it was sent, and an earlier one may have been applied.
                if isinstance(told, Conflict):
                    told.resent = True
                elif isinstance(told, StoreUnavailableError):
                    told.maybe_applied = True
            return told
        if isinstance(error, UNREACHABLE):
            # What cannot be mended by waiting, or what the client has waited for already, is not tried again.
            retryable = not self.resends and not isinstance(error, boto.SSLError)
            return StoreUnavailableError(
                operation, self.address, "could not connect", maybe_applied=self.resends, retryable=retryable
            )
        if isinstance(error, NO_CREDENTIALS):
            return StoreError(
                operation,
                self.address,
                f"no usable AWS credentials ({type(error).__name__}); give the process a role, set AWS_PROFILE or "
                "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or pass profile_name or keys",
            )
        if isinstance(error, boto.NoRegionError):
            return StoreError(operation, self.address, "no region; pass region_name or set AWS_REGION")
        if isinstance(error, UNANSWERED):
            reason = f"no answer ({type(error).__name__})"
            return StoreUnavailableError(operation, self.address, reason, maybe_applied=True)
        if isinstance(error, boto.BotoCoreError):
            # Its text may quote parameters, and so what was to be stored.
            return StoreError(operation, self.address, f"the AWS SDK refused it ({type(error).__name__})")
        return None

    def _answered(self, operation: str, error: Any) -> Exception:
        details = error.response.get("Error") or {}
        code, message = str(details.get("Code", "")), str(details.get("Message", ""))
        status = (error.response.get("ResponseMetadata") or {}).get("HTTPStatusCode") or 0
        reason = f"{code}: {message}"
        if code == "ConditionalCheckFailedException":
            return ConditionFailed(error.response.get("Item"))
        if code == "TransactionCanceledException":
            return self._cancelled(operation, error.response.get("CancellationReasons") or [], reason)
        if code == "TransactionConflictException":
            return Cancelled({}, contended=True)
        if code == "ResourceNotFoundException":
            return StorageMissingError(operation, self.address, reason)
        if code == "ResourceInUseException":
            return InUseError(operation, self.address, reason)
        if code in DENIED:
            return DeniedError(operation, self.address, reason)
        if code in CREDENTIALS:
            reason = f"{code}: the credentials in use are not valid (any more)"
            # AWS quotes the request that it checked, with the session token among its headers; and this error is the
            # cause of ours, which is logged with it.
            error.args, details["Message"] = (reason,), reason
            return StoreError(operation, self.address, reason)
        if code in THROTTLED:
            return StoreUnavailableError(operation, self.address, reason)
        if code in UNCERTAIN or status >= 500:
            return StoreUnavailableError(operation, self.address, reason, maybe_applied=True)
        if code == "ValidationException" and "item size" in message.lower():
            return OversizeError(operation, self.address, reason)
        return StoreError(operation, self.address, reason)

    def _cancelled(self, operation: str, reasons: list[dict[str, Any]], text: str) -> Exception:
        codes = [str(reason.get("Code")) for reason in reasons]
        for reason, code in zip(reasons, codes, strict=True):
            if code == "ValidationError":
                message = str(reason.get("Message", ""))
                kind = OversizeError if "item size" in message.lower() else StoreError
                return kind(operation, self.address, f"{code}: {message}")
            if code == "ItemCollectionSizeLimitExceeded":
                why = f"{code}: what belongs to one id may take 10 GB"
                return StoreError(operation, self.address, why)
        failed = {i: reasons[i].get("Item") for i, code in enumerate(codes) if code == "ConditionalCheckFailed"}
        contended = "TransactionConflict" in codes
        if failed or contended:
            return Cancelled(failed, contended=contended)
        if any(code in THROTTLED for code in codes):
            return StoreUnavailableError(operation, self.address, text)
        return StoreError(operation, self.address, text)
