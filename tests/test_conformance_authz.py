from agno_docstores.conformance.authz import *  # noqa: F403
