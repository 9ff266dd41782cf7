from agno_docstores.conformance.domains import *  # noqa: F403
