"""The question that a database's catalog is asked: which functions and relations are harmless, by name.

1. It is cheap on a catalog of thousands: what is asked of every function or relation is asked of columns;
   expressions are read only of views, policies, domains and defaults, and only if they are short.
2. The answer is bounded, and what is cut off makes less known, never more.
3. PostgreSQL does not record what of its own functions an expression uses, so that is read from the
   expression's tree: `:funcid 480`. Functions and relations of the database itself are in pg_depend.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from pgambassador.routing import builtin
from pgambassador.wire import build

BETWEEN: Final = "\n"
"""Between the names of one row. Names that contain it are left out."""
MOST: Final = 5000
"""Rows that say which function comes with what; if there are more, nothing is known."""
_CHUNK: Final = 1000
_CHUNKS: Final = 200
_TREE_MOST: Final = 100_000  # bytes, as they are stored
_TREES_MOST: Final = 5000


def _list(names: Iterable[str]) -> str:
    return "'{" + ",".join(sorted(names)) + "}'::name[]"


# Where the trees of expressions have functions and relations.
_CALLS: Final = "('funcid', 'opfuncid', 'aggfnoid', 'winfnoid', 'hashfuncid', 'negfuncid')"
# current_setting() of a parameter with a dot in its name, which is an application's: 46 in the constant.
_OWN_SETTING: Final = (
    r":funcid (2077|3294) [^{}()]*:args \(\{CONST [^{}]*:constvalue \d+ \[[- 0-9]* 46 [- 0-9]*\]"
)

# The same in the text of a function's body, where quotes may be doubled.
_OWN_SETTING_IN_TEXT: Final = r"current_setting\s*\(\s*''+[^'']*\."
# How the names begin of what such a text should not call.
_MAY_CALL: Final = (
    r"\m(pg_|txid_|inet_|lo_|loread|lowrite|(curr|last|next|set)val|set_config|setseed|random|version|ts_"
    r"|current_(setting|query)|(database|query|schema|table|cursor)_to_|array_s)"
)

QUERY: Final = build.query(
    rf"""
    WITH RECURSIVE proc AS (
        SELECT oid, proname AS name, oid >= 16384 AS own, provolatile AS label, prokind
        FROM pg_catalog.pg_proc
    ), bad AS MATERIALIZED (
        SELECT oid, name, label FROM proc WHERE NOT own AND prokind <> 'p'
            AND (label = 'v' AND name <> ALL ({_list(builtin.LOOSE)})
            OR label = 's' AND name <> ALL ({_list(builtin.STABLE)}) OR name = ANY ({_list(builtin.HERE)}))
    ), tree AS MATERIALIZED (
        SELECT * FROM (
            SELECT 'pg_class'::regclass::oid AS class, ev_class AS id, ev_action::text AS text,
                pg_column_size(ev_action) AS size
            FROM pg_catalog.pg_rewrite JOIN pg_catalog.pg_class AS c ON c.oid = ev_class
            WHERE ev_type = '1' AND ev_class >= 16384 AND relkind = 'v'
            UNION ALL
            SELECT 'pg_class'::regclass::oid, polrelid, polqual::text, pg_column_size(polqual)
            FROM pg_catalog.pg_policy WHERE polcmd IN ('r', '*') AND polqual IS NOT NULL
            UNION ALL
            SELECT 'pg_constraint'::regclass::oid, oid, conbin::text, pg_column_size(conbin)
            FROM pg_catalog.pg_constraint WHERE contypid >= 16384
            UNION ALL
            SELECT 'pg_proc'::regclass::oid, oid, proargdefaults::text, pg_column_size(proargdefaults)
            FROM pg_catalog.pg_proc WHERE oid >= 16384 AND proargdefaults IS NOT NULL
            UNION ALL
            SELECT 'pg_proc'::regclass::oid, oid, to_jsonb(p) ->> 'prosqlbody', pg_column_size(p)
            FROM pg_catalog.pg_proc AS p WHERE oid >= 16384 AND prosrc = '' AND prokind <> 'a'
        ) AS tree OFFSET 0
    ), plain AS MATERIALIZED (
        SELECT class, id, CASE WHEN text ~ ':funcid (2077|3294) '
            THEN regexp_replace(text, '{_OWN_SETTING}', '', 'g') ELSE text END AS text
        FROM (SELECT * FROM tree WHERE size <= {_TREE_MOST} ORDER BY id LIMIT {_TREES_MOST}) AS short
    ), body AS MATERIALIZED (
        SELECT oid, regexp_replace(prosrc, '{_OWN_SETTING_IN_TEXT}', '', 'gi') AS text
        FROM pg_catalog.pg_proc WHERE oid >= 16384 AND provolatile <> 'v' AND prosrc <> '' AND prolang NOT IN
            (SELECT oid FROM pg_catalog.pg_language WHERE lanname IN ('c', 'internal'))
            AND length(prosrc) <= {_TREE_MOST} AND prosrc ~* '{_MAY_CALL}'
    ), part AS MATERIALIZED (
        SELECT class, id, key, split_part(part, ' ', 2) AS value
        FROM plain, unnest(string_to_array(text, ' :')) AS part, split_part(part, ' ', 1) AS key
        WHERE key IN ('relid', 'rowMarks', 'hasForUpdate') OR key IN {_CALLS}
    ), edge AS MATERIALIZED (
        SELECT d.refclassid, d.refobjid, coalesce(owner.class, d.classid) AS class,
            coalesce(owner.id, d.objid) AS id
        FROM pg_catalog.pg_depend AS d LEFT JOIN (
            SELECT 'pg_rewrite'::regclass::oid, r.oid, 'pg_class'::regclass::oid, ev_class
            FROM pg_catalog.pg_rewrite AS r JOIN pg_catalog.pg_class AS c ON c.oid = ev_class
            WHERE ev_type = '1' AND relkind = 'v'
            UNION ALL
            SELECT 'pg_policy'::regclass::oid, oid, 'pg_class'::regclass::oid, polrelid
            FROM pg_catalog.pg_policy WHERE polcmd IN ('r', '*')
        ) AS owner (part, part_id, class, id) ON d.classid = owner.part AND d.objid = owner.part_id
        WHERE d.refclassid IN ('pg_proc'::regclass, 'pg_operator'::regclass, 'pg_class'::regclass,
                'pg_type'::regclass, 'pg_cast'::regclass, 'pg_opclass'::regclass)
            AND (owner.class IS NOT NULL OR d.refclassid IN ('pg_proc'::regclass, 'pg_operator'::regclass)
                AND d.classid IN ('pg_proc'::regclass, 'pg_operator'::regclass, 'pg_cast'::regclass,
                    'pg_type'::regclass, 'pg_constraint'::regclass, 'pg_amproc'::regclass,
                    'pg_amop'::regclass, 'pg_opclass'::regclass))
            AND (coalesce(owner.class, d.classid), coalesce(owner.id, d.objid))
                IS DISTINCT FROM (d.refclassid, d.refobjid)
        UNION ALL
        SELECT 'pg_class'::regclass::oid, inhrelid, 'pg_class'::regclass::oid, inhparent
        FROM pg_catalog.pg_inherits
    ), found AS MATERIALIZED (
        SELECT class, id, 'f' AS sort, name::text AS what
        FROM part JOIN bad ON value = oid::text WHERE key IN {_CALLS}
        UNION
        SELECT 'pg_proc'::regclass::oid, oid, 'f', '' FROM pg_catalog.pg_proc
        WHERE oid >= 16384 AND length(prosrc) > {_TREE_MOST}
        UNION
        SELECT 'pg_proc'::regclass::oid, body.oid, 'f', bad.name
        FROM body, regexp_matches(text, '([a-z_][a-z_0-9]*)"?\s*\(', 'gi') AS called
            JOIN bad ON bad.name = lower(called[1])
        UNION
        SELECT class, id, 'f', bad.name FROM (
            SELECT 'pg_operator'::regclass::oid, oid, ARRAY[oprcode::oid] FROM pg_catalog.pg_operator
            UNION ALL
            SELECT 'pg_cast'::regclass::oid, oid, ARRAY[castfunc::oid] FROM pg_catalog.pg_cast
            UNION ALL
            SELECT 'pg_amproc'::regclass::oid, oid, ARRAY[amproc::oid] FROM pg_catalog.pg_amproc
            UNION ALL
            SELECT 'pg_type'::regclass::oid, oid, ARRAY[typinput, typoutput, typreceive, typsend]::oid[]
            FROM pg_catalog.pg_type
            UNION ALL
            SELECT 'pg_proc'::regclass::oid, aggfnoid, ARRAY[aggtransfn, aggfinalfn, aggcombinefn,
                aggserialfn, aggdeserialfn, aggmtransfn, aggminvtransfn, aggmfinalfn]::oid[]
            FROM pg_catalog.pg_aggregate
        ) AS user_of (class, id, functions) JOIN bad ON bad.oid = ANY (functions)
        WHERE id >= 16384 AND bad.label <> 's'
        UNION
        SELECT class, id, 'r', 'locks rows' FROM part
        WHERE key = 'rowMarks' AND value LIKE '(%' OR key = 'hasForUpdate' AND value LIKE 'true%'
        UNION
        SELECT class, id, 'r', 'uses a system catalog' FROM part
        WHERE key = 'relid' AND value <> '0' AND (length(value) < 5 OR length(value) = 5 AND value < '16384')
        UNION
        SELECT class, id, 'r', 'is too large to be looked at' FROM tree
        WHERE size > {_TREE_MOST} OR NOT EXISTS (SELECT FROM plain WHERE (class, id) = (tree.class, tree.id))
        UNION
        SELECT 'pg_proc'::regclass::oid, oid, 'f', name FROM proc
        WHERE own AND oid IN (SELECT refobjid FROM edge WHERE refclassid = 'pg_proc'::regclass)
        UNION
        SELECT 'pg_class'::regclass::oid, oid, 'r', CASE WHEN relpersistence = 'u' THEN 'is unlogged'
            WHEN relkind = 'f' THEN 'is a foreign table' ELSE 'is a sequence' END
        FROM pg_catalog.pg_class
        WHERE oid >= 16384 AND (relpersistence = 'u' AND relkind IN ('r', 'p') OR relkind IN ('f', 'S'))
    ), reached (sort, what, class, id) AS (
        SELECT sort, what, class, id FROM found
        UNION
        SELECT sort, what, edge.class, edge.id FROM reached
        JOIN edge ON edge.refclassid = reached.class AND edge.refobjid = reached.id
    ), comes AS (
        SELECT r.class, CASE WHEN p.oid IS NOT NULL THEN 'calls' WHEN c.oid IS NOT NULL THEN 'uses'
                WHEN o.oid IS NOT NULL THEN 'operator' ELSE 'hidden' END AS kind,
            CASE WHEN sort = 'f' THEN what ELSE '' END AS what,
            coalesce(p.proname, c.relname, o.oprname, '') AS name
        FROM reached AS r
        LEFT JOIN pg_catalog.pg_proc AS p ON r.class = 'pg_proc'::regclass AND p.oid = r.id
        LEFT JOIN pg_catalog.pg_class AS c ON r.class = 'pg_class'::regclass AND c.oid = r.id
        LEFT JOIN pg_catalog.pg_operator AS o ON r.class = 'pg_operator'::regclass AND o.oid = r.id
        WHERE sort = 'f' AND (r.class <> 'pg_proc'::regclass OR p.proname <> what)
            OR sort = 'r' AND r.class <> 'pg_class'::regclass
    ), barred AS MATERIALIZED (
        SELECT id, min(what) AS why FROM reached WHERE sort = 'r' AND class = 'pg_class'::regclass GROUP BY id
    ), computed AS MATERIALIZED (
        SELECT owner.id FROM (
            SELECT 'pg_attrdef'::regclass, oid, adrelid FROM pg_catalog.pg_attrdef
            UNION ALL
            SELECT 'pg_constraint'::regclass, oid, conrelid FROM pg_catalog.pg_constraint WHERE conrelid <> 0
        ) AS owner (part, part_id, id)
        JOIN pg_catalog.pg_depend AS d ON d.classid = owner.part AND d.objid = owner.part_id
        JOIN pg_catalog.pg_proc AS p ON d.refclassid = 'pg_proc'::regclass AND d.refobjid = p.oid
        WHERE prolang NOT IN (SELECT oid FROM pg_catalog.pg_language WHERE lanname IN ('c', 'internal'))
    ), relation AS (
        SELECT relname AS name, max(CASE WHEN n.nspname = 'pg_catalog' THEN 'is a system catalog'
                WHEN relpersistence = 't' THEN 'is temporary' ELSE why END) AS why,
            bool_and(readable) AS readable, bool_and(writable) AS writable
        FROM (
            SELECT relname, relnamespace, relpersistence, why,
                relkind IN ('r', 'm') AND NOT relhassubclass AND NOT relrowsecurity AS readable,
                relkind = 'r' AND NOT relhassubclass AND NOT relhasrules AND NOT relrowsecurity
                AND c.oid NOT IN (SELECT id FROM computed)
                AND (NOT relhastriggers OR NOT EXISTS (SELECT FROM pg_catalog.pg_trigger
                    WHERE tgrelid = c.oid AND NOT tgisinternal) AND NOT EXISTS (
                    SELECT FROM pg_catalog.pg_constraint WHERE confrelid = c.oid AND contype = 'f'
                    AND (confupdtype IN ('c', 'n', 'd') OR confdeltype IN ('c', 'n', 'd')))) AS writable
            FROM pg_catalog.pg_class AS c
            LEFT JOIN barred ON barred.id = c.oid
            WHERE relkind IN ('r', 'p', 'v', 'm', 'f', 'S')
        ) AS c JOIN pg_catalog.pg_namespace AS n ON n.oid = relnamespace
        WHERE n.nspname NOT IN ('information_schema', 'pg_toast') AND position('{BETWEEN}' IN relname) = 0
        GROUP BY relname
    ), function AS (
        SELECT name, CASE WHEN bool_or(own AND label = 'v') THEN 'own'
            WHEN bool_or(label = 'v') THEN 'volatile'
            WHEN bool_or(NOT own AND label = 's') THEN 'stable' ELSE 'fixed' END AS kind,
            CASE WHEN bool_or(own AND label <> 'i') THEN 'own' ELSE '' END AS detail
        FROM proc WHERE prokind <> 'p' AND position('{BETWEEN}' IN name) = 0 GROUP BY name
    ), field AS (
        SELECT DISTINCT proname AS name FROM pg_catalog.pg_proc AS p
        JOIN pg_catalog.pg_type AS t ON t.oid = proargtypes[0]
        WHERE p.oid >= 16384 AND pronargs - pronargdefaults <= 1 AND typtype IN ('c', 'p', 'd')
    ), answer AS (
        SELECT kind, name::text, detail FROM function
        UNION ALL
        SELECT CASE WHEN why IS NULL THEN 'relation' ELSE 'barred' END, name::text,
            CASE WHEN why IS NULL THEN CASE WHEN readable THEN 'r' ELSE '' END || CASE WHEN writable
                THEN 'w' ELSE '' END ELSE why END
        FROM relation
        UNION ALL
        SELECT 'field', name::text, '' FROM field
        UNION ALL
        SELECT 'isolation', reset_val, '' FROM pg_catalog.pg_settings
        WHERE name = 'default_transaction_isolation'
    )
    SELECT kind, string_agg(name, '{BETWEEN}'), detail FROM (
        SELECT *, row_number() OVER (PARTITION BY kind, detail) / {_CHUNK} AS chunk FROM answer
    ) AS answer WHERE chunk < {_CHUNKS} OR kind = 'field' GROUP BY kind, detail, chunk
    UNION ALL
    (SELECT kind, name::text, string_agg(DISTINCT replace(what, '{BETWEEN}', '?'), '{BETWEEN}') FROM comes
        GROUP BY kind, name LIMIT {MOST + 1})
    """
)
