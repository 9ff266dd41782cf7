from agno_docstores.conformance.large import *  # noqa: F403
