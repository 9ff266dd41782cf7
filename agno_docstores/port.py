"""The port: what a driver implements, and the records that cross it.

A driver knows one store: its client, physical layout, error codes and limits. It does not know what a kind means. A
record is addressed by `Ref`, carries small scalar `fields` (what indexes, filters and listings look at) and a `body` of
named JSON parts (what only a full read fetches), and changes its `Rev` with every write. The guarantees stated on each
method are what `agno_docstores.conformance.driver` checks; together they are the guide for the driver of another store.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from types import MappingProxyType
from typing import Any

from agno_docstores.codec import Json
from agno_docstores.io import Io
from agno_docstores.keys import Scalar

# A field is a scalar, or a tuple of texts: then an index on it has an entry for each of them.
FieldValue = Scalar | tuple[str, ...]
Fields = Mapping[str, FieldValue]


#: A body part that every kind with a body has besides its own: where a body is that is too large for one record
#: (`chunks.py`). To a driver a part like the others; no caller's data can have its name.
MANIFEST = "_manifest"


# --- What is stored -------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Index:
    """A declared order: by the sort field, then the id, among the records that agree in the `eq` fields.

    A record has an entry unless one of the `eq` fields is null. `strong`: reads see every acknowledged write; only an
    index by the parent may ask for that. `optional`: a driver whose store bills index entries may leave it out.
    `spread`: the `eq` fields have few values, so that a driver whose store limits the writes of one partition had
    better divide each value's entries among several. `crowded`: the `eq` fields have many values, but one of them may
    have most of the entries, so that a driver may divide them where it is told to. `once`: an entry is written when its
    record begins, and hardly ever again, so that the index takes fewer writes than one that follows each change. A
    kind's indexes are declared the most selective first: of two that serve a query equally well, the first is taken.
    """

    name: str
    eq: tuple[str, ...]
    sort: str
    strong: bool = False
    optional: bool = False
    spread: bool = False
    crowded: bool = False
    once: bool = False

    def shards(self, listing: int, component: int) -> int:
        """Among how many places to divide the entries with the same `eq` values: `listing`, where they are those of
        the whole store or of one of few values; `component`, where the index is crowded.

        What is written once for a session takes, beside what is written at each of its turns, half the writes or fewer;
        and each place less is a request less for a page.
        """
        if self.spread or not self.eq:
            return max(1, listing // 2) if self.once else listing
        return component if self.crowded else 1


@dataclass(frozen=True, slots=True)
class Kind:
    """A sort of record: its fields, body parts and indexes, declared once and read by drivers, suite and docs.

    `table`: attribute of `BaseDb` that names its table. `parent`: the field that holds the parent's id; such records
    are children, stored with their parent where the store knows such a thing, and their ids are unique over all
    parents. `order`: a child's int field that never changes and is unique within the parent; a driver may use it as the
    physical position. `within`: another kind with the same ids, whose document this record may share, so that a commit
    of both is one document's. `multi`: fields whose values are tuples of texts. `volatile`: fields that change often,
    better kept out of index projections. `unique`: fields whose values, texts, no two records of the kind share; null
    is no value (`Driver.unique`). `claims`: of a kind with such, the companion kind that holds who has which value,
    where the driver does not see to it itself. `nested`: children that are addressed with their parent only, and whose
    ids nobody repeats; a driver need not find them by id alone, nor see to it that the id is unique over all parents.
    """

    name: str
    table: str
    fields: tuple[str, ...]
    body: tuple[str, ...] = ()
    indexes: tuple[Index, ...] = ()
    parent: str | None = None
    order: str | None = None
    within: str | None = None
    multi: frozenset[str] = frozenset()
    volatile: frozenset[str] = frozenset()
    unique: tuple[str, ...] = ()
    claims: str | None = None
    nested: bool = False

    @property
    def parts(self) -> tuple[str, ...]:
        """All that a stored body may consist of."""
        return (*self.body, MANIFEST) if self.body else ()

    def index(self, name: str) -> Index:
        return next(index for index in self.indexes if index.name == name)


@dataclass(frozen=True, slots=True)
class Ref:
    """Where a record is. Of a child, `parent` and `order` are known to whoever wrote or scanned it; a lookup by id
    alone leaves them out and may cost a driver one more read."""

    kind: str
    id: str
    parent: str | None = field(default=None, compare=False)
    order: int | None = field(default=None, compare=False)


@dataclass(frozen=True, slots=True)
class Rev:
    """The version of a record: the token of the commit that wrote it. `at` is the driver's own note. The kernel's:
    `held`, of which values the record has that must be unique; `manifest`, of a record whose body is in chunks: whoever
    writes on it leaves those behind."""

    token: str
    at: Any = field(default=None, compare=False)
    held: Any = field(default=None, compare=False)
    manifest: Any = field(default=None, compare=False)


@dataclass(frozen=True, slots=True)
class Stored:
    """A record as read. `expires_at`: epoch seconds. Where only the header was asked for, `body` is None, and an index
    entry may stand for the record: its `Rev` may be empty, and volatile fields other than the index's own missing; of a
    strong index other than the children's order, all fields but the parent, the order and the index's own."""

    ref: Ref
    rev: Rev
    fields: dict[str, FieldValue]
    body: dict[str, Json] | None = None
    expires_at: int | None = None


def as_int(value: FieldValue) -> int:
    """An int field's value; what is none counts as 0."""
    return value if isinstance(value, int) else 0


