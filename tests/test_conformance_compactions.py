from agno_docstores.conformance.compactions import *  # noqa: F403
