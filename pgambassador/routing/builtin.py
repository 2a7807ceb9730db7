"""What the functions of PostgreSQL itself do, where the catalog's word for it does not say enough.

1. A stable function of PostgreSQL's that is not listed here, of a newer version, say, needs the primary.
2. What an application that believes in one server must not see from another is not for replicas: whether it
   recovers, its address, its processes, positions, statistics, files and parameters.
"""

from __future__ import annotations

from typing import Final


def words(text: str) -> frozenset[str]:
    return frozenset(text.split())


STABLE: Final = words(
    """
    aclexplode age anytextcat array_to_json array_to_string col_description concat concat_ws convert
    convert_from convert_to current_database current_schema current_schemas current_user date date_add
    date_cmp_timestamptz date_eq_timestamptz date_ge_timestamptz date_gt_timestamptz date_le_timestamptz
    date_lt_timestamptz date_ne_timestamptz date_part date_subtract date_trunc enum_first enum_last
    enum_range extract format format_type generate_series get_current_ts_config getdatabaseencoding
    getpgusername has_any_column_privilege has_column_privilege has_database_privilege
    has_foreign_data_wrapper_privilege has_function_privilege has_language_privilege
    has_largeobject_privilege has_parameter_privilege has_schema_privilege has_sequence_privilege
    has_server_privilege has_table_privilege has_tablespace_privilege has_type_privilege in_range
    interval_pl_timestamptz json_agg json_agg_strict json_build_array json_build_object json_object_agg
    json_object_agg_strict json_object_agg_unique json_object_agg_unique_strict json_populate_record
    json_populate_recordset json_strip_nulls json_to_record json_to_recordset json_to_tsvector jsonb_agg
    jsonb_agg_strict jsonb_build_array jsonb_build_object jsonb_object_agg jsonb_object_agg_strict
    jsonb_object_agg_unique jsonb_object_agg_unique_strict jsonb_path_exists_tz jsonb_path_match_tz
    jsonb_path_query_array_tz jsonb_path_query_first_tz jsonb_path_query_tz jsonb_populate_record
    jsonb_populate_record_valid jsonb_populate_recordset jsonb_strip_nulls jsonb_to_record
    jsonb_to_recordset jsonb_to_tsvector length make_timestamptz money mxid_age now numeric
    obj_description oidvectortypes overlaps pg_basetype pg_char_to_encoding pg_client_encoding
    pg_collation_for pg_collation_is_visible pg_column_compression pg_column_is_updatable pg_column_size
    pg_conversion_is_visible pg_describe_object pg_encoding_to_char pg_function_is_visible pg_get_acl
    pg_get_constraintdef pg_get_expr pg_get_function_arg_default pg_get_function_arguments
    pg_get_function_identity_arguments pg_get_function_result pg_get_function_sqlbody pg_get_functiondef
    pg_get_indexdef pg_get_keywords pg_get_object_address pg_get_partition_constraintdef pg_get_partkeydef
    pg_get_ruledef pg_get_serial_sequence pg_get_statisticsobjdef pg_get_statisticsobjdef_columns
    pg_get_statisticsobjdef_expressions pg_get_triggerdef pg_get_userbyid pg_get_viewdef pg_has_role
    pg_identify_object pg_identify_object_as_address pg_index_column_has_property pg_index_has_property
    pg_indexam_has_property pg_input_error_info pg_input_is_valid pg_mcv_list_items pg_opclass_is_visible
    pg_operator_is_visible pg_opfamily_is_visible pg_options_to_table pg_relation_is_publishable
    pg_relation_is_updatable pg_statistics_obj_is_visible pg_table_is_visible pg_trigger_depth
    pg_ts_config_is_visible pg_ts_dict_is_visible pg_ts_parser_is_visible pg_ts_template_is_visible
    pg_type_is_visible pg_typeof phraseto_tsquery plainto_tsquery quote_literal quote_nullable regclass
    row_security_active row_to_json session_user shobj_description statement_timestamp system_user
    textanycat time timestamp timestamp_cmp_timestamptz timestamp_eq_timestamptz timestamp_ge_timestamptz
    timestamp_gt_timestamptz timestamp_le_timestamptz timestamp_lt_timestamptz timestamp_ne_timestamptz
    timestamptz timestamptz_cmp_date timestamptz_cmp_timestamp timestamptz_eq_date
    timestamptz_eq_timestamp timestamptz_ge_date timestamptz_ge_timestamp timestamptz_gt_date
    timestamptz_gt_timestamp timestamptz_le_date timestamptz_le_timestamp timestamptz_lt_date
    timestamptz_lt_timestamp timestamptz_mi_interval timestamptz_ne_date timestamptz_ne_timestamp
    timestamptz_pl_interval timetz timezone to_char to_date to_json to_jsonb to_number to_regclass
    to_regcollation to_regnamespace to_regoper to_regoperator to_regproc to_regprocedure to_regrole
    to_regtype to_regtypemod to_timestamp to_tsquery to_tsvector transaction_timestamp ts_debug
    ts_headline ts_match_tq ts_match_tt ts_parse ts_token_type websearch_to_tsquery xml xml_is_well_formed
    """
)
"""Stable, and the same on every server that has the same data."""

