from agno_docstores.conformance.memories import *  # noqa: F403
