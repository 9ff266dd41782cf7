from agno_docstores.conformance.identity import *  # noqa: F403
