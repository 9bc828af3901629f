"""Certificates and tokens from files: what cannot be used is named, with the file and what to do."""

import os
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization

from tests.rig.keys import Authority
from ugallu.errors import PermanentError
from ugallu.net.bearer import BearerToken
from ugallu.net.tls import ServerTls
from ugallu.net.watched import Watched


class Files:
    def __init__(self, folder: Path) -> None:
        self.authority = Authority(folder, "ca")
        self.pair = self.authority.issue("server", "server", hosts=("localhost",))
        self.other = self.authority.issue("other", "other")

    def load(self, *, mutual: bool = True) -> ServerTls:
        return ServerTls(self.pair.certificate, self.pair.key, self.authority.pair.certificate if mutual else None)


@pytest.fixture
def files(tmp_path: Path) -> Files:
    return Files(tmp_path)


def refusal(files: Files) -> PermanentError:
    with pytest.raises(PermanentError) as caught:
        files.load()
    assert caught.value.fix
    return caught.value


@pytest.mark.parametrize("name", ["certificate", "key"])
def test_a_file_that_is_not_there(files: Files, name: str) -> None:
    """It is named."""
    path: Path = getattr(files.pair, name)
    path.unlink()
    assert refusal(files).where == str(path)


@pytest.mark.parametrize("content", [b"", b"no pem", b"\xff\xfe"])
@pytest.mark.parametrize("name", ["certificate", "key", "ca"])
def test_a_file_that_holds_something_else(files: Files, name: str, content: bytes) -> None:
    """It is named, and nothing of it is quoted."""
    path: Path = files.authority.pair.certificate if name == "ca" else getattr(files.pair, name)
    path.write_bytes(content)
    error = refusal(files)
    assert error.where == str(path)
    assert "holds no" in error.what


def test_pem_without_sense(files: Files) -> None:
    """A header alone makes no certificate."""
    for path in (files.authority.pair.certificate, files.pair.certificate):
        path.write_bytes(b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n")
        assert refusal(files).where == str(path)


def test_the_key_of_another_certificate(files: Files) -> None:
    """The usual mistake has a sentence of its own."""
    files.pair.key.write_bytes(files.other.key.read_bytes())
    error = refusal(files)
    assert (error.where, error.what) == (str(files.pair.key), f"is not the key of {files.pair.certificate}")


def test_a_key_with_a_pass_phrase(files: Files) -> None:
    """Nobody is asked for it at a terminal."""
    key = serialization.load_pem_private_key(files.pair.key.read_bytes(), None)
    files.pair.key.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.BestAvailableEncryption(b"phrase"),
        )
    )
    assert "without a pass phrase" in refusal(files).fix


def test_a_file_that_may_not_be_read(files: Files) -> None:
    """A directory stands for what this user cannot read: root reads everything."""
    files.pair.key.unlink()
    files.pair.key.mkdir()
    error = refusal(files)
    assert (error.where, "cannot be read" in error.what) == (str(files.pair.key), True)


def test_a_context_for_each_version(files: Files) -> None:
    """Nothing new, nothing loaded; a bad version is refused once and changes nothing."""
    tls = files.load()
    first = tls.context
    assert not tls.refresh()
    files.authority.issue("server", "server", hosts=("localhost",))
    assert tls.refresh()
    second = tls.context
    assert second is not first
    files.pair.certificate.write_bytes(b"")
    with pytest.raises(PermanentError):
        tls.refresh()
    assert not tls.refresh()
    assert tls.context is second


def test_a_mounted_secret_swaps_a_link(tmp_path: Path) -> None:
    """Kubernetes writes a new folder beside the old one and turns a link over, with the same name and size."""
    for name, text in (("one", "a"), ("two", "b")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "token").write_text(text)
        os.utime(tmp_path / name / "token", (1, 1))
    link = tmp_path / "..data"
    link.symlink_to("one")
    (tmp_path / "token").symlink_to("..data/token")
    watched = Watched(tmp_path / "token")
    assert watched.read() == [b"a"]
    assert not watched.changed()
    fresh = tmp_path / "..new"
    fresh.symlink_to("two")
    fresh.replace(link)
    assert watched.changed()
    assert watched.read() == [b"b"]


def test_a_file_that_is_far_too_large(tmp_path: Path) -> None:
    """A log named by mistake is not taken into memory."""
    path = tmp_path / "token"
    with path.open("wb") as file:
        file.truncate(2 << 30)
    with pytest.raises(PermanentError, match="is larger than"):
        BearerToken(path)


@pytest.mark.parametrize("content", ["", "\n", " ", "two words", "a\nb", "\x7f", "é"])
def test_what_is_no_token(tmp_path: Path, content: str) -> None:
    """An empty file would let in whoever shows nothing."""
    path = tmp_path / "token"
    path.write_text(content)
    with pytest.raises(PermanentError, match="holds no token") as caught:
        BearerToken(path)
    assert caught.value.where == str(path)


def test_a_token_shows_in_no_repr(tmp_path: Path) -> None:
    """Not even in what the object keeps."""
    path = tmp_path / "token"
    path.write_text("  s3cret\n")
    token = BearerToken(path)
    assert token.shown_in("Bearer s3cret")
    assert "s3cret" not in f"{token!r} {vars(token)}"
