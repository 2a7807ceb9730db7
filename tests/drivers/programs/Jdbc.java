// pgjdbc: named statements after five executions, batches, portals in pieces, COPY, cancel.

import java.io.StringReader;
import java.io.StringWriter;
import java.math.BigDecimal;
import java.sql.Array;
import java.sql.BatchUpdateException;
import java.sql.Connection;
import java.sql.DriverManager;
import java.sql.PreparedStatement;
import java.sql.ResultSet;
import java.sql.SQLException;
import java.sql.Savepoint;
import java.sql.Statement;
import java.sql.Types;
import java.time.Instant;
import java.time.OffsetDateTime;
import java.time.ZoneOffset;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.HashSet;
import java.util.List;
import java.util.Properties;
import java.util.Set;
import java.util.concurrent.FutureTask;
import org.postgresql.PGConnection;
import org.postgresql.copy.CopyManager;

public final class Jdbc {
    interface Work {
        void run() throws Exception;
    }

    static final String TABLE = "pgjdbc";
    static boolean failed;
    static Connection client;
    static Connection other;

    static void step(String name, Work work) {
        try {
            work.run();
            System.out.println("ok " + name);
        } catch (Exception | AssertionError error) {
            failed = true;
            String why = error.toString().replace("\n", " | ");
            System.out.println("FAILED " + name + ": " + why.substring(0, Math.min(why.length(), 500)));
        }
    }

    static void same(Object found, Object expected) {
        if (!expected.equals(found)) {
            throw new AssertionError("found " + found + ", expected " + expected);
        }
    }

    static void fails(String sqlstate, Work work) throws Exception {
        try {
            work.run();
        } catch (SQLException error) {
            if (!sqlstate.equals(error.getSQLState())) {
                throw new AssertionError("SQLSTATE " + error.getSQLState() + ": " + error.getMessage());
            }
            return;
        }
        throw new AssertionError("there was no error");
    }

    static Connection connect(String... options) throws SQLException {
        Properties properties = new Properties();
        properties.setProperty("user", System.getenv("PGUSER"));
        properties.setProperty("password", System.getenv("PGPASSWORD"));
        for (int at = 0; at < options.length; at += 2) {
            properties.setProperty(options[at], options[at + 1]);
        }
        String place = System.getenv("PGHOST") + ":" + System.getenv("PGPORT");
        String database = properties.getProperty("database", System.getenv("PGDATABASE"));
        String more = System.getenv().getOrDefault("JDBC_OPTIONS", "");
        return DriverManager.getConnection("jdbc:postgresql://" + place + "/" + database + more, properties);
    }

    static void execute(Connection connection, String sql) throws SQLException {
        try (Statement statement = connection.createStatement()) {
            statement.execute(sql);
        }
    }

    static Object value(Connection connection, String sql, Object... parameters) throws SQLException {
        try (PreparedStatement statement = connection.prepareStatement(sql)) {
            for (int at = 0; at < parameters.length; at++) {
                statement.setObject(at + 1, parameters[at]);
            }
            try (ResultSet rows = statement.executeQuery()) {
                rows.next();
                return rows.getObject(1);
            }
        }
    }

    /** Do the work while the other client holds a transaction, and so a connection of its own. */
    static void crowded(Work work) throws Exception {
        other.setAutoCommit(false);
        value(other, "select 1");
        work.run();
        other.commit();
        other.setAutoCommit(true);
    }

    static void reach() throws Exception {
        client = connect();
        other = connect();
        same(value(client, "select current_user::text"), System.getenv("PGUSER"));
        execute(client, "drop table if exists " + TABLE);
        execute(client, "create table " + TABLE + " (id int primary key, name text)");
    }

