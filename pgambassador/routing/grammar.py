"""PostgreSQL's grammar as far as it is relied on: what each statement is, and what may stand in a read.

1. Whatever is not listed here, of a newer version, say, is not known, and no read contains it.
"""

from __future__ import annotations

from typing import Final, Literal

from pgambassador.routing.builtin import words

Kind = Literal["read", "write", "ddl", "transaction", "session", "pinning", "unknown"]

_STATEMENTS: Final[dict[Kind, frozenset[str]]] = {
    "write": words(
        """
        Call CheckPoint Cluster Copy Delete Do Insert Lock Merge Notify Reindex Truncate Update Vacuum
        """
    ),
    "session": words(
        """
        ClosePortal Discard VariableSet
        """
    ),
    "pinning": words(
        """
        Deallocate DeclareCursor Listen Load Prepare Unlisten
        """
    ),
    "transaction": words(
        """
        ConstraintsSet Transaction
        """
    ),
    "unknown": words(
        """
        Execute Fetch
        """
    ),
    "ddl": words(
        """
        AlterCollation AlterDatabase AlterDatabaseRefreshColl AlterDatabaseSet AlterDefaultPrivileges
        AlterDomain AlterEnum AlterEventTrig AlterExtension AlterExtensionContents AlterFdw
        AlterForeignServer AlterFunction AlterObjectDepends AlterObjectSchema AlterOpFamily AlterOperator
        AlterOwner AlterPolicy AlterPublication AlterRole AlterRoleSet AlterSeq AlterStats
        AlterSubscription AlterSystem AlterTSConfiguration AlterTSDictionary AlterTable AlterTableMoveAll
        AlterTableSpaceOptions AlterType AlterUserMapping Comment CompositeType Create CreateAm CreateCast
        CreateConversion CreateDomain CreateEnum CreateEventTrig CreateExtension CreateFdw
        CreateForeignServer CreateForeignTable CreateFunction CreateOpClass CreateOpFamily CreatePLang
        CreatePolicy CreatePublication CreateRange CreateRole CreateSchema CreateSeq CreateStats
        CreateSubscription CreateTableAs CreateTableSpace CreateTransform CreateTrig CreateUserMapping
        Createdb Define Drop DropOwned DropRole DropSubscription DropTableSpace DropUserMapping Dropdb
        Grant GrantRole ImportForeignSchema Index ReassignOwned RefreshMatView Rename ReplicaIdentity Rule
        SecLabel View
        """
    ),
}
KINDS: Final = {f"{name}Stmt": kind for kind, names in _STATEMENTS.items() for name in names}
"""What a statement is that is certainly no read, by its node in the tree."""

READS: Final = frozenset({"SelectStmt", "CopyStmt", "ExplainStmt", "VariableShowStmt"})
"""What may be a read."""

KNOWN: Final = READS | words(
    """
    A_ArrayExpr A_Const A_Expr A_Indices A_Indirection A_Star Alias BitString BoolExpr Boolean BooleanTest
    CTECycleClause CTESearchClause CaseExpr CaseWhen CoalesceExpr CollateClause ColumnDef ColumnRef
    CommonTableExpr DefElem Float FuncCall GroupingFunc GroupingSet Integer IntoClause JoinExpr
    JsonAggConstructor JsonArgument JsonArrayAgg JsonArrayConstructor JsonArrayQueryConstructor
    JsonBehavior JsonFormat JsonFuncExpr JsonIsPredicate JsonKeyValue JsonObjectAgg JsonObjectConstructor
    JsonOutput JsonParseExpr JsonReturning JsonScalarExpr JsonSerializeExpr JsonTable JsonTableColumn
    JsonTablePathSpec JsonValueExpr List LockingClause MinMaxExpr NamedArgExpr NullTest ParamRef
    RangeFunction RangeSubselect RangeTableFunc RangeTableFuncCol RangeTableSample RangeVar ResTarget
    RowExpr SQLValueFunction SetToDefault SortBy String SubLink TypeCast TypeName WindowDef WithClause
    XmlExpr XmlSerialize

    absent_on_null agg_distinct agg_filter agg_order agg_star agg_within_group agglevelsup alias
    aliascolnames aliasname all arg arg_location arg_names argisrow argnumber args arrayBounds attlist
    behavior boolop booltesttype boolval bsval btype catalogname coerce colNames coldefexpr coldeflist
    colexpr collClause collname colname colnames coltype column_name columns constructor content
    context_item ctematerialized ctename ctequery cterecursive cterefcount ctes cycle_clause
    cycle_col_list cycle_mark_column cycle_mark_default cycle_mark_typmod cycle_mark_value
    cycle_path_column defaction default_expr defname defnamespace defresult distinctClause docexpr
    elements encoding endOffset expr exprs fields filename for_ordinality format format_type
    formatted_expr frameOptions fromClause func func_variadic funcformat funcname functions fval
    groupClause groupDistinct havingClause indent indirection inh intoClause isNatural is_from is_local
    is_not_null is_program is_rowsfrom is_slice isnull item_type items ival join_using_alias jointype
    jsontype key kind larg lateral lexpr lidx limitCount limitOffset limitOption list_end list_start
    location lockedRels lockingClause method name name_location named_args names namespaces node
    nulltesttype number on_empty on_error op operName options orderClause ordinality output over
    partitionClause passing pathspec pct_type portalname quals query quotes rarg raw_expr recursive
    refname refs rel relation relname relpersistence repeatable result returning rexpr rexpr_list_end
    rexpr_list_start row_format rowexpr schemaname search_breadth_first search_clause search_col_list
    search_seq_column setof sortClause sortby_dir sortby_nulls startOffset strength string subLinkType
    subquery subselect sval targetList testexpr typeMod typeName typemod typmod typmods uidx unique
    unique_keys useOp usingClause val value valuesLists waitPolicy whereClause windowClause withClause
    with_unique_keys wrapper xmloption
    """
)
"""Keys of the trees of reads: nodes, and their fields."""
