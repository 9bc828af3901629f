"""What travels between processes is generated, and its numbers never change."""

import runpy
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PROMISED = {
    "SubscribeRequest": "consumer_name resume_after_sequence server_instance want_bodies heartbeat_seconds priority",
    "AuditEvent": "timestamp audit_id stage verb user impersonated_user object_ref request_object response_object"
    " response_status_code source_ips user_agent request_uri annotations level response_reason response_message"
    " request_received_timestamp sequence dropped_before server_instance bodies_omitted request_is_patch",
    "AuditUser": "username groups uid extra",
    "ObjectReference": "api_group api_version resource subresource namespace name uid resource_version",
}
"""Names in the order of their numbers, from 1 on."""


def test_the_generated_code_is_current() -> None:
    """`python proto/generate.py` would change nothing, and nothing else lies beside what it writes."""
    try:
        made = runpy.run_path(str(ROOT / "proto" / "generate.py"))
    except ImportError:
        pytest.fail("protoc is not installed; pip install -r requirements-dev.txt")
    wire: Path = made["WIRE"]
    found = {
        str(path.relative_to(wire)): path.read_text() for path in wire.rglob("*.py*") if "__pycache__" not in path.parts
    }
    found.pop("__init__.py")
    assert found == made["generate"]()


@pytest.mark.parametrize("message", PROMISED)
def test_numbers_of_fields_are_a_contract(message: str) -> None:
    """Consumers of other makes read by number: none moves, none is used again."""
    from ugallu.wire.auditstream.v1 import audit_stream_pb2

    fields = audit_stream_pb2.DESCRIPTOR.message_types_by_name[message].fields
    assert [(field.name, field.number) for field in fields] == [
        (name, number) for number, name in enumerate(PROMISED[message].split(), 1)
    ]


def test_the_path_of_the_method_is_a_contract() -> None:
    """Consumers of other makes call it by its path."""
    from ugallu.wire.auditstream.v1.audit_stream_grpc import AuditStreamBase

    class Nobody(AuditStreamBase):
        async def Subscribe(self, stream: object) -> None: ...  # noqa: N802 - the contract's name

    assert list(Nobody().__mapping__()) == ["/ugallu.auditstream.v1.AuditStream/Subscribe"]