    static void transaction() throws Exception {
        String insert = "insert into " + TABLE + " values ";
        client.setAutoCommit(false);
        execute(client, insert + "(1, 'kept')");
        Savepoint savepoint = client.setSavepoint("s");
        fails("23505", () -> execute(client, insert + "(1, 'twice')"));
        fails("25P02", () -> value(client, "select 1"));
        client.rollback(savepoint);
        execute(client, insert + "(2, 'kept')");
        client.commit();
        execute(client, "delete from " + TABLE);
        client.rollback();
        client.setTransactionIsolation(Connection.TRANSACTION_SERIALIZABLE);
        client.setReadOnly(true);
        fails("25006", () -> execute(client, "delete from " + TABLE));
        client.rollback();
        client.setReadOnly(false);
        client.setAutoCommit(true);
        client.setTransactionIsolation(Connection.TRANSACTION_READ_COMMITTED);
        same(value(client, "select count(*) from " + TABLE), 2L);
    }

    static void prepared() throws Exception {
        Set<Integer> pids = new HashSet<>();
        String sql = "select pg_backend_pid(), ?::int * 2";
        try (PreparedStatement statement = client.prepareStatement(sql)) {
            for (int turn = 0; turn < 20; turn++) {
                int number = turn;
                Work work = () -> {
                    statement.setInt(1, number);
                    try (ResultSet rows = statement.executeQuery()) {
                        rows.next();
                        pids.add(rows.getInt(1));
                        same(rows.getInt(2), number * 2);
                    }
                };
                if (turn % 2 == 1) {
                    crowded(work);
                } else {
                    work.run();
                }
            }
        }
        System.out.println("connections " + pids.size());
        client.setAutoCommit(false);
        try (PreparedStatement statement = client.prepareStatement("select ?::text || ' pgjdbc'")) {
            for (int turn = 0; turn < 20; turn++) {
                statement.setString(1, "turn");
                try (ResultSet rows = statement.executeQuery()) {
                    rows.next();
                    same(rows.getString(1), "turn pgjdbc");
                }
            }
            String count = "select count(*) from pg_prepared_statements where not from_sql and statement = ?";
            same(value(client, count, "select $1::text || ' pgjdbc'"), 1L);
        }
        client.commit();
        client.setAutoCommit(true);
    }

    static void fill(PreparedStatement statement, int first, int count, int bad) throws SQLException {
        for (int number = 0; number < count; number++) {
            statement.setInt(1, number == bad ? 1 : first + number);
            statement.setString(2, "name " + number);
            statement.addBatch();
        }
    }

    static void batches(Connection connection) throws Exception {
        String insert = "insert into " + TABLE + " values (?, ?)";
        try (PreparedStatement statement = connection.prepareStatement(insert)) {
            for (int turn = 0; turn < 8; turn++) {
                fill(statement, 1000 + turn * 1000, 1000, -1);
                same(Arrays.stream(statement.executeBatch()).map(Math::abs).sum() >= 1000, true);
            }
            for (int turn = 0; turn < 3; turn++) {
                fill(statement, 20_000, 1000, 500);
                try {
                    statement.executeBatch();
                    throw new AssertionError("there was no error");
                } catch (BatchUpdateException error) {
                    same(error.getSQLState(), "23505");
                }
                // Where the driver puts its Syncs decides what is kept.
                String kept = " from " + TABLE + " where id >= 20000";
                System.out.println("kept " + value(connection, "select count(*)" + kept));
                execute(connection, "delete" + kept);
            }
        }
        same(value(connection, "select count(*) from " + TABLE + " where id >= 1000"), 8000L);
        try (Statement statement = connection.createStatement()) {
            statement.addBatch("update " + TABLE + " set name = 'new' where id between 1000 and 1009");
            statement.addBatch("delete from " + TABLE + " where id >= 1000");
            same(Arrays.toString(statement.executeBatch()), "[10, 8000]");
        }
    }

    static void copyIn() throws Exception {
        CopyManager copies = client.unwrap(PGConnection.class).getCopyAPI();
        StringBuilder lines = new StringBuilder();
        for (int number = 0; number < 5000; number++) {
            lines.append(number + 1000).append("\tname ").append(number).append(" \\\\ ü\n");
        }
        String copy = "copy " + TABLE + " from stdin";
        same(copies.copyIn(copy, new StringReader(lines.toString())), 5000L);
        fails("22P02", () -> copies.copyIn(copy, new StringReader("9\tgood\nnot a number\tbad\n")));
        copies.copyIn(copy).cancelCopy();
        same(value(client, "select count(*) from " + TABLE + " where id >= 1000 or id = 9"), 5000L);
    }

