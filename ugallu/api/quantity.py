"""Kubernetes quantities (`resource.Quantity`): `2Gi`, `500m`, `1e3`, or a bare integer. Exact, never a float.

As in Kubernetes, what is finer than a billionth is rounded away from zero, and no quantity is beyond 2^63 - 1.
"""

import re
from decimal import ROUND_UP, Context, Decimal
from typing import Final

from ugallu.errors import PermanentError

_POWERS: Final = {"n": -9, "u": -6, "m": -3, "": 0, "k": 3, "M": 6, "G": 9, "T": 12, "P": 15, "E": 18}
_BINARY: Final = {"Ki": 10, "Mi": 20, "Gi": 30, "Ti": 40, "Pi": 50, "Ei": 60}
_GREATEST: Final = Decimal(2**63 - 1)
_FINEST: Final = Decimal((0, (1,), -9))
_MAX_TEXT: Final = 64
_MAX_EXPONENT: Final = 100
_EXACT: Final = Context(prec=2 * _MAX_TEXT + 2 * _MAX_EXPONENT, rounding=ROUND_UP)
_shape = re.compile(r"([+-]?)(\d+\.?\d*|\.\d+)(?:(Ki|Mi|Gi|Ti|Pi|Ei)|[eE]([+-]?\d+)|([numkMGTPE]?))", re.ASCII)


def amount_of(quantity: str | int, *, where: str = "") -> Decimal:
    """Return the value of a quantity. Raises `PermanentError` for what is none."""
    text = str(quantity)
    found = _shape.fullmatch(text) if len(text) <= _MAX_TEXT else None
    if found is None:
        raise PermanentError(f"{text[:_MAX_TEXT]!r} is no quantity", where=where, fix="write 2Gi, 500m or 3")
    sign, digits, binary, exponent, suffix = found.groups()
    value = Decimal(digits)
    if binary:
        value = _EXACT.multiply(value, Decimal(1 << _BINARY[binary]))
    else:
        power = int(exponent) if exponent else _POWERS[suffix or ""]
        value = value.scaleb(max(min(power, _MAX_EXPONENT), -_MAX_EXPONENT), _EXACT)
    value = _GREATEST if value >= _GREATEST else value.quantize(_FINEST, context=_EXACT)
    return value.copy_negate() if sign == "-" else value  # a minus sign would round to the caller's context


def whole(quantity: str | int, *, where: str = "") -> int:
    """Return the value of a quantity that counts something (bytes, objects), rounded away from zero."""
    return int(amount_of(quantity, where=where).to_integral_value(ROUND_UP))


def quantity_of(amount: Decimal | int) -> str:
    """Return an amount as a quantity, with the largest suffix that keeps it exact: binary from 1 Ki on, else decimal.

    Amounts have nine places at most, as `amount_of` returns them.
    """
    nanos = int(_EXACT.multiply(Decimal(amount), Decimal(10**9)).to_integral_exact(ROUND_UP))
    if nanos == 0:
        return "0"
    units, rest = divmod(abs(nanos), 10**9)
    sign = "-" if nanos < 0 else ""
    if not rest:
        for suffix, bits in reversed(_BINARY.items()):
            if not units % (1 << bits):
                return f"{sign}{units >> bits}{suffix}"
    for suffix, power in sorted(_POWERS.items(), key=lambda item: -item[1]):
        if not abs(nanos) % 10 ** (power + 9):
            return f"{sign}{abs(nanos) // 10 ** (power + 9)}{suffix}"
    return f"{sign}{abs(nanos)}n"