def field_bytes(fields: Fields) -> int:
    """Bytes of the texts among fields, in UTF-8."""
    texts = [text for value in fields.values() for text in (value if isinstance(value, tuple) else (value,))]
    return sum(len(text.encode(errors="surrogatepass")) for text in texts if isinstance(text, str))


def added(record: Stored, deltas: Mapping[str, int], also: Fields) -> dict[str, FieldValue]:
    """The fields of a record after `Driver.add`."""
    fields = {**record.fields, **also}
    for name, delta in deltas.items():
        fields[name] = as_int(record.fields.get(name)) + delta
    return fields


# --- Writes ---------------------------------------------------------------------------------------------------------


class Expect(Enum):
    ANY = "any"
    ABSENT = "absent"


Expectation = Expect | Rev


@dataclass(frozen=True, slots=True)
class Put:
    """Store the whole record: a field or part not given is gone afterwards."""

    ref: Ref
    fields: Fields
    body: Mapping[str, Json] = field(default_factory=dict)
    expect: Expectation = Expect.ANY
    expires_at: int | None = None


@dataclass(frozen=True, slots=True)
class Delete:
    """Remove the record. Removing what is not there is no error under `ANY`, and a conflict under a `Rev`."""

    ref: Ref
    expect: Expectation = Expect.ANY


@dataclass(frozen=True, slots=True)
class Touch:
    """Change nothing but the expiry of an existing record."""

    ref: Ref
    expires_at: int | None
    expect: Expectation = Expect.ANY


Write = Put | Delete | Touch


def is_insert(write: Write) -> bool:
    """A put of a record that must not be there yet."""
    return isinstance(write, Put) and write.expect is Expect.ABSENT


# --- Conditions and scans -------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Eq:
    """The field equals the value. Null equals nothing but null; a boolean no number."""

    field: str
    value: Scalar

    def holds(self, fields: Fields) -> bool:
        value = fields.get(self.field)
        return value == self.value and isinstance(value, bool) == isinstance(self.value, bool)


@dataclass(frozen=True, slots=True)
class Has:
    """The multi-valued field has this text among its values."""

    field: str
    value: str

    def holds(self, fields: Fields) -> bool:
        value = fields.get(self.field)
        return isinstance(value, tuple) and self.value in value


@dataclass(frozen=True, slots=True)
class Range:
    """`low <= field <= high`; a bound of None is open, a null field never matches."""

    field: str
    low: int | float | str | None = None
    high: int | float | str | None = None

    def holds(self, fields: Fields) -> bool:
        value: Any = fields.get(self.field)
        if value is None:
            return False
        return (self.low is None or value >= self.low) and (self.high is None or value <= self.high)


@dataclass(frozen=True, slots=True)
class NotIn:
    """The field is null or none of the values."""

    field: str
    values: tuple[str, ...]

    def holds(self, fields: Fields) -> bool:
        return fields.get(self.field) not in self.values


@dataclass(frozen=True, slots=True)
class In:
    """The field is one of the values; null may be one of them."""

    field: str
    values: tuple[Scalar, ...]

    def holds(self, fields: Fields) -> bool:
        return fields.get(self.field) in self.values


