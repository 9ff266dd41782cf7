"""What is known not to pass, and why; the only place where a test of the matrix may be excused.

An entry is strict: its tests run, and have to fail. A test that passes fails the run, and so does, in a run of the full
matrix, an entry that no test matches. A broken fixture is never excused.

Patterns are those of `fnmatch`. The first is matched with the cell's id, the second with `module::test[parameters]`
(the cell left out) and with `module::test`; the module is spelt without `test_` and without `conformance_`.
"""

from __future__ import annotations

Gaps = dict[tuple[str, str], str]

_COMPANY = "a company's hierarchy changes in commits of several documents, which a single server, and mongomock, lacks"

#: A server or client of the matrix that cannot do what the store can: (cells, tests) -> why.
GAPS: Gaps = {
    ("mongo-motor-*", "domains::test_runs_are_traced_with_all_their_spans"): (
        "a Motor client belongs to one event loop; Agno's exporter stores the span of a tool that ran in a thread on a "
        "loop of its own, where such a client does nothing"
    ),
    ("mongo-sync-standalone", "agentos_company::*"): _COMPANY,
    **{
        (cells, tests): _COMPANY
        for cells in ("memory-*-standalone", "mongo-sync-standalone", "mongo-sync-mongomock")
        for tests in (
            "company::*",
            "ownership::test_a_stranger_takes_no_part_in_a_company",
            "ownership::test_a_stranger_is_not_told_what_is_archived",
        )
    },
}

