// What the program for ODBC stands on: steps with a line each, and short ways to say what ODBC says at length.

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include <sql.h>
#include <sqlext.h>

#define CHECK(condition)                                                            \
    do {                                                                            \
        if (!(condition)) {                                                         \
            snprintf(why, sizeof why, "line %d: %s %s", __LINE__, #condition, said); \
            return 0;                                                               \
        }                                                                           \
    } while (0)

static char why[4096], said[1024], state[6];
static SQLHENV environment;
static SQLHDBC client, other;
static int failed;

static void step(const char *name, int (*work)(void)) {
    *why = *said = 0;
    if (work()) {
        printf("ok %s\n", name);
        return;
    }
    failed = 1;
    for (char *at = why; *at; at++) *at = *at == '\n' ? ' ' : *at;
    printf("FAILED %s: %s\n", name, why);
}

// Whether it worked; if not, `state` and `said` are what the driver says.
static int good(SQLRETURN code, SQLSMALLINT type, SQLHANDLE handle) {
    SQLINTEGER native;
    SQLSMALLINT length;
    strcpy(state, "00000");
    if (SQL_SUCCEEDED(code) || code == SQL_NO_DATA) return 1;
    SQLGetDiagRec(type, handle, 1, (SQLCHAR *)state, &native, (SQLCHAR *)said, sizeof said, &length);
    return 0;
}

static int reach_as(SQLHDBC *handle, const char *password, const char *database, const char *more) {
    char text[1024];
    snprintf(text, sizeof text,
             "Driver={PostgreSQL Unicode};Servername=%s;Port=%s;Username=%s;Password=%s;Database=%s;%s",
             getenv("PGHOST"), getenv("PGPORT"), getenv("PGUSER"), password, database, more);
    SQLAllocHandle(SQL_HANDLE_DBC, environment, handle);
    return good(SQLDriverConnect(*handle, NULL, (SQLCHAR *)text, SQL_NTS, NULL, 0, NULL, SQL_DRIVER_NOPROMPT),
                SQL_HANDLE_DBC, *handle);
}

static int reach(SQLHDBC *handle, const char *more) {
    return reach_as(handle, getenv("PGPASSWORD"), getenv("PGDATABASE"), more);
}

static SQLHSTMT statement(SQLHDBC handle) {
    SQLHSTMT made;
    SQLAllocHandle(SQL_HANDLE_STMT, handle, &made);
    return made;
}

static int drop(SQLHSTMT made) {
    SQLFreeHandle(SQL_HANDLE_STMT, made);
    return 1;
}

static int prepare(SQLHSTMT made, const char *sql) {
    return good(SQLPrepare(made, (SQLCHAR *)sql, SQL_NTS), SQL_HANDLE_STMT, made);
}

static int execute(SQLHSTMT made) {
    return good(SQLExecute(made), SQL_HANDLE_STMT, made);
}

static void bind_number(SQLHSTMT made, SQLINTEGER *number) {
    SQLBindParameter(made, 1, SQL_PARAM_INPUT, SQL_C_SLONG, SQL_INTEGER, 0, 0, number, 0, NULL);
}

static int run(SQLHDBC handle, const char *sql) {
    SQLHSTMT made = statement(handle);
    int worked = good(SQLExecDirect(made, (SQLCHAR *)sql, SQL_NTS), SQL_HANDLE_STMT, made);
    drop(made);
    return worked;
}

static int fails(SQLHDBC handle, const char *sql, const char *sqlstate) {
    return !run(handle, sql) && !strcmp(state, sqlstate);
}

// The first column of the first row.
static char *value(SQLHDBC handle, const char *sql) {
    static char found[2][4096];
    static int turn;
    char *text = found[turn ^= 1];
    SQLLEN length;
    SQLHSTMT made = statement(handle);
    strcpy(text, "(nothing)");
    if (good(SQLExecDirect(made, (SQLCHAR *)sql, SQL_NTS), SQL_HANDLE_STMT, made) &&
        SQL_SUCCEEDED(SQLFetch(made)))
        SQLGetData(made, 1, SQL_C_CHAR, text, sizeof found[0], &length);
    drop(made);
    return text;
}

static int autocommit(SQLHDBC handle, int on) {
    SQLPOINTER wanted = (SQLPOINTER)(SQLULEN)(on ? SQL_AUTOCOMMIT_ON : SQL_AUTOCOMMIT_OFF);
    return good(SQLSetConnectAttr(handle, SQL_ATTR_AUTOCOMMIT, wanted, 0), SQL_HANDLE_DBC, handle);
}

static int end(SQLHDBC handle, SQLSMALLINT how) {
    return good(SQLEndTran(SQL_HANDLE_DBC, handle, how), SQL_HANDLE_DBC, handle);
}

// The other client holds a transaction, and so a connection of its own, until it ends.
static int crowd(void) {
    return autocommit(other, 0) && run(other, "select 1");
}

static int uncrowd(void) {
    return end(other, SQL_COMMIT) && autocommit(other, 1);
}

static int pause_until(const char *sql, const char *wanted) {
    struct timespec moment = {0, 5000000};
    for (int turn = 0; turn < 2000; turn++) {
        if (!strcmp(value(other, sql), wanted)) return 1;
        nanosleep(&moment, NULL);
    }
    return 0;
}

