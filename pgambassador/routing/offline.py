"""A catalog for when no server can be asked: PostgreSQL's own functions, and relations as most of them are.

1. Functions of PostgreSQL 18 that people call are known; any other name may be anything, as always.
2. Any relation is taken for an ordinary table, but those that begin with pg_. Who decides by this says so.
"""

from __future__ import annotations

from typing import Final

from pgambassador.routing import builtin
from pgambassador.routing.builtin import words
from pgambassador.routing.catalog import Catalog, Effect

FIXED: Final = words(
    """
    abbrev abs aclcontains acldefault aclinsert aclremove acos acosd acosh any_value area array_agg
    array_append array_cat array_dims array_fill array_length array_lower array_ndims array_position
    array_positions array_prepend array_remove array_replace array_reverse array_sort array_to_tsvector
    array_upper ascii asin asind asinh atan atan2 atan2d atand atanh avg bit bit_and bit_count
    bit_length bit_or bit_xor bool_and bool_or bound_box bpchar broadcast btrim cardinality casefold
    cash_words cbrt ceil ceiling center char_length character_length chr corr cos cosd cosh cot cotd
    count covar_pop covar_samp crc32 crc32c cume_dist date_bin datemultirange daterange decode degrees
    dense_rank dexp diagonal diameter div dlog1 dlog10 dround dtrunc encode erf erfc every exp factorial
    family first_value float4 float8 floor gamma gcd generate_subscripts get_bit get_byte hashtext
    height host hostmask icu_unicode_version inet_merge inet_same_family initcap int2 int4
    int4multirange int4range int8 int8multirange int8range interval is_normalized isclosed isempty
    isfinite ishorizontal isopen isparallel isperp isvertical json_array_elements
    json_array_elements_text json_array_length json_each json_each_text json_extract_path
    json_extract_path_text json_object json_object_keys json_typeof jsonb_array_elements
    jsonb_array_elements_text jsonb_array_length jsonb_each jsonb_each_text jsonb_extract_path
    jsonb_extract_path_text jsonb_insert jsonb_object jsonb_object_keys jsonb_path_exists
    jsonb_path_match jsonb_path_query jsonb_path_query_array jsonb_path_query_first jsonb_pretty
    jsonb_set jsonb_set_lax jsonb_typeof justify_days justify_hours justify_interval lag last_value lcm
    lead left lgamma like like_escape line ln log log10 lower lower_inc lower_inf lpad lseg ltrim
    macaddr8_set7bit make_date make_interval make_time make_timestamp makeaclitem masklen max md5 min
    min_scale mod mode multirange nameconcatoid netmask network normalize notlike npoints nth_value
    ntile num_nonnulls num_nulls numeric_div_trunc numeric_exp numeric_inc numeric_ln numeric_log
    numeric_sqrt nummultirange numnode numrange octet_length overlay parse_ident pclose percent_rank
    percentile_cont percentile_disc pg_encoding_max_length pg_indexam_progress_phasename
    pg_partition_root pg_size_bytes pg_size_pretty pg_snapshot_xip pg_snapshot_xmax pg_snapshot_xmin
    pg_visible_in_snapshot pg_wal_lsn_diff pi point popen position pow power querytree quote_ident
    radians radius range_agg range_intersect_agg range_merge rank regclasssend regexp_count regexp_instr
    regexp_like regexp_match regexp_matches regexp_replace regexp_split_to_array regexp_split_to_table
    regexp_substr regr_avgx regr_avgy regr_count regr_intercept regr_r2 regr_slope regr_sxx regr_sxy
    regr_syy repeat replace reverse right round row_number rpad rtrim scale set_bit set_byte set_masklen
    setweight sha224 sha256 sha384 sha512 sign similar_to_escape sin sind sinh slope split_part sqrt
    starts_with stddev stddev_pop stddev_samp string_agg string_to_array string_to_table strip strpos
    substr substring sum tan tand tanh text textlen to_ascii to_bin to_hex to_oct translate trim_array
    trim_scale trunc ts_delete ts_filter ts_lexize ts_rank ts_rank_cd tsmultirange tsquery_phrase
    tsrange tstzmultirange tstzrange tsvector_to_array txid_snapshot_xip txid_snapshot_xmax
    txid_snapshot_xmin txid_visible_in_snapshot unicode_assigned unicode_version unistr unnest upper
    upper_inc upper_inf uuid_extract_timestamp uuid_extract_version var_pop var_samp varbit varchar
    variance width width_bucket xml_is_well_formed_content xml_is_well_formed_document xmlagg xmlcomment
    xmlexists xmltext xmlvalidate xpath xpath_exists
    """
)
"""Immutable."""

