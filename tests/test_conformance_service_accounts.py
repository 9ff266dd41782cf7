from agno_docstores.conformance.service_accounts import *  # noqa: F403
