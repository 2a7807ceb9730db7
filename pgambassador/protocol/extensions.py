"""What functions in C leave behind in their session: nobody can read that, so it is known, or feared.

1. An extension that is not named here may do anything; so may a function in C that belongs to none.
2. Named as harmless are those whose functions leave nothing in a session that shows in an answer.
3. Others are named with those of their functions that do leave something, as a body in SQL that says what.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final, NamedTuple

from pgambassador.protocol.settings import literal

ANYTHING: Final = "EXECUTE"
"""The body of a function that executes what it is given, or of which nothing is known."""
LASTS: Final = "-- lasts"
"""That of one which keeps something that nobody can ask for, not even DISCARD ALL takes away."""

# PostgreSQL's own (manual: "Additional Supplied Modules and Extensions").
_SUPPLIED: Final = """
    adminpack amcheck autoinc bloom bool_plperl bool_plperlu btree_gin btree_gist citext cube dict_int
    dict_xsyn earthdistance file_fdw fuzzystrmatch hstore hstore_plperl hstore_plperlu hstore_plpython3u
    insert_username intagg intarray jsonb_plperl jsonb_plperlu jsonb_plpython3u lo ltree
    ltree_plpython3u moddatetime old_snapshot pageinspect pg_buffercache pg_freespacemap
    pg_logicalinspect pg_prewarm pg_stat_statements pg_surgery pg_visibility pg_walinspect pgcrypto
    pgrowlocks pgstattuple plpgsql postgres_fdw seg sslinfo tcn tsm_system_rows tsm_system_time unaccent
    uuid-ossp
"""
# Their handlers alone are in C: bodies in these languages are read.
_LANGUAGES: Final = """
    plcoffee pljava plls pllua plluau plperl plperlu plproxy plpython3u plr plrust plsh pltcl pltclu
    plv8
"""
_OTHERS: Final = """
    address_standardizer age asn1oid citus_columnar count_distinct datasketches debversion
    first_last_agg h3 h3_postgis ip4r jsquery mysql_fdw numeral ogr_fdw oracle_fdw pg_bigm pg_cron
    pg_hashids pg_hint_plan pg_jsonschema pg_net pg_partman pg_permissions pg_qualstats pg_rational
    pg_similarity pg_squeeze pg_stat_kcache pg_stat_monitor pg_store_plans pg_ulid pg_uuidv7
    pg_wait_sampling pgaudit pgfincore pgjwt pgmp pgmq pgq pgsodium pointcloud pointcloud_postgis
    postgis postgis_sfcgal postgis_tiger_geocoder postgis_topology prefix q3c quantile rdkit
    roaringbitmap rum semver supabase_vault tdigest tds_fdw timescaledb_toolkit topn ulid unit vchord
    vector vectorscale wrappers zhparser
"""
HARMLESS: Final = frozenset(f"{_SUPPLIED} {_LANGUAGES} {_OTHERS}".split())


class Leaves(NamedTuple):
    """Functions of an extension, by a regular expression for the whole name, and what they do.

    With a `schema` they are those in it, and their statements are known by its name.
    """

    extension: str
    functions: str
    body: str
    schema: str = ""


STATEFUL: Final = (
    Leaves("dblink", "dblink_connect(_u)?", LASTS),
    Leaves("isn", "isn_weak", LASTS),  # since PostgreSQL 18 it sets isn.weak
    Leaves("pg_trgm", "set_limit", "SET pg_trgm.similarity_threshold = 0"),
    Leaves("refint", "check_foreign_key", ANYTHING),
    Leaves("tablefunc", "crosstab.*|connectby", ANYTHING),
    Leaves("xml2", "xpath_table", ANYTHING),
    Leaves("citus", "worker_.*|run_command_.*|citus_internal.*", ANYTHING),
    Leaves("hll", "hll_set_.*", LASTS),
    Leaves("http", "http_(re)?set_curlopt", LASTS),
    Leaves("hypopg", "hypopg_(create_index|drop_index|reset|(un)?hide_.*)", LASTS),
    Leaves("icu_ext", "icu_set_default_locale", LASTS),
    Leaves("orafce", "set_nls_sort", LASTS),
    *(
        Leaves("orafce", ".*", LASTS, schema)
        for schema in (
            "dbms_alert",
            "dbms_output",
            "dbms_pipe",
            "dbms_random",
            "dbms_sql",
            "plvdate",
            "utl_file",
        )
    ),
    Leaves("pg_background", "pg_background_.*", LASTS),
    Leaves("pg_graphql", ".*resolve.*", ANYTHING),
    Leaves("pg_ivm", "(create|refresh)_immv", ANYTHING),
    Leaves("pg_repack", "repack_(apply|swap|drop|index_swap|disable_autovacuum)", ANYTHING),
    Leaves("pg_variables", "pgv_.*", LASTS),
    *(Leaves(name, "set_sphere_output.*", LASTS) for name in ("pg_sphere", "pgsphere")),
    Leaves("pglogical", "replicate_ddl_command", ANYTHING),
    Leaves("pldbgapi", "pldbg_.*", LASTS),
    Leaves("plpgsql_check", "plpgsql_check_(profiler|tracer|pragma)", ANYTHING),
    Leaves("postgis_raster", "_?st_mapalgebra.*", ANYTHING),
    Leaves("session_variable", ".*", LASTS, "session_variable"),
    Leaves("set_user", "set_user.*|reset_user|set_session_auth", LASTS),
    Leaves("smlar", "set_smlar_limit", "SET smlar.threshold = 0"),
    Leaves("temporal_tables", "set_system_time", LASTS),
    Leaves("timescaledb", "run_job|job_execute", ANYTHING),
)
KNOWN: Final = HARMLESS | {each.extension for each in STATEFUL}


def known(harmless: Iterable[str]) -> str:
    """The names of all that are known and of those that are believed to be `harmless`, as a list in SQL."""
    return ", ".join(literal(name) for name in sorted(KNOWN.union(harmless)))


def leaves(harmless: Iterable[str]) -> str:
    """Rows (extension, functions, body, schema) in SQL; what is said to be `harmless` is."""
    believed = frozenset(harmless)
    rows = (each for each in STATEFUL if each.extension not in believed)
    values = (f"('{row[0]}', '^({row[1]})$', '{row[2]}', '{row[3]}')" for row in rows)
    return ", ".join(("VALUES ('', '', '', '')", *values))
