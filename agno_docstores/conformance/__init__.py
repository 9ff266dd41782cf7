"""The conformance suite: what any Agno database has to do, as tests that any store's author can run.

One fixture is needed, `docstore`: a `BaseDb` or `AsyncBaseDb` on empty storage. In your own tests:

    # conftest.py
    pytest_plugins = ["agno_docstores.conformance.plugin"]

    @pytest.fixture
    def docstore(tmp_path):
        return MyDb(...)

    # test_conformance.py
    from agno_docstores.conformance.sessions import *  # noqa: F403
    from agno_docstores.conformance.runs import *  # noqa: F403

A test is one `async def` taking `db`, which has the methods of your class as coroutines, whichever your class is. Tests
of several handles on one storage ask for `another`, which needs a second fixture, `open_another`: a function that
opens one more handle. The author of a driver under our kernel runs `conformance.driver` with the fixture `driver`.
"""