@dataclass(frozen=True, slots=True)
class Contains:
    """The field's text contains this text, compared without case. The text is text: no wildcard, no pattern."""

    field: str
    text: str

    def holds(self, fields: Fields) -> bool:
        value = fields.get(self.field)
        return isinstance(value, str) and self.text.casefold() in value.casefold()


@dataclass(frozen=True, slots=True)
class Predicate:
    """Whatever no other condition says: a test of these fields. No driver pushes it down; it is applied to headers."""

    fields: tuple[str, ...]
    test: Callable[[Fields], bool]

    def holds(self, fields: Fields) -> bool:
        return self.test(fields)


Condition = Eq | Has | Range | NotIn | In | Contains | Predicate


def looks_at(condition: Condition) -> tuple[str, ...]:
    """The fields that a condition depends on."""
    return condition.fields if isinstance(condition, Predicate) else (condition.field,)


#: The index that every kind has undeclared: all its records, in an order of the driver's own, for want of a better one.
EVERYTHING = "*"


@dataclass(frozen=True, slots=True)
class Span:
    """A stretch of an index: the entries with these `eq` values, optionally between bounds of the sort field.

    The index `EVERYTHING` is all records of the kind, in an order of the driver's own. `low`/`high` are inclusive; None
    is open; where either is given, a record whose sort field is null does not count. `after` is the cursor of the page
    before (exclusive). `limit` counts records. `body=False` asks for headers only: bodies are neither fetched nor paid
    for. `where` may be pushed down by the driver in full, in part or not at all: the kernel applies it again.
    `alive_at`: epoch seconds; what has expired by then is not counted (`count`, `page_and_count`), and may be left out
    of a scan, which the kernel does in any case.
    """

    kind: str
    index: str
    eq: tuple[Scalar, ...] = ()
    low: Scalar = None
    high: Scalar = None
    descending: bool = False
    after: Any = None
    limit: int | None = None
    body: bool = True
    where: tuple[Condition, ...] = ()
    alive_at: int | None = None


@dataclass(frozen=True, slots=True)
class Page:
    """Records in order, and where to go on: None when there is no more."""

    records: list[Stored]
    cursor: Any = None


@dataclass(frozen=True, slots=True)
class Failed:
    """A write of `write_many` that did not succeed, and why."""

    write: Write
    error: Exception


