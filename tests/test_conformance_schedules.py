from agno_docstores.conformance.schedules import *  # noqa: F403
