"""ugallu: detection, forensics and evidence for Kubernetes, in one supervised process."""

from importlib.metadata import PackageNotFoundError, version

try:
    __version__ = version("ugallu")
except PackageNotFoundError:  # a source tree that was never installed
    __version__ = "0+unknown"