    static void copyOut() throws Exception {
        CopyManager copies = client.unwrap(PGConnection.class).getCopyAPI();
        StringWriter out = new StringWriter();
        String query = "select * from " + TABLE + " where id >= 1000 order by id";
        same(copies.copyOut("copy (" + query + ") to stdout", out), 5000L);
        String[] lines = out.toString().split("\n");
        same(lines.length, 5000);
        same(lines[4999], "5999\tname 4999 \\\\ ü");
    }

    static void cancel() throws Exception {
        try (Statement statement = client.createStatement()) {
            var over = new FutureTask<Void>(() -> {
                fails("57014", () -> statement.executeQuery("select pg_sleep(60) /* pgjdbc */"));
                return null;
            });
            new Thread(over).start();
            String running = "select count(*) from pg_stat_activity where state = 'active'"
                + " and query like ? and pid <> pg_backend_pid()";
            long end = System.nanoTime() + 10_000_000_000L;
            while (value(other, running, "select pg_sleep(60) /* pgjdbc%").equals(0L)) {
                if (System.nanoTime() > end) {
                    throw new AssertionError("no running query within ten seconds");
                }
                Thread.sleep(5);
            }
            statement.cancel();
            over.get();
        }
        try (Statement statement = client.createStatement()) {
            statement.setQueryTimeout(1);
            fails("57014", () -> statement.executeQuery("select pg_sleep(60)"));
        }
        same(value(client, "select 'goes on'"), "goes on");
    }

    static void errors() throws Exception {
        String insert = "insert into " + TABLE + " values (?)";
        for (int turn = 0; turn < 20; turn++) {
            fails("23505", () -> value(client, insert, 1));
            fails("42601", () -> execute(client, "selekt 1"));
            fails("42P01", () -> value(client, "select * from no_such_table"));
            fails("22012", () -> value(client, "select 1 / ?", 0));
        }
        same(value(client, "select 'goes on'"), "goes on");
    }

    static void types() throws Exception {
        OffsetDateTime when = Instant.parse("2020-02-29T12:34:56.789Z").atOffset(ZoneOffset.UTC);
        byte[] bytes = {0, 1, 39, 92, -1};
        String text = "Grüße 😀 ' \\ \"";
        BigDecimal exact = new BigDecimal("12345678901234567890.123456789");
        String sql = "select ?::int8, ?::numeric, ?::text, ?::bytea, ?::timestamptz, ?::int[], ?::text[],"
            + " ?::jsonb, ?::text, ?::float8, ?::bool";
        try (PreparedStatement statement = client.prepareStatement(sql)) {
            for (int turn = 0; turn < 20; turn++) {
                statement.setLong(1, 9007199254740993L);
                statement.setBigDecimal(2, exact);
                statement.setString(3, text);
                statement.setBytes(4, bytes);
                statement.setObject(5, when);
                statement.setArray(6, client.createArrayOf("int4", new Object[] {1, null, 3}));
                statement.setArray(7, client.createArrayOf("text", new Object[] {"a,b", "{}", null}));
                statement.setString(8, "{\"a\": [1, null, \"ü\"]}");
                statement.setNull(9, Types.VARCHAR);
                statement.setDouble(10, 1.5);
                statement.setBoolean(11, true);
                try (ResultSet rows = statement.executeQuery()) {
                    rows.next();
                    same(rows.getLong(1), 9007199254740993L);
                    same(rows.getBigDecimal(2), exact);
                    same(rows.getString(3), text);
                    same(Arrays.equals(rows.getBytes(4), bytes), true);
                    same(rows.getObject(5, OffsetDateTime.class).toInstant(), when.toInstant());
                    Array numbers = rows.getArray(6);
                    same(Arrays.toString((Object[]) numbers.getArray()), "[1, null, 3]");
                    same(Arrays.toString((Object[]) rows.getArray(7).getArray()), "[a,b, {}, null]");
                    same(rows.getString(8), "{\"a\": [1, null, \"ü\"]}");
                    same(rows.getObject(9) == null, true);
                    same(rows.getDouble(10), 1.5);
                    same(rows.getBoolean(11), true);
                }
            }
            same(statement.getMetaData().getColumnTypeName(1), "int8");
        }
        try (ResultSet columns = client.getMetaData().getColumns(null, null, TABLE, null)) {
            List<String> names = new ArrayList<>();
            while (columns.next()) {
                names.add(columns.getString("COLUMN_NAME"));
            }
            same(names, List.of("id", "name"));
        }
    }

