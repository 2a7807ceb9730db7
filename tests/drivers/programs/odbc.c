// psqlODBC under unixODBC: what spreadsheets, reports and .NET's older half connect with.

#include <pthread.h>

#include "steps.h"

#define TABLE "odbc"

static SQLHDBC leaver;
static SQLHSTMT kept[2]; // what is dropped is another step's

static int connecting(void) {
    CHECK(reach(&client, ""));
    CHECK(reach(&other, ""));
    CHECK(!strcmp(value(client, "select current_user::text"), getenv("PGUSER")));
    CHECK(run(client, "drop table if exists " TABLE));
    CHECK(run(client, "create table " TABLE " (id int primary key, name text)"));
    return 1;
}

// psqlODBC has SQLSTATEs of its own for a failed login, so that the message has to do.
static int unknown_database(void) {
    SQLHDBC handle;
    CHECK(!reach_as(&handle, getenv("PGPASSWORD"), "no_such_database", ""));
    CHECK(strstr(said, "database \"no_such_database\" does not exist"));
    SQLFreeHandle(SQL_HANDLE_DBC, handle);
    return 1;
}

static int wrong_password(void) {
    SQLHDBC handle;
    CHECK(!reach_as(&handle, "wrong", getenv("PGDATABASE"), ""));
    CHECK(strstr(said, "password authentication failed for user"));
    SQLFreeHandle(SQL_HANDLE_DBC, handle);
    return 1;
}

static int transaction(void) {
    CHECK(autocommit(client, 0));
    CHECK(run(client, "insert into " TABLE " values (1, 'kept')"));
    CHECK(run(client, "savepoint s"));
    CHECK(fails(client, "insert into " TABLE " values (1, 'twice')", "23505"));
    // The driver has a savepoint of its own around each statement.
    CHECK(run(client, "rollback to savepoint s"));
    CHECK(run(client, "insert into " TABLE " values (2, 'kept')"));
    CHECK(end(client, SQL_COMMIT));
    CHECK(run(client, "delete from " TABLE));
    CHECK(end(client, SQL_ROLLBACK));
    CHECK(autocommit(client, 1));
    CHECK(!strcmp(value(client, "select count(*) from " TABLE), "2"));
    return 1;
}

static int prepared(void) {
    SQLHSTMT made = kept[0] = statement(client);
    SQLINTEGER number, pid, twice, pids[20], count = 0;
    SQLLEN null;
    CHECK(prepare(made, "select pg_backend_pid(), ?::int * 2"));
    bind_number(made, &number);
    for (number = 0; number < 20; number++) {
        if (number % 2) CHECK(crowd());
        CHECK(execute(made));
        CHECK(SQL_SUCCEEDED(SQLFetch(made)));
        SQLGetData(made, 1, SQL_C_SLONG, &pid, 0, &null);
        SQLGetData(made, 2, SQL_C_SLONG, &twice, 0, &null);
        CHECK(twice == 2 * number);
        SQLCloseCursor(made);
        if (number % 2) CHECK(uncrowd());
        int known = 0;
        for (int at = 0; at < count; at++) known |= pids[at] == pid;
        if (!known) pids[count++] = pid;
    }
    printf("connections %d\n", count);
    return 1;
}

static int named(void) {
    SQLHSTMT made = kept[1] = statement(client);
    SQLLEN length = SQL_NTS;
    char text[64] = "named", found[64];
    CHECK(autocommit(client, 0));
    CHECK(prepare(made, "select ?::text || ' odbc'"));
    SQLBindParameter(made, 1, SQL_PARAM_INPUT, SQL_C_CHAR, SQL_VARCHAR, 64, 0, text, sizeof text, &length);
    for (int turn = 0; turn < 3; turn++) {
        CHECK(execute(made));
        CHECK(SQL_SUCCEEDED(SQLFetch(made)));
        SQLGetData(made, 1, SQL_C_CHAR, found, sizeof found, &(SQLLEN){0});
        CHECK(!strcmp(found, "named odbc"));
        SQLCloseCursor(made);
    }
    CHECK(!strcmp(value(client, "select count(*) from pg_prepared_statements"
                                " where not from_sql and statement like '% || '' odbc''%'"), "1"));
    CHECK(end(client, SQL_COMMIT));
    return autocommit(client, 1);
}