LOOSE: Final = words(
    """
    bernoulli clock_timestamp gen_random_uuid pg_database_size pg_indexes_size pg_partition_ancestors
    pg_partition_tree pg_relation_size pg_sleep pg_sleep_for pg_sleep_until pg_table_size
    pg_tablespace_size pg_total_relation_size system timeofday uuidv4 uuidv7
    """
)
"""Volatile, since no two calls agree, but it only reads."""

HERE: Final = words(
    """
    current_query
    pg_available_wal_summaries pg_blocking_pids pg_collation_actual_version pg_control_checkpoint
    pg_control_init pg_control_recovery pg_control_system pg_current_logfile pg_current_wal_flush_lsn
    pg_current_wal_insert_lsn pg_current_wal_lsn pg_database_collation_actual_version pg_get_aios
    pg_get_backend_memory_contexts pg_get_loaded_modules pg_get_shmem_allocations
    pg_get_shmem_allocations_numa pg_get_wait_events pg_get_wal_replay_pause_state
    pg_get_wal_resource_managers pg_get_wal_summarizer_state pg_hba_file_rules pg_ident_file_mappings
    pg_is_in_recovery pg_is_wal_replay_paused pg_jit_available pg_last_committed_xact
    pg_last_wal_receive_lsn pg_last_wal_replay_lsn pg_last_xact_replay_timestamp pg_lock_status
    pg_ls_archive_statusdir pg_ls_dir pg_ls_logdir pg_ls_logicalmapdir pg_ls_logicalsnapdir
    pg_ls_replslotdir pg_ls_summariesdir pg_ls_tmpdir pg_ls_waldir pg_notification_queue_usage
    pg_prepared_xact pg_read_binary_file pg_read_file pg_safe_snapshot_blocking_pids
    pg_show_all_file_settings pg_show_replication_origin_status pg_stat_file pg_stat_get_backend_io
    pg_stat_get_backend_wal pg_stat_get_io pg_stat_get_recovery_prefetch pg_stat_get_xact_blocks_fetched
    pg_stat_get_xact_blocks_hit pg_stat_get_xact_function_calls pg_stat_get_xact_function_self_time
    pg_stat_get_xact_function_total_time pg_stat_get_xact_numscans pg_stat_get_xact_tuples_deleted
    pg_stat_get_xact_tuples_fetched pg_stat_get_xact_tuples_hot_updated pg_stat_get_xact_tuples_inserted
    pg_stat_get_xact_tuples_newpage_updated pg_stat_get_xact_tuples_returned
    pg_stat_get_xact_tuples_updated pg_stat_have_stats pg_wal_summary_contents pg_walfile_name
    pg_walfile_name_offset pg_xact_commit_timestamp pg_xact_commit_timestamp_origin pg_xact_status
    txid_status
    """
)
"""Not stable, or believed immutable; it reads, but of the server that it runs on."""

ASSIGNS: Final = words(
    """
    pg_current_xact_id txid_current
    """
)
"""Called stable, but gives the transaction an id, which a standby cannot."""

TEXT: Final = words(
    """
    connectby crosstab crosstab2 crosstab3 crosstab4 crosstabn cursor_to_xml cursor_to_xmlschema
    database_to_xml database_to_xml_and_xmlschema database_to_xmlschema query_to_xml
    query_to_xml_and_xmlschema query_to_xmlschema schema_to_xml schema_to_xml_and_xmlschema
    schema_to_xmlschema table_to_xml table_to_xml_and_xmlschema table_to_xmlschema ts_stat xpath_table
    """
)
"""Executes a text, or reads relations that a text names; also of the modules that come with PostgreSQL."""

SEEDED: Final = words(
    """
    array_sample array_shuffle random random_normal
    """
)
"""Reads, but what it gives depends on what setseed() was told in this session."""

SESSION: Final = words(
    """
    currval lastval set_config setseed
    """
)
"""Changes its session, or depends on what it did before."""

PINNING: Final = words(
    """
    pg_advisory_lock pg_advisory_lock_shared pg_advisory_unlock pg_advisory_unlock_all
    pg_advisory_unlock_shared pg_try_advisory_lock pg_try_advisory_lock_shared
    """
)
"""Leaves something behind that lives in its session, or removes it."""

SETTINGS: Final = words(
    """
    application_name client_encoding datestyle integer_datetimes intervalstyle search_path server_encoding
    session_authorization standard_conforming_strings timezone
    """
)
"""Parameters that clients are told of or set for themselves, and that do not tell servers apart."""
