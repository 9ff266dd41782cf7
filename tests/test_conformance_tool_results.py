from agno_docstores.conformance.tool_results import *  # noqa: F403
