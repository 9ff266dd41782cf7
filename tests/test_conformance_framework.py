from agno_docstores.conformance.framework import *  # noqa: F403
