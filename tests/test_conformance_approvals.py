from agno_docstores.conformance.approvals import *  # noqa: F403
