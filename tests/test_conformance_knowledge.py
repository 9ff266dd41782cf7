from agno_docstores.conformance.knowledge import *  # noqa: F403
