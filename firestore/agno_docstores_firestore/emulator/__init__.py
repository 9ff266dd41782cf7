"""A Firestore for tests, in this process: no Java, no cloud, no account.

    with FirestoreEmulator() as address:
        os.environ["FIRESTORE_EMULATOR_HOST"] = address
        client = google.cloud.firestore.Client(project="any")

It serves, over gRPC and with google-cloud-firestore's own messages, what the driver of this package uses and what a
test of an agent needs, and answers UNIMPLEMENTED to the rest. It keeps production's limits, and it refuses what
production refuses without a declared index. The same tests run on it and on Google's emulator.

`python -m agno_docstores_firestore.emulator` runs it alone; `pytest_plugin` has a fixture.
"""

from agno_docstores_firestore.emulator.service import FirestoreEmulator
from agno_docstores_firestore.emulator.values import Refused

__all__ = ["FirestoreEmulator", "Refused"]
