from agno_docstores.conformance.metrics import *  # noqa: F403
