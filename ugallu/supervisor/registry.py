"""Which operators are installed, known from metadata alone; only an enabled one is ever imported."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from ugallu.errors import PermanentError
from ugallu.operator.contract import Operator

GROUP = "ugallu.operators"


class Installed(NamedTuple):
    """One line of metadata: the operator's name, the object that an import would give, and who brought it."""

    name: str
    target: str
    """`module:attribute`."""
    distribution: str

    def load(self) -> type[Operator[Any]]:
        """Import the operator's class. Raises `PermanentError` when the plug-in is broken."""
        import importlib

        module, _, attribute = self.target.partition(":")
        try:
            found = getattr(importlib.import_module(module), attribute)
        except (ImportError, AttributeError) as error:
            raise PermanentError(
                f"cannot be imported: {error}", where=f"operator {self.name}", fix=f"reinstall {self.distribution}"
            ) from error
        if not (isinstance(found, type) and issubclass(found, Operator)):
            raise PermanentError(f"{self.target} is no Operator", where=f"operator {self.name}")
        if found.name != self.name:
            raise PermanentError(
                f"{self.target} calls itself {found.name!r}",
                where=f"operator {self.name}",
                fix="give the entry point and the class one name",
            )
        return found


def installed() -> Mapping[str, Installed]:
    """Return what is installed, by name in order; nothing is imported."""
    from importlib.metadata import entry_points

    found = {
        point.name: Installed(point.name, point.value, point.dist.name if point.dist else "")
        for point in entry_points(group=GROUP)
    }
    return dict(sorted(found.items()))


def choose(names: Sequence[str], known: Mapping[str, Installed], *, without: Iterable[str] = ()) -> list[Installed]:
    """Return the lines that `names` mean, in the order of `known`; no names mean all that stand in `known`.

    `without` leaves some out of "all"; a name that was given wins. Raises `PermanentError` for an unknown name.
    """
    unknown = [name for name in names if name not in known]
    if unknown:
        raise PermanentError(
            f"no operator is called {', '.join(unknown)}",
            where="--enable",
            fix=f"installed are: {', '.join(known) or 'none'}",
        )
    left_out = set(without)
    return [line for name, line in known.items() if (name in names if names else name not in left_out)]