// The driver deallocates by SQL, and its names come again as the addresses do.
static int dropped(void) {
    SQLINTEGER number;
    CHECK(reach(&leaver, ""));
    CHECK(autocommit(leaver, 0));
    for (number = 11; number < 14; number++) {
        SQLHSTMT made = statement(leaver);
        CHECK(prepare(made, "insert into " TABLE " values (?)"));
        bind_number(made, &number);
        CHECK(execute(made));
        drop(made);
    }
    CHECK(end(leaver, SQL_COMMIT));
    CHECK(!strcmp(value(leaver, "select count(*) from " TABLE " where id between 11 and 13"), "3"));
    CHECK(end(leaver, SQL_COMMIT));
    return 1;
}

static int batch(void) {
    SQLHSTMT made = statement(client);
    SQLINTEGER numbers[100];
    SQLUSMALLINT status[100];
    SQLULEN done;
    CHECK(autocommit(client, 0));
    for (int bad = 0; bad < 2; bad++) {
        for (int at = 0; at < 100; at++) numbers[at] = bad && at == 50 ? 1 : 100 + 100 * bad + at;
        SQLSetStmtAttr(made, SQL_ATTR_PARAMSET_SIZE, (SQLPOINTER)100, 0);
        SQLSetStmtAttr(made, SQL_ATTR_PARAM_STATUS_PTR, status, 0);
        SQLSetStmtAttr(made, SQL_ATTR_PARAMS_PROCESSED_PTR, &done, 0);
        bind_number(made, numbers);
        SQLRETURN code = SQLExecDirect(made, (SQLCHAR *)"insert into " TABLE " values (?)", SQL_NTS);
        int good_ones = 0;
        for (int at = 0; at < 100; at++) good_ones += status[at] == SQL_PARAM_SUCCESS;
        printf("batch %d: %d, %d of %d\n", bad, code, good_ones, (int)done);
        CHECK(end(client, bad ? SQL_ROLLBACK : SQL_COMMIT));
    }
    drop(made);
    CHECK(autocommit(client, 1));
    CHECK(!strcmp(value(client, "select count(*) from " TABLE " where id >= 100"), "100"));
    return 1;
}

static SQLHSTMT sleeper;
static SQLRETURN slept;

static void *sleep_on_server(void *unused) {
    slept = SQLExecDirect(sleeper, (SQLCHAR *)"select pg_sleep(60) /* odbc */", SQL_NTS);
    return unused;
}

static int cancel(void) {
    const char *running = "select count(*) from pg_stat_activity where state = 'active'"
                          " and query like 'select pg_sleep(60) /* odbc%'";
    pthread_t thread;
    sleeper = statement(client);
    pthread_create(&thread, NULL, sleep_on_server, NULL);
    CHECK(pause_until(running, "1"));
    CHECK(good(SQLCancel(sleeper), SQL_HANDLE_STMT, sleeper));
    pthread_join(thread, NULL);
    CHECK(!good(slept, SQL_HANDLE_STMT, sleeper));
    CHECK(!strcmp(state, "57014"));
    drop(sleeper);
    CHECK(!strcmp(value(client, "select 'goes on'"), "goes on"));
    CHECK(run(client, "set statement_timeout to 50"));
    CHECK(fails(client, "select pg_sleep(60)", "57014"));
    CHECK(run(client, "reset statement_timeout"));
    CHECK(!strcmp(value(client, "select 'goes on'"), "goes on"));
    return 1;
}

