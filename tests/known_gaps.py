"""What is known not to pass, and why; the only place where a test of the matrix may be excused.

An entry is strict: its tests run, and have to fail. A test that passes fails the run, and so does, in a run of the full
matrix, an entry that no test matches. A broken fixture is never excused.

Patterns are those of `fnmatch`. The first is matched with the cell's id, the second with `module::test[parameters]`
(the cell left out) and with `module::test`; the module is spelt without `test_` and without `conformance_`.
"""

from __future__ import annotations

Gaps = dict[tuple[str, str], str]

#: A server or client of the matrix that cannot do what the store can: (cells, tests) -> why.
GAPS: Gaps = {}

_PRIMITIVES = "SqliteDb has no run primitives; only Agno's Postgres adapters do, and theirs is the behaviour asserted"
_OWNERSHIP = "SqliteDb lets anybody write a run into any session; the text would reach the owner's next prompt"
_SEARCH = "SqliteDb matches a pattern over the text of all session data; we follow Postgres: the name only, as text"
_ORDER = "SqliteDb stores a given run_index as it is, so that two runs share a place or a new run sorts before old ones"
_STATUS = "SqliteDb takes whichever write comes last, so that a late RUNNING reopens a run that has ended"
_NO_SEARCH = "AsyncSqliteDb lacks search_learnings; SqliteDb, and both of ours, have it"
_KEEPS_OWNER = "SqliteDb strips the owner of a run that is written again without a user, and so opens it to all"

#: Tests that our stores pass and the oracle, Agno's own SqliteDb, fails: where we deviate, and the argument for it.
DEVIATIONS: Gaps = {
    ("sqlite-*", "sessions::test_session_type_may_be_text"): "SqliteDb takes the enum only; Postgres, and we, both",
    **{
        ("sqlite-*", f"sessions::test_the_search_by_name_takes_text_as_text[[]{text}]"): _SEARCH
        for text in ("%", "_", "100%", "a%b")
    },
    ("sqlite-*", "sessions::test_the_search_by_name_sees_names_only"): _SEARCH,
    ("sqlite-*", "runs::test_two_turns_with_one_index_get_two_places"): _ORDER,
    ("sqlite-*", "runs::test_after_deletions_a_new_run_comes_last"): _ORDER,
    ("sqlite-*", "runs::test_a_late_write_does_not_reopen_an_ended_run"): _STATUS,
    ("sqlite-*", "runs::test_a_stranger_cannot_write_into_a_session"): _OWNERSHIP,
    ("sqlite-*", "runs::test_a_stranger_cannot_take_over_a_run_by_its_id"): _OWNERSHIP,
    ("sqlite-*", "runs::test_a_session_that_was_adopted_refuses_others"): _OWNERSHIP,
    ("sqlite-*", "runs::test_a_write_without_user_keeps_the_owner"): _KEEPS_OWNER,
    ("sqlite-*", "runs::test_update_run_in_session_*"): _PRIMITIVES,
    ("sqlite-*", "runs::test_append_run_if_absent"): _PRIMITIVES,
    ("sqlite-*", "runs::test_insert_session_if_absent"): _PRIMITIVES,
    ("sqlite-*", "history::test_a_transferred_session_refuses_its_former_owner_on_every_handle"): _OWNERSHIP,
    ("sqlite-*", "framework::test_a_conversation_of_another_user_is_not_seen"): _OWNERSHIP,
    # --- memories ---
    # --- metrics ---
    ("sqlite-*", "metrics::test_a_session_of_an_earlier_day_is_counted_again_when_it_goes_on"): (
        "SqliteDb never looks at a completed day again: runs of a session created earlier are not counted"
    ),
    ("sqlite-*", "metrics::test_a_session_is_counted_under_one_owner"): (
        "SqliteDb leaves the row of the former owner as it was, so that the session is counted twice"
    ),
    ("sqlite-*", "metrics::test_a_session_of_which_nothing_can_be_told_blocks_no_other"): (
        "SqliteDb fails the whole calculation for one session whose data are not as Agno stores them"
    ),
    # --- knowledge ---
    # --- evals ---
    # --- traces ---
    # --- learnings ---
    ("sqlite-*", "learnings::test_a_stranger_cannot_write_over_a_learning_by_its_id"): (
        "SqliteDb lets anybody replace the content of any learning by its id; it would reach the owner's next prompt"
    ),
    ("sqlite-*", "learnings::test_what_was_not_written_is_told_in_the_log"): (
        "SqliteDb refuses nobody, and tells of an error at debug level only, so that nobody learns of it"
    ),
    ("sqlite-*", "learnings::test_there_is_no_page_before_the_first"): (
        "SqliteDb takes page 0 for page 1; Postgres, and we, refuse it"
    ),
    ("sqlite-*", "learnings::test_search_finds_no_look_alikes"): (
        "SqliteDb stores letters beyond ASCII as six characters each, and looks for any six; we look for the letter"
    ),
    **{
        ("sqlite-async", f"learnings::test_search_{test}"): _NO_SEARCH
        for test in (
            "crosses_case_and_separators",
            "looks_at_the_json_text_of_the_content",
            "takes_text_as_text",
            "is_within_the_filters",
        )
    },
    # --- domains ---
}
