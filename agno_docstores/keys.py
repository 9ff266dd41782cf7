"""Ids, times, and order-preserving text keys.

A key is a tuple of scalars written as one text, such that comparing two texts (by code point, which is how DynamoDB and
Firestore compare UTF-8 strings) gives the same answer as comparing the tuples: null < false < true < numbers < strings.
Nothing of a caller is ever joined raw: what could be mistaken for a separator is escaped, so two different tuples never
give one text, and no id can leave its place.
"""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Iterable
from decimal import Decimal
from enum import Enum
from typing import Any
from uuid import UUID

from agno_docstores.errors import InvalidIdError

Scalar = str | int | float | bool | None

_END = "!"  # ends every component; sorts below whatever a component can hold
_ESCAPE = '"'  # the next higher character; what sorts at or below it is escaped
_ESCAPED = {code: _ESCAPE + chr(0x23 + code) for code in range(ord(_ESCAPE) + 1)}
_LONG = 200  # bytes of one text component that are kept as they are
_USUAL = 10**18  # an int between 0 and this takes no exact arithmetic
_DIGEST = re.compile(r"~[0-9a-f]{32}~\Z")  # what ends a text that was too long


def check_id(name: str, value: object) -> str:
    """The id itself, if it is one; raises `InvalidIdError` for anything but a non-empty, encodable `str`."""
    if not isinstance(value, str) or not value:
        raise InvalidIdError(name, value)
    if not encodable(value):
        raise InvalidIdError(name, value, "must not hold a lone surrogate")
    return value


def text_of(value: Any) -> Any:
    """An id of another record as it is stored and compared: a number or a UUID as its text, a member of an enumeration
    as what it stands for; anything else as it is."""
    if isinstance(value, Enum):
        value = value.value
    return str(value) if isinstance(value, int | float | UUID) else value


def as_id(name: str, value: object) -> str:
    """`text_of` a value, if that is an id; raises `InvalidIdError`."""
    return check_id(name, text_of(value))


def check_time(name: str, value: Any) -> Any:
    """Epoch seconds, as an int where they are whole; None for None. Raises `TypeError` for anything but a finite number
    of 64 bits: of two times that do not compare, no listing could tell which comes first."""
    if value is None:
        return None
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if not number or not -(2**63) <= value < 2**63:
        raise TypeError(f"{name} must be epoch seconds, not {value!r}")
    return int(value) if value == int(value) else value


def encodable(text: str) -> bool:
    """Whether UTF-8, and so a store, has a form for the text: a lone surrogate has none."""
    if text.isascii():
        return True
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def encode(values: Iterable[Scalar]) -> str:
    """The key of a tuple. A text component over 200 bytes keeps its beginning and a digest of the whole: equality stays
    exact, order is that of the beginning."""
    return "".join([_component(value) + _END for value in values])


def digest(text: str, size: int = 32) -> str:
    """`size` hex characters that stand for a text."""
    return hashlib.sha256(text.encode(errors="surrogatepass")).hexdigest()[:size]


def fit(text: str, limit: int) -> str:
    """The text if it takes at most `limit` bytes, else its beginning and a digest of the whole. A text that ends as
    such a digest does is given one as well, whatever its length: so no text is what another was abridged to."""
    raw = text if text.isascii() else text.encode()  # as long as its bytes
    if len(raw) <= limit and not abridged(text):
        return text
    raw = text.encode()
    return raw[: limit - 34].decode(errors="ignore") + "~" + digest(text) + "~"


def abridged(text: str) -> bool:
    """Whether a text ends as one does that `fit` has made; no other leaves `fit` as it is."""
    return text.endswith("~") and _DIGEST.search(text) is not None


def rank(value: Scalar) -> tuple[int, Any]:
    """What a value sorts by, exactly, where a key's text would abridge it: null first, then numbers (booleans among
    them), then text."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return 0, 0
    return (2, value) if isinstance(value, str) else (1, value)


def _component(value: Scalar) -> str:
    if value is None:
        return "0"
    if isinstance(value, bool):
        return "2" if value else "1"
    if isinstance(value, int | float):
        return "3" + _number(value)
    return "4" + fit(value, _LONG).translate(_ESCAPED)


def _number(value: int | float) -> str:
    if type(value) is int and 0 < value < _USUAL:
        digits = str(value)
        return f"p{len(digits):03d}{digits}"
    if isinstance(value, float):
        if math.isnan(value):
            return "a"
        if math.isinf(value):
            return "z" if value > 0 else "b"
    whole, _, fraction = format(Decimal(value), "f").lstrip("-").partition(".")
    whole = whole.lstrip("0")
    fraction = fraction.rstrip("0")
    if value >= 0:
        return f"p{len(whole):03d}{whole}" + (f".{fraction}" if fraction else "")
    # Below zero a larger magnitude sorts first: length and digits are complemented, and the end sorts above a fraction.
    text = f"n{999 - len(whole):03d}{_complement(whole)}" + (f".{_complement(fraction)}" if fraction else "")
    return text + "~"


def _complement(digits: str) -> str:
    return "".join(str(9 - int(digit)) for digit in digits)
