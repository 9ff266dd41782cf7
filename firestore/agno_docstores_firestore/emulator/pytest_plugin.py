"""The emulator as a pytest fixture. In the conftest.py at the root of the tests:

pytest_plugins = ["agno_docstores_firestore.emulator.pytest_plugin"]
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from agno_docstores_firestore.emulator.service import FirestoreEmulator


@pytest.fixture(scope="session")
def firestore_emulator() -> Iterator[str]:
    """An emulator for the whole session; yields its address, which FIRESTORE_EMULATOR_HOST holds meanwhile.

    Tests keep apart by using a project each: every project starts empty.
    """
    with pytest.MonkeyPatch.context() as patch, FirestoreEmulator() as address:
        patch.setenv("FIRESTORE_EMULATOR_HOST", address)
        yield address
