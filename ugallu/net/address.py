"""Addresses to listen on, as people write them."""

from ugallu.errors import PermanentError


def split_address(address: str) -> tuple[str, int]:
    """Return host and port of `host:port`, `[v6]:port` or `:port` (every interface); raises `PermanentError`."""
    host, colon, port = address.rpartition(":")
    if not colon or not port.isdigit() or int(port) > 65535:
        raise PermanentError(
            f"no address: {address!r}", where="listen", fix="write HOST:PORT, for example 127.0.0.1:8081"
        )
    return host.strip("[]"), int(port)