static int errors(void) {
    for (int turn = 0; turn < 3; turn++) {
        CHECK(fails(client, "insert into " TABLE " values (1)", "23505"));
        CHECK(fails(client, "selekt 1", "42601"));
        CHECK(fails(client, "select * from no_such_table", "42P01"));
        CHECK(fails(client, "select 'not a number'::int", "22P02"));
        CHECK(fails(client, "insert into " TABLE " values (51); select 1/0; select 2", "22012"));
    }
    CHECK(!strcmp(value(client, "select 'goes on'"), "goes on"));
    return 1;
}

static int got(SQLHSTMT made, int column, SQLSMALLINT type, void *into, SQLLEN *length) {
    return SQL_SUCCEEDED(SQLGetData(made, column, type, into, 256, length));
}

static int types(void) {
    SQLHSTMT made = statement(client);
    SQLBIGINT big = 9007199254740993, big_found;
    char *exact = "12345678901234567890.123456789", *text = "Grüße 😀 ' \\ \"";
    char *json = "{\"a\": [1, null, \"ü\"]}";
    char bytes[5] = {0, 1, 39, 92, -1}, found[256];
    double number = 1.5, number_found;
    SQLLEN none = SQL_NULL_DATA, string = SQL_NTS, five = 5, length;
    const char *sql = "select ?::int8, ?::numeric, ?::text, ?::bytea, ?::jsonb, ?::text, ?::float8,"
                      " timestamptz '2020-02-29 12:34:56.789+00' at time zone 'UTC', array[1, null, 3]";
    CHECK(prepare(made, sql));
    SQLBindParameter(made, 1, SQL_PARAM_INPUT, SQL_C_SBIGINT, SQL_BIGINT, 0, 0, &big, 0, NULL);
    SQLBindParameter(made, 2, SQL_PARAM_INPUT, SQL_C_CHAR, SQL_NUMERIC, 30, 9, exact, 0, &string);
    SQLBindParameter(made, 3, SQL_PARAM_INPUT, SQL_C_CHAR, SQL_VARCHAR, 100, 0, text, 0, &string);
    SQLBindParameter(made, 4, SQL_PARAM_INPUT, SQL_C_BINARY, SQL_VARBINARY, 5, 0, bytes, 5, &five);
    SQLBindParameter(made, 5, SQL_PARAM_INPUT, SQL_C_CHAR, SQL_VARCHAR, 100, 0, json, 0, &string);
    SQLBindParameter(made, 6, SQL_PARAM_INPUT, SQL_C_CHAR, SQL_VARCHAR, 100, 0, NULL, 0, &none);
    SQLBindParameter(made, 7, SQL_PARAM_INPUT, SQL_C_DOUBLE, SQL_DOUBLE, 0, 0, &number, 0, NULL);
    for (int turn = 0; turn < 3; turn++) {
        CHECK(execute(made));
        CHECK(SQL_SUCCEEDED(SQLFetch(made)));
        CHECK(got(made, 1, SQL_C_SBIGINT, &big_found, &length) && big_found == big);
        CHECK(got(made, 2, SQL_C_CHAR, found, &length) && !strcmp(found, exact));
        CHECK(got(made, 3, SQL_C_CHAR, found, &length) && !strcmp(found, text));
        CHECK(got(made, 4, SQL_C_BINARY, found, &length) && length == 5);
        CHECK(!memcmp(found, bytes, 5));
        CHECK(got(made, 5, SQL_C_CHAR, found, &length) && !strcmp(found, json));
        CHECK(got(made, 6, SQL_C_CHAR, found, &length) && length == SQL_NULL_DATA);
        CHECK(got(made, 7, SQL_C_DOUBLE, &number_found, &length) && number_found == number);
        CHECK(got(made, 8, SQL_C_CHAR, found, &length));
        CHECK(!strcmp(found, "2020-02-29 12:34:56.789"));
        CHECK(got(made, 9, SQL_C_CHAR, found, &length) && !strcmp(found, "{1,NULL,3}"));
        SQLCloseCursor(made);
    }
    return drop(made);
}

