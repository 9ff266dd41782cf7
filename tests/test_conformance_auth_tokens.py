from agno_docstores.conformance.auth_tokens import *  # noqa: F403
