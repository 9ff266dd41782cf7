from agno_docstores.conformance.driver import *  # noqa: F403