static int read_rows(SQLHDBC handle) {
    SQLHSTMT made = statement(handle);
    SQLINTEGER number, count = 0;
    SQLLEN length;
    const char *sql = "select n, n::text || ' row' from generate_series(1, 50000) n";
    CHECK(good(SQLExecDirect(made, (SQLCHAR *)sql, SQL_NTS), SQL_HANDLE_STMT, made));
    SQLBindCol(made, 1, SQL_C_SLONG, &number, 0, &length);
    while (SQL_SUCCEEDED(SQLFetch(made))) CHECK(number == ++count);
    CHECK(count == 50000);
    return drop(made);
}

static int rows(void) {
    return read_rows(client);
}

static int rows_by_cursor(void) {
    SQLHDBC fetching;
    CHECK(reach(&fetching, "UseDeclareFetch=1;Fetch=1000"));
    CHECK(read_rows(fetching));
    CHECK(autocommit(fetching, 0));
    CHECK(read_rows(fetching));
    CHECK(end(fetching, SQL_COMMIT));
    SQLDisconnect(fetching);
    SQLFreeHandle(SQL_HANDLE_DBC, fetching);
    return 1;
}

static int catalogue(void) {
    SQLHSTMT made = statement(client);
    char name[256];
    SQLColumns(made, NULL, 0, NULL, 0, (SQLCHAR *)TABLE, SQL_NTS, NULL, 0);
    CHECK(SQL_SUCCEEDED(SQLFetch(made)) && got(made, 4, SQL_C_CHAR, name, &(SQLLEN){0}));
    CHECK(!strcmp(name, "id"));
    CHECK(SQL_SUCCEEDED(SQLFetch(made)) && SQLFetch(made) == SQL_NO_DATA);
    return drop(made);
}

static int settings(void) {
    CHECK(run(client, "set timezone to 'Asia/Tokyo'"));
    CHECK(crowd());
    CHECK(!strcmp(value(client, "show timezone"), "Asia/Tokyo"));
    CHECK(strcmp(value(other, "show timezone"), "Asia/Tokyo"));
    CHECK(uncrowd());
    CHECK(run(client, "reset timezone"));
    CHECK(run(client, "create temporary table odbc_temporary (id int)"));
    CHECK(run(client, "insert into odbc_temporary values (1)"));
    CHECK(!strcmp(value(client, "select count(*) from odbc_temporary"), "1"));
    CHECK(fails(other, "select * from odbc_temporary", "42P01"));
    CHECK(run(client, "drop table odbc_temporary"));
    return 1;
}

static int leave(void) {
    CHECK(end(leaver, SQL_ROLLBACK) && SQL_SUCCEEDED(SQLDisconnect(leaver)));
    CHECK(drop(kept[0]) && drop(kept[1]));
    CHECK(run(client, "drop table " TABLE));
    CHECK(SQL_SUCCEEDED(SQLDisconnect(client)) && SQL_SUCCEEDED(SQLDisconnect(other)));
    return 1;
}

int main(void) {
    setvbuf(stdout, NULL, _IOLBF, 0);
    SQLAllocHandle(SQL_HANDLE_ENV, SQL_NULL_HANDLE, &environment);
    SQLSetEnvAttr(environment, SQL_ATTR_ODBC_VERSION, (SQLPOINTER)SQL_OV_ODBC3, 0);
    step("connect", connecting);
    if (failed) return 1;
    step("unknown database", unknown_database);
    step("wrong password", wrong_password);
    step("transaction with a savepoint", transaction);
    step("prepared statements", prepared);
    step("named statements", named);
    step("statements dropped in a transaction", dropped);
    step("batch with an error in the middle", batch);
    step("cancel", cancel);
    step("errors", errors);
    step("types", types);
    step("50,000 rows", rows);
    step("50,000 rows by a cursor", rows_by_cursor);
    step("catalogue", catalogue);
    step("settings and temporary tables", settings);
    step("leave", leave);
    return failed;
}
