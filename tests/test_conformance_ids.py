from agno_docstores.conformance.ids import *  # noqa: F403