VOLATILE: Final = words(
    """
    amvalidate brin_desummarize_range brin_summarize_new_values brin_summarize_range currtid2
    gin_clean_pending_list lo_close lo_creat lo_create lo_export lo_from_bytea lo_get lo_import lo_lseek
    lo_open lo_put lo_tell lo_truncate lo_unlink loread lowrite nextval pg_advisory_xact_lock
    pg_advisory_xact_lock_shared pg_backup_start pg_backup_stop pg_cancel_backend
    pg_clear_attribute_stats pg_clear_relation_stats pg_copy_logical_replication_slot
    pg_copy_physical_replication_slot pg_create_logical_replication_slot
    pg_create_physical_replication_slot pg_create_restore_point pg_drop_replication_slot
    pg_export_snapshot pg_extension_config_dump pg_get_multixact_members pg_get_sequence_data
    pg_import_system_collations pg_log_backend_memory_contexts pg_log_standby_snapshot
    pg_logical_emit_message pg_logical_slot_get_binary_changes pg_logical_slot_get_changes
    pg_logical_slot_peek_binary_changes pg_logical_slot_peek_changes pg_nextoid pg_notify pg_promote
    pg_reload_conf pg_replication_origin_advance pg_replication_origin_create pg_replication_origin_drop
    pg_replication_origin_progress pg_replication_origin_session_is_setup
    pg_replication_origin_session_progress pg_replication_origin_session_reset
    pg_replication_origin_session_setup pg_replication_origin_xact_reset
    pg_replication_origin_xact_setup pg_replication_slot_advance pg_restore_attribute_stats
    pg_restore_relation_stats pg_rotate_logfile pg_sequence_last_value pg_stat_clear_snapshot
    pg_stat_force_next_flush pg_stat_reset pg_stat_reset_backend_stats pg_stat_reset_replication_slot
    pg_stat_reset_shared pg_stat_reset_single_function_counters pg_stat_reset_single_table_counters
    pg_stat_reset_slru pg_stat_reset_subscription_stats pg_stop_making_pinned_objects pg_switch_wal
    pg_sync_replication_slots pg_terminate_backend pg_try_advisory_xact_lock
    pg_try_advisory_xact_lock_shared pg_wal_replay_pause pg_wal_replay_resume setval ts_rewrite
    """
)


class _AnyName(frozenset[str]):
    """Of tables; there is no end of them."""

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and not name.startswith("pg_")


OFFLINE: Final = Catalog(
    {
        **dict.fromkeys((*FIXED, *builtin.STABLE), Effect.READ),
        **dict.fromkeys(VOLATILE, Effect.VOLATILE),
        **dict.fromkeys(builtin.LOOSE, Effect.LOOSE),
        **dict.fromkeys(builtin.HERE, Effect.HERE),
        **dict.fromkeys(builtin.ASSIGNS, Effect.ASSIGNS),
        **dict.fromkeys(builtin.SEEDED, Effect.SEEDED),
        **dict.fromkeys(builtin.SESSION, Effect.SESSION),
        **dict.fromkeys(builtin.PINNING, Effect.PINNING),
        **dict.fromkeys(builtin.TEXT, Effect.TEXT),
    },
    _AnyName(),
)