class Driver(ABC):
    """One store. Methods raise the classes of `agno_docstores.errors`; the gateway has translated the client's own."""

    #: Name of the store, as entry points and reports spell it.
    store: str
    #: Whether `commit` can change any records together. Where it cannot, only records that share a document commit as
    #: one, and the kernel orders single writes such that neither a crash nor a reader in between loses anything.
    atomic: bool
    #: Whether the store makes a table by itself at the first write, so that indexes must be ensured before it.
    implicit_tables: bool
    #: Whether a commit that would give two records one value of a `Kind.unique` field is a `Conflict` of the store's
    #: own making. Where it is not, commits span records (`atomic`), and the kernel commits a claim of each value with
    #: the record.
    unique: bool = False
    #: Whether indexes declared `optional` are kept.
    optional_indexes: bool = True
    #: The conditions that `scan` applies in full by itself, so that a page under them needs no second look for more.
    pushes: frozenset[type] = frozenset()
    #: Bytes that one record may take, as `stored_bytes` counts them: what the store takes, less room for keys, index
    #: entries and the like. What takes more the kernel puts into several records. None: no limit.
    item_bytes: int | None = None
    io: Io

    def __init__(self, io: Io, kinds: Mapping[str, Kind], tables: Mapping[str, str]) -> None:
        self.io = io
        self.kinds = kinds
        #: Physical table by kind.
        self.tables = tables

    def storage(self, kind: str) -> str:
        """The name of what holds the records of a kind: its table, unless the store divides that further."""
        return self.tables[kind]

    def stored_bytes(self, put: Put) -> int:
        """Bytes that a record would take: those of its body, and the texts among its fields. At most 4 for each
        character of these and of the parts' names, and 8 for each part; exact up to `item_bytes`."""
        return sum(len(name) + 4 + part.size for name, part in put.body.items()) + field_bytes(put.fields)

    @abstractmethod
    def address(self) -> str:
        """Host, project or region for messages, without credentials."""

    @abstractmethod
    def create_command(self, kind: str) -> str:
        """The command line by which an operator creates the storage of this kind (under the default table names)."""

    @abstractmethod
    async def open(self) -> None:
        """Make the client ready, on this event loop. Idempotent and quick when it is: called before each operation."""

    @abstractmethod
    async def close(self) -> None:
        """Close what `open` created, on all loops as far as they still run; never a client that was handed in."""

    @abstractmethod
    async def ensure(self, kinds: Sequence[Kind]) -> None:
        """Create the storage of these kinds, or verify it, and wait until it is ready. Safe when processes race, and
        when repeated; never drops or rebuilds. Raises `ProvisioningError`."""

    @abstractmethod
    async def exists(self, table: str) -> bool:
        """Whether the physical table or collection exists."""

    @abstractmethod
    async def drop(self) -> None:
        """Remove every record of this driver's tables, expired and undecodable ones among them, and the tables
        themselves, but nothing of another origin. Idempotent; what is not there is no error. `ensure` makes them anew.
        Raises `ProvisioningError` for a table that is none of ours. What is written meanwhile may go or stay."""

    @abstractmethod
    async def get(self, ref: Ref) -> Stored | None:
        """Linearizable read of one record with its body. None is the store's own answer, never a failed read."""

    @abstractmethod
    async def get_many(self, refs: Sequence[Ref]) -> list[Stored | None]:
        """The same for several, in the order asked for. Each read is linearizable; together they are no snapshot."""

    @abstractmethod
    async def commit(self, writes: Sequence[Write], token: str) -> list[Rev | None]:
        """All or nothing, every expectation checked. A lost race raises `Conflict`, an oversize record
        `PayloadTooLargeError` before anything is sent. The token is this commit's own: it becomes the `Rev` of what was
        put, so that whoever sends the commit again after a lost reply can recognise his own write. Several documents at
        once where `atomic` is False raise `UnsupportedTopologyError` unless the deployment can do it."""

    @abstractmethod
    async def write_many(self, writes: Sequence[Write], token: str) -> list[Failed]:
        """Many writes without order or atomicity, in the store's batches; each must be idempotent: under `ANY`, or a
        put under `ABSENT`, which fails with `Conflict` where a record is there (be it this write's own, sent again).
        Returns what failed after the store's own "unprocessed" answers were retried; raises only if nothing could be
        sent."""

    @abstractmethod
    async def scan(self, span: Span) -> Page:
        """A page of an index in its order. No duplicates and no gaps over the pages of an unchanging index; an index by
        the parent is strongly consistent where declared so. May return fewer than `limit` with a cursor."""

    @abstractmethod
    async def count(self, span: Span) -> int:
        """The exact number of entries of a span without `where`; under `alive_at`, of those that have not expired."""

    @abstractmethod
    async def add(
        self,
        ref: Ref,
        deltas: Mapping[str, int],
        guard: Sequence[Condition],
        token: str,
        also: Fields = MappingProxyType({}),
    ) -> Stored | None:
        """Add to int fields of an existing record, and set the fields of `also`, in one step where the guard holds;
        returns the record afterwards. None: no such record, or the guard does not hold (read it to tell). A repetition
        after a lost reply may add twice."""

    async def delete_children(self, parent: str, kind: Kind, where: Sequence[Condition] = ()) -> bool:
        """Optional: delete all children of a parent for which the conditions hold, in one request of the store's own.
        False: not supported (for these); the kernel then scans headers and deletes in batches."""
        return False

    async def totals(
        self, kind: Kind, parents: Sequence[str], sums: Sequence[str]
    ) -> dict[str, tuple[int, ...]] | None:
        """Optional: of each of these parents, the number of its children and the sums of int fields of theirs, all in
        one request of the store's own; a parent without children may be left out. None: not supported; the kernel then
        scans headers. What has expired is not counted."""
        return None

    async def page_and_count(self, span: Span, offset: int) -> tuple[list[Stored], int] | None:
        """Optional: the headers of a stretch of a span, `limit` of them from `offset` on, and the number of all, both
        under the span's conditions, in one request. None: not supported, or not for these conditions; the kernel then
        asks for the one and the other."""
        return None