_PRIMITIVES = "SqliteDb has no run primitives; only Agno's Postgres adapters do, and theirs is the behaviour asserted"
_OWNERSHIP = "SqliteDb lets anybody write a run into any session; the text would reach the owner's next prompt"
_SEARCH = "SqliteDb matches a pattern over the text of all session data; we follow Postgres: the name only, as text"
_ORDER = "SqliteDb stores a given run_index as it is, so that two runs share a place or a new run sorts before old ones"
_STATUS = "SqliteDb takes whichever write comes last, so that a late RUNNING reopens a run that has ended"
_NO_SEARCH = "AsyncSqliteDb lacks search_learnings; SqliteDb, and both of ours, have it"
_KEEPS_OWNER = "SqliteDb strips the owner of a run that is written again without a user, and so opens it to all"
_MEMORY_OWNER = "SqliteDb lets any user overwrite a memory by its id; its owner would be told what somebody else wrote"
_MEMORY_SEARCH = "SqliteDb matches patterns over JSON text, with letters beyond ASCII escaped; we compare values"
_KNOWLEDGE_SORT = "SqliteDb sorts knowledge by a column times 1 or -1, an order of numbers only; we follow Postgres"
_TOTALS = "SqliteDb answers a page past the end with a total of 0"
_OURS = "SqliteDb has no such methods: they are ours beyond the contract"
_RESULT_MOVES = (
    "SqliteDb moves a result to whatever session its id is stored again with; the first would lose it unawares"
)
_BATCH = "SqliteDb loses a whole batch of spans for one that is stored already, or cannot be; we lose that one"

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
    ("sqlite-sync", "memories::test_a_row_is_a_dict_of_every_column"): "SqliteDb gives mappings that are no dicts",
    ("sqlite-*", "memories::test_another_user_cannot_overwrite_a_memory"): _MEMORY_OWNER,
    ("sqlite-*", "memories::test_a_bulk_write_leaves_out_what_is_anothers"): _MEMORY_OWNER,
    ("sqlite-*", "memories::test_a_bulk_write_that_is_refused_writes_nothing"): (
        "SqliteDb then stores one after the other, until it comes to what it cannot store"
    ),
    ("sqlite-*", "memories::test_the_search_takes_text_as_text_without_case"): _MEMORY_SEARCH,
    ("sqlite-*", "memories::test_a_topic_is_matched_whole"): _MEMORY_SEARCH,
    ("sqlite-*", "memories::test_totals_hold_past_the_end"): _TOTALS,
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
    ("sqlite-*", "knowledge::test_contents_sort_by_text_as_it_is"): _KNOWLEDGE_SORT,
    ("sqlite-*", "knowledge::test_an_unset_updated_at_sorts_as_created_at"): _KNOWLEDGE_SORT,
    ("sqlite-*", "knowledge::test_an_unknown_sort_column_is_ignored"): _KNOWLEDGE_SORT,
    ("sqlite-*", "knowledge::test_a_row_that_breaks_its_own_schema_is_refused_rather_than_every_listing"): (
        "SqliteDb stores such a row, and every listing that meets it raises from then on"
    ),
    # --- evals ---
    ("sqlite-*", "evals::test_a_kind_of_component_that_there_is_not_is_refused"): (
        "SqliteDb ignores a filter_type that it does not know, and answers with everything"
    ),
    ("sqlite-*", "evals::test_totals_hold_past_the_end"): _TOTALS,
    # --- traces ---
    ("sqlite-*", "traces::test_times_are_instants_whatever_their_zone"): (
        "SqliteDb compares times as they were written, so that 10:00+05:00 is later than 09:00 UTC; ours are in UTC"
    ),
    ("sqlite-*", "traces::test_a_merged_duration_is_whole_milliseconds"): (
        "SqliteDb leaves 199.99998 where Postgres, and we, have the milliseconds that the column is declared for"
    ),
    ("sqlite-*", "traces::test_a_span_is_stored_and_counted_once"): _BATCH,
    ("sqlite-*", "traces::test_a_span_that_cannot_be_stored_does_not_lose_the_others"): _BATCH,
    ("sqlite-*", "traces::test_spans_that_come_before_their_trace_count_when_it_comes"): (
        "SqliteDb drops a span whose trace is not stored yet, as exporters that run at once make them; we keep it"
    ),
    ("sqlite-*", "traces::test_get_spans_takes_a_limit"): (
        "SqliteDb has no such parameter, AsyncSqliteDb no order, so that any spans are the first"
    ),
    ("sqlite-*", "traces::test_text_is_searched_without_case_beyond_ascii"): (
        "SQLite folds ASCII letters only; Postgres, and we, all that have a case"
    ),
    ("sqlite-*", "traces::test_a_wrong_filter_is_an_error"): (
        "SqliteDb answers it as if there were no traces, where AgentOS waits for a ValueError to call it a bad request"
    ),
    ("sqlite-*", "traces::test_percentiles_are_interpolated"): "SQLite has no percentiles; we have those of Postgres",
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
        "SqliteDb stores letters beyond ASCII as six characters each, and looks for any six; we look for the letter. "
        "Asked for a hyphen alone, it finds everything"
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
    # --- schedules ---
    ("sqlite-*", "schedules::test_what_has_to_be_there_cannot_be_taken_away_and_that_is_no_duplicate"): (
        "SqliteDb raises IntegrityError for a null, as for a name that is in use, and AgentOS tells the client so (409)"
    ),
    # --- ownership ---
    ("sqlite-*", "ownership::test_a_stranger_changes_no_run_and_adds_none"): _OWNERSHIP,
    ("sqlite-*", "ownership::test_a_stranger_changes_no_memory"): _MEMORY_OWNER,
    ("sqlite-*", "ownership::test_a_stranger_changes_no_learning"): (
        "SqliteDb lets anybody replace the content of any learning by its id; it would reach the owner's next prompt"
    ),
    ("sqlite-*", "ownership::test_what_was_not_deleted_is_told_in_the_log"): (
        "SqliteDb passes over what is another's in silence, so that nobody learns of it"
    ),
    ("sqlite-*", "ownership::test_a_stranger_gets_nothing_by_what_only_these_stores_have"): _OURS,
    ("sqlite-*", "ownership::test_a_purge_of_a_stranger_takes_only_his_own"): _OURS,
    ("sqlite-*", "ownership::test_a_stranger_takes_no_tool_result_to_his_session"): _RESULT_MOVES,
    ("sqlite-*", "ownership::test_a_stranger_is_not_told_what_is_archived"): (
        "SqliteDb looks at the product before the owner, and so tells anybody that it is archived"
    ),
    ("sqlite-*", "ownership::test_a_stranger_gets_no_job"): (
        "SqliteDb has no job queue; of Agno's SQL adapters only the Postgres ones do"
    ),
    # --- compactions ---
    ("sqlite-sync", "compactions::test_the_search_takes_text_as_text"): (
        "SqliteDb takes % and _ for wildcards, and folds ASCII letters only"
    ),
    # --- tool results ---
    ("sqlite-*", "tool_results::test_a_result_stays_with_its_session"): _RESULT_MOVES,
    # --- components ---
    ("sqlite-sync", "components::test_a_graph_is_found_by_label"): (
        "SqliteDb takes a label, and answers with the current version all the same; a filter that is given is applied"
    ),
    # --- domains ---
    ("sqlite-*", "domains::test_another_users_memory_is_not_updated_by_its_id"): _MEMORY_OWNER,
}
