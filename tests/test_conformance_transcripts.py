from agno_docstores.conformance.transcripts import *  # noqa: F403
