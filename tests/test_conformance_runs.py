from agno_docstores.conformance.runs import *  # noqa: F403
