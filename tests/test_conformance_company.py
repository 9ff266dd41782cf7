from agno_docstores.conformance.company import *  # noqa: F403
