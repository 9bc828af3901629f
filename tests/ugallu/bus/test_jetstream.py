"""Credentials and names, as NATS writes them."""

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.rig.nats import NKey
from ugallu.bus.jetstream import _credentials, _token
from ugallu.errors import PermanentError


def written(folder: Path, jwt: str, seed: str) -> Path:
    path = folder / "user.creds"
    path.write_text(
        f"-----BEGIN NATS USER JWT-----\n{jwt}\n------END NATS USER JWT------\n\n*** IMPORTANT ***\n\n"
        f"-----BEGIN USER NKEY SEED-----\n{seed}\n------END USER NKEY SEED------\n"
    )
    return path


def test_credentials_are_read_as_nats_writes_them(tmp_path: Path) -> None:
    """The token to show, and the key that signs what the server asks to have signed."""
    user = NKey("user")
    jwt, key = _credentials(written(tmp_path, "the.jwt.itself", user.seed))
    assert jwt == b"the.jwt.itself"
    user._key.public_key().verify(key.sign(b"nonce"), b"nonce")


@settings(max_examples=100)
@given(st.text(max_size=80).filter(lambda text: "\n" not in text))
def test_what_is_no_seed_is_refused(tmp_path_factory: pytest.TempPathFactory, seed: str) -> None:
    """The file is named, its content is not."""
    path = written(tmp_path_factory.mktemp("creds"), "jwt", seed)
    with pytest.raises(PermanentError, match="holds no NATS credentials") as caught:
        _credentials(path)
    assert caught.value.where == str(path)


@pytest.mark.parametrize("content", [b"", b"\xff\xfe", b"-----BEGIN", b"-----BEGIN NATS USER JWT-----\njwt\n"])
def test_what_is_no_file_of_credentials(tmp_path: Path, content: bytes) -> None:
    """Nor half of one, nor none."""
    path = tmp_path / "user.creds"
    path.write_bytes(content)
    for each in (path, tmp_path / "missing"):
        with pytest.raises(PermanentError):
            _credentials(each)


@given(st.text(max_size=40), st.text(max_size=40))
def test_names_of_sources_do_not_meet(one: str, two: str) -> None:
    """One token of a subject each, whatever stands in them."""
    assert not set(_token(one)) & set(".*> \t\r\n")
    assert (_token(one) == _token(two)) == (one == two)
