"""The evidence services that the rig builds: real ones, at the versions that were tried together.

Three of them are main packages of our own in the folders beside this file: Trillian's released servers need a database,
the timestamp authority's binds a fixed port, and rekor-tiles asks for two modules that the proxy does not serve.
"""

from pathlib import Path

from tests.rig.go import Program

HERE = Path(__file__).parent

FULCIO = Program("fulcio", "github.com/sigstore/fulcio", "v1.8.8")
TSAD = Program("tsad", "ugallu.test/tsad", "v2.1.5", folder=HERE / "tsad")
REKOR = Program("rekor-server", "github.com/sigstore/rekor/cmd/rekor-server", "v1.5.5")
TRILLIAN = Program("trillian-mem", "ugallu.test/trillian-mem", "v1.8.0", folder=HERE / "trillian-mem")
TESSERACT = Program("tesseract", "github.com/transparency-dev/tesseract/cmd/tesseract/posix", "v0.1.1")
REKOR_TILES = Program("rekor-tiles", "ugallu.test/rekor-tiles", "v2.4.1", folder=HERE / "rekor-tiles")

# In this order each build profits from what Go has compiled for those before it.
PROGRAMS = (FULCIO, TSAD, REKOR, TRILLIAN, TESSERACT, REKOR_TILES)
