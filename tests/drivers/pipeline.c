/* A client of libpq: a pipeline with an error in it, COPY in a transaction, a function call, a cancelled query. */

#include <libpq-fe.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static PGconn *connection;

static void
fail(const char *what)
{
    fprintf(stderr, "%s: %s\n", what, PQerrorMessage(connection));
    exit(1);
}

static void
expect(PGresult *result, ExecStatusType status, const char *value)
{
    if (PQresultStatus(result) != status || (value && strcmp(PQgetvalue(result, 0, 0), value) != 0)) {
        fprintf(stderr, "not %s (%s)\n", PQresStatus(status), value ? value : "");
        fail(PQresStatus(PQresultStatus(result)));
    }
    PQclear(result);
}

static void
run(const char *sql, ExecStatusType status, const char *value)
{
    expect(PQexec(connection, sql), status, value);
}

/* The next result of a pipeline, and the null that ends each statement's. */
static void
next(ExecStatusType status, const char *value)
{
    expect(PQgetResult(connection), status, value);
    if (status != PGRES_PIPELINE_SYNC && PQgetResult(connection) != NULL)
        fail("more than one result");
}

static void
pipeline(void)
{
    const char *zero[] = {"0"}, *two[] = {"2"};

    if (!PQenterPipelineMode(connection) || !PQsendPrepare(connection, "divide", "select 10 / $1::int", 1, NULL) ||
        !PQsendQueryPrepared(connection, "divide", 1, two, NULL, NULL, 0) ||
        !PQsendQueryPrepared(connection, "divide", 1, zero, NULL, NULL, 0) ||
        !PQsendQueryPrepared(connection, "divide", 1, two, NULL, NULL, 0) || !PQpipelineSync(connection) ||
        !PQsendQueryPrepared(connection, "divide", 1, two, NULL, NULL, 0) || !PQpipelineSync(connection))
        fail("pipeline");
    next(PGRES_COMMAND_OK, NULL);
    next(PGRES_TUPLES_OK, "5");
    next(PGRES_FATAL_ERROR, NULL);
    next(PGRES_PIPELINE_ABORTED, NULL);
    next(PGRES_PIPELINE_SYNC, NULL);
    next(PGRES_TUPLES_OK, "5");
    next(PGRES_PIPELINE_SYNC, NULL);
    if (!PQexitPipelineMode(connection))
        fail("end of the pipeline");
    printf("pipeline");
}

static void
copy(const char *table)
{
    char sql[200], line[50];
    char *row;
    int rows = 0;

    run("begin", PGRES_COMMAND_OK, NULL);
    snprintf(sql, sizeof sql, "copy %s from stdin", table);
    run(sql, PGRES_COPY_IN, NULL);
    for (int i = 0; i < 1000; i++) {
        snprintf(line, sizeof line, "%d\tname %d\n", i, i);
        if (PQputCopyData(connection, line, (int) strlen(line)) != 1)
            fail("copy");
    }
    if (PQputCopyEnd(connection, NULL) != 1)
        fail("end of the copy");
    next(PGRES_COMMAND_OK, NULL);
    run("savepoint s", PGRES_COMMAND_OK, NULL);
    run(sql, PGRES_COPY_IN, NULL);
    if (PQputCopyEnd(connection, "changed my mind") != 1)
        fail("failed copy");
    next(PGRES_FATAL_ERROR, NULL);
    run("rollback to s", PGRES_COMMAND_OK, NULL);
    snprintf(sql, sizeof sql, "copy %s to stdout", table);
    run(sql, PGRES_COPY_OUT, NULL);
    while (PQgetCopyData(connection, &row, 0) > 0) {
        rows++;
        PQfreemem(row);
    }
    next(PGRES_COMMAND_OK, NULL);
    if (rows != 1000)
        fail("rows");
    run("commit", PGRES_COMMAND_OK, NULL);
    printf(" copy");
}

static void
call(void)
{
    const int int4pl = 177; /* pg_proc.dat */
    PQArgBlock arguments[2] = {{4, 1, {.integer = 40}}, {4, 1, {.integer = 2}}};
    int sum = 0, length = 0;

    expect(PQfn(connection, int4pl, &sum, &length, 1, arguments, 2), PGRES_COMMAND_OK, NULL);
    if (sum != 42 || length != 4)
        fail("sum");
    printf(" call");
}

/* The request may come before the query does, so it is made until the query has ended. */
static void
cancelled(void)
{
    char error[256];
    PGcancel *cancel = PQgetCancel(connection);

    if (!PQsendQuery(connection, "select pg_sleep(30)"))
        fail("query");
    do {
        if (!PQcancel(cancel, error, sizeof error) || !PQconsumeInput(connection))
            fail("cancel");
    } while (PQisBusy(connection));
    PQfreeCancel(cancel);
    PGresult *result = PQgetResult(connection);
    if (strcmp(PQresultErrorField(result, PG_DIAG_SQLSTATE), "57014") != 0)
        fail("error");
    PQclear(result);
    if (PQgetResult(connection) != NULL)
        fail("more than an error");
    printf(" cancel\n");
}

int
main(int argc, char **argv)
{
    if (argc != 3)
        return 2;
    connection = PQconnectdb(argv[1]);
    if (PQstatus(connection) != CONNECTION_OK)
        fail("connect");
    pipeline();
    copy(argv[2]);
    call();
    cancelled();
    PQfinish(connection);
    return 0;
}
