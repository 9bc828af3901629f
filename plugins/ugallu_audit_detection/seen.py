"""One matched audit event while it is being reported: what rules see of it, and its bodies without secrets."""

from typing import Any

from ugallu.sdk import AuditUser
from ugallu_audit_detection.redact import redacted
from ugallu_audit_detection.sigma.view import NOBODY, RecordView


class Seen(RecordView):
    """A record and what is known of it; nothing here raises on a malformed one."""

    __slots__ = ("_shown_request", "_shown_response")
    _shown_request: Any
    _shown_response: Any

    @property
    def acting_as(self) -> AuditUser:
        """Whom the caller acts as; empty when it acts as itself."""
        return self.impersonated or NOBODY

    @property
    def shown_request(self) -> Any:  # noqa: ANN401 - any JSON
        """The request's body without secrets."""
        try:
            return self._shown_request
        except AttributeError:
            self._shown_request = redacted(self.request_object, self.record.object_ref)
            return self._shown_request

    @property
    def shown_response(self) -> Any:  # noqa: ANN401 - any JSON
        """The response's body without secrets."""
        try:
            return self._shown_response
        except AttributeError:
            self._shown_response = redacted(self.response_object, self.record.object_ref)
            return self._shown_response
