from agno_docstores.conformance.values import *  # noqa: F403
