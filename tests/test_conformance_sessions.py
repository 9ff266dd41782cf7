from agno_docstores.conformance.sessions import *  # noqa: F403
