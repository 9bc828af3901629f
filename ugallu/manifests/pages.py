"""The pages of docs/ that are made from the code, by the name of their file. Pure texts."""

from ugallu.api.reference import reference
from ugallu.manifests import policies
from ugallu.manifests.monitoring import page as monitoring


def pages() -> dict[str, str]:
    """Return every page by its path in docs/."""
    return {"api.md": reference(), "monitoring.md": monitoring.page(), "policies.md": policies.page()}
