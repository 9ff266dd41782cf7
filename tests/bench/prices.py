"""What the counted units cost: the public prices, with their date, and what a month of turns comes to.

A price list is to be asked before money is spent.
"""

from __future__ import annotations

from dataclasses import dataclass

from tests.bench.counting import Counts


@dataclass(frozen=True)
class Price:
    """US dollars; `read`, `write`, `delete` for a million units, `gigabyte` (of 2**30 bytes) for a month of storage."""

    read: float
    write: float
    delete: float
    gigabyte: float
    what: str
    source: str
    dated: str  # of the newest publication that these figures were compared with


PRICES = {
    "dynamo": Price(
        read=0.125,
        write=0.625,
        delete=0.625,
        gigabyte=0.25,
        what="DynamoDB on demand, standard table class, us-east-1",
        source="https://aws.amazon.com/dynamodb/pricing/on-demand/",
        dated="2025-07",
    ),
    "firestore": Price(
        read=0.60,
        write=1.80,
        delete=0.20,
        gigabyte=0.18,
        what="Firestore Standard, multi-region (a single region of the USA costs half)",
        source="https://cloud.google.com/firestore/pricing",
        dated="2020-02",
    ),
}
TURNS = 1_000_000


def monthly(store: str, turn: Counts, run_bytes: float) -> tuple[float, float]:
    """Dollars for a million of such turns, and for a month of keeping what they wrote. Without network and backups."""
    price = PRICES[store]
    operations = (turn.read_units or 0) * price.read + (turn.write_units or 0) * price.write
    operations += turn.deletes * price.delete
    return operations * TURNS / 1_000_000, run_bytes * TURNS / 2**30 * price.gigabyte
