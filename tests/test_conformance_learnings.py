from agno_docstores.conformance.learnings import *  # noqa: F403
