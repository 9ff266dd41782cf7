from agno_docstores.conformance.ownership import *  # noqa: F403
