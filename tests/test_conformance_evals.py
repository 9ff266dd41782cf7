from agno_docstores.conformance.evals import *  # noqa: F403