    static void notifications() throws Exception {
        execute(client, "listen pgjdbc");
        value(other, "select pg_notify('pgjdbc', 'first')::text");
        value(other, "select pg_notify('pgjdbc', 'second')::text");
        List<String> heard = new ArrayList<>();
        long end = System.nanoTime() + 10_000_000_000L;
        while (heard.size() < 2 && System.nanoTime() < end) {
            for (var each : client.unwrap(PGConnection.class).getNotifications(1000)) {
                heard.add(each.getParameter());
            }
        }
        same(heard, List.of("first", "second"));
        execute(client, "unlisten *");
    }

    static void rows(int fetchSize) throws Exception {
        client.setAutoCommit(fetchSize == 0);
        try (PreparedStatement statement = client.prepareStatement(
                "select n, n::text || ' row' from generate_series(1, ?) n")) {
            statement.setFetchSize(fetchSize);
            for (int turn = 0; turn < 7; turn++) {
                statement.setInt(1, 50_000);
                int count = 0;
                try (ResultSet rows = statement.executeQuery()) {
                    while (rows.next() && count < (turn < 6 ? 50 : 50_000)) {
                        same(rows.getInt(1), ++count);
                    }
                }
                same(count, turn < 6 ? 50 : 50_000);
            }
        }
        client.setAutoCommit(true);
    }

    static void settings() throws Exception {
        execute(client, "set timezone to 'Asia/Tokyo'");
        crowded(() -> same(value(client, "show timezone"), "Asia/Tokyo"));
        same(value(other, "show timezone").equals("Asia/Tokyo"), false);
        execute(client, "reset timezone");
        client.setSchema("pg_catalog");
        crowded(() -> same(client.getSchema(), "pg_catalog"));
        client.setSchema("public");
        execute(client, "create temporary table pgjdbc_temporary (id int)");
        execute(client, "insert into pgjdbc_temporary values (1)");
        same(value(client, "select count(*) from pgjdbc_temporary"), 1L);
        fails("42P01", () -> value(other, "select * from pgjdbc_temporary"));
        execute(client, "drop table pgjdbc_temporary");
    }

    public static void main(String[] arguments) {
        step("connect", Jdbc::reach);
        step("unknown database", () -> fails("3D000", () -> connect("database", "no_such_database")));
        step("wrong password", () -> fails("28P01", () -> connect("password", "wrong")));
        step("transaction with a savepoint", Jdbc::transaction);
        step("prepared statements", Jdbc::prepared);
        step("batches with an error in the middle", () -> batches(client));
        step("rewritten batches in the simple protocol", () -> {
            for (String mode : List.of("extended", "simple", "extendedCacheEverything")) {
                try (Connection each = connect("reWriteBatchedInserts", "true", "preferQueryMode", mode)) {
                    batches(each);
                }
            }
        });
        step("copy in", Jdbc::copyIn);
        step("copy out", Jdbc::copyOut);
        step("cancel", Jdbc::cancel);
        step("errors", Jdbc::errors);
        step("types", Jdbc::types);
        step("listen and notify", Jdbc::notifications);
        step("50,000 rows", () -> rows(0));
        step("50,000 rows by a fetch size", () -> rows(1000));
        step("settings and temporary tables", Jdbc::settings);
        step("leave", () -> {
            execute(client, "drop table " + TABLE);
            client.close();
            other.close();
        });
        System.exit(failed ? 1 : 0);
    }
}
