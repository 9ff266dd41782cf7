from agno_docstores.conformance.traces import *  # noqa: F403
