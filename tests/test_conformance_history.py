from agno_docstores.conformance.history import *  # noqa: F403
