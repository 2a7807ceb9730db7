<?php
// PDO's pgsql driver, and where it has nothing (COPY by rows, cancel) the pgsql functions.

declare(strict_types=1);
error_reporting(E_ALL);

const TABLE = 'php_pdo';
$failed = false;

function step(string $name, callable $work): void
{
    global $failed;
    try {
        $work();
        echo "ok $name\n";
    } catch (Throwable $error) {
        $failed = true;
        $why = str_replace("\n", ' | ', $error->getMessage());
        echo "FAILED $name: line {$error->getLine()}: $why\n";
    }
}

function same(mixed $found, mixed $expected): void
{
    if ($found !== $expected) {
        throw new Exception(json_encode($found) . ' in place of ' . json_encode($expected), 0);
    }
}

function fails(string $sqlstate, callable $work): void
{
    try {
        $work();
    } catch (PDOException $error) {
        same($error->errorInfo[0], $sqlstate);
        return;
    }
    throw new Exception('there was no error');
}

function connect(?string $database = null, ?string $password = null, array $options = []): PDO
{
    $place = 'host=' . getenv('PGHOST') . ' port=' . getenv('PGPORT');
    $name = $database ?? getenv('PGDATABASE');
    return new PDO("pgsql:$place dbname='$name'", getenv('PGUSER'), $password ?? getenv('PGPASSWORD'), $options);
}

function value(PDO $client, string $sql, array $parameters = []): mixed
{
    $statement = $client->prepare($sql, [PDO::PGSQL_ATTR_DISABLE_PREPARES => true]);
    $statement->execute($parameters);
    return $statement->fetchColumn();
}

/** Do the work while the other client holds a transaction, and so a connection of its own. */
function crowded(PDO $other, callable $work): void
{
    $other->beginTransaction();
    value($other, 'select 1');
    $work();
    $other->commit();
}

/** A login that fails has no result, so that the message has to do. */
function refused(string $words, callable $work): void
{
    try {
        $work();
    } catch (PDOException $error) {
        same(str_contains($error->getMessage(), $words), true);
        return;
    }
    throw new Exception('there was no error');
}

$client = $other = null;

step('connect', function () use (&$client, &$other) {
    $client = connect();
    $other = connect();
    same(value($client, 'select current_user::text'), getenv('PGUSER'));
    $client->exec('drop table if exists ' . TABLE);
    $client->exec('create table ' . TABLE . ' (id int primary key, name text)');
});

step('unknown database', function () {
    refused('database "no_such_database" does not exist', fn () => connect('no_such_database'));
});

step('wrong password', function () {
    refused('password authentication failed for user', fn () => connect(null, 'wrong'));
});

step('transaction with a savepoint', function () use (&$client) {
    $client->beginTransaction();
    $client->exec('insert into ' . TABLE . " values (1, 'kept')");
    $client->exec('savepoint s');
    fails('23505', fn () => $client->exec('insert into ' . TABLE . " values (1, 'twice')"));
    fails('25P02', fn () => value($client, 'select 1'));
    $client->exec('rollback to savepoint s');
    $client->exec('insert into ' . TABLE . " values (2, 'kept')");
    same($client->inTransaction(), true);
    $client->commit();
    $client->beginTransaction();
    $client->exec('delete from ' . TABLE);
    $client->rollBack();
    same(value($client, 'select count(*) from ' . TABLE), 2);
});

step('prepared statements', function () use (&$client, &$other) {
    $pids = [];
    $statement = $client->prepare('select pg_backend_pid(), ?::int * 2');
    for ($turn = 0; $turn < 20; $turn++) {
        $work = function () use ($statement, $turn, &$pids) {
            $statement->execute([$turn]);
            [$pid, $twice] = $statement->fetch(PDO::FETCH_NUM);
            same($twice, $turn * 2);
            $pids[$pid] = true;
        };
        $turn % 2 ? crowded($other, $work) : $work();
    }
    echo 'connections ', count($pids), "\n";
    $client->beginTransaction();
    $named = $client->prepare("select :name::text || ' php_pdo'");
    $named->execute(['name' => 'named']);
    same($named->fetchColumn(), 'named php_pdo');
    $count = 'select count(*) from pg_prepared_statements where not from_sql and statement = ?';
    same(value($client, $count, ["select $1::text || ' php_pdo'"]), 1);
    $client->commit();
});

// PDO deallocates a statement by SQL as soon as nobody holds it, within a transaction too.
step('deallocate by SQL in a transaction', function () {
    $client = connect();
    $client->beginTransaction();
    foreach ([1, 2, 3] as $number) {
        $statement = $client->prepare('insert into ' . TABLE . ' values (?, ?)');
        $statement->execute([$number + 10, 'in a transaction']);
        unset($statement);
    }
    $client->commit();
    same(value($client, 'select count(*) from ' . TABLE . ' where id between 11 and 13'), 3);
});

step('deallocate by SQL outside', function () {
    $client = connect();
    foreach ([1, 2, 3] as $number) {
        $statement = $client->prepare('insert into ' . TABLE . ' values (?, ?)');
        $statement->execute([$number + 20, 'outside of a transaction']);
        unset($statement);
    }
    same(value($client, 'select count(*) from ' . TABLE . ' where id between 21 and 23'), 3);
});

step('several statements in one query', function () use (&$client) {
    $client->exec('insert into ' . TABLE . ' values (50); select 1; select 2');
    fails('22012', fn () => $client->exec('insert into ' . TABLE . ' values (51); select 1/0; select 2'));
    same(value($client, 'select count(*) from ' . TABLE . ' where id in (50, 51)'), 1);
});

step('copy in', function () use (&$client) {
    $lines = array_map(fn (int $number) => ($number + 1000) . "\tname $number \\\\ ü", range(0, 4999));
    same($client->pgsqlCopyFromArray(TABLE, $lines), true);
    fails('22P02', fn () => $client->pgsqlCopyFromArray(TABLE, ["9\tgood", "not a number\tbad"]));
    same(value($client, 'select count(*) from ' . TABLE . ' where id >= 1000 or id = 9'), 5000);
});

step('copy out', function () use (&$client) {
    $lines = $client->pgsqlCopyToArray('(select * from ' . TABLE . ' where id >= 1000 order by id)');
    same([count($lines), $lines[4999]], [5000, "5999\tname 4999 \\\\ ü\n"]);
});

step('cancel', function () use (&$other) {
    $client = pg_connect('');
    same(pg_send_query($client, 'select pg_sleep(60) /* php_pdo */'), true);
    $wait_until_running = function (int $wanted) use ($other) {
        $running = "select count(*) from pg_stat_activity where state = 'active' and query like ?";
        $end = hrtime(true) + 10_000_000_000;
        while (value($other, $running, ['select pg_sleep(60) /* php_pdo%']) !== $wanted) {
            same(hrtime(true) < $end, true);
            usleep(5000);
        }
    };
    $wait_until_running(1);
    // pg_cancel_query() takes the results away, so the server has to say what became of it.
    same(pg_cancel_query($client), true);
    $wait_until_running(0);
    same(pg_fetch_result(pg_query($client, "select 'goes on'"), 0, 0), 'goes on');
    pg_query($client, 'set statement_timeout to 50');
    pg_send_query($client, 'select pg_sleep(60)');
    same(pg_result_error_field(pg_get_result($client), PGSQL_DIAG_SQLSTATE), '57014');
    pg_close($client);
});

step('errors', function () use (&$client) {
    for ($turn = 0; $turn < 3; $turn++) {
        fails('23505', fn () => $client->exec('insert into ' . TABLE . ' values (1)'));
        fails('23505', fn () => value($client, 'insert into ' . TABLE . ' values (?)', [1]));
        fails('42601', fn () => $client->exec('selekt 1'));
        fails('42601', fn () => $client->prepare('selekt ?')->execute([1]));
        fails('42P01', fn () => $client->query('select * from no_such_table'));
    }
    same(value($client, "select 'goes on'"), 'goes on');
});

step('types', function () use (&$client) {
    $text = "Grüße 😀 ' \\ \"";
    $bytes = "\x00\x01'\\\xff";
    $casts = ['int8', 'numeric', 'text', 'bytea', 'timestamptz', 'int[]', 'jsonb', 'text', 'float8', 'bool'];
    $sql = 'select ' . implode(', ', array_map(fn (string $cast) => "?::$cast", $casts));
    $client->exec("set timezone to 'UTC'");
    foreach ([false, true] as $emulated) {
        $statement = $client->prepare($sql, [PDO::ATTR_EMULATE_PREPARES => $emulated]);
        $values = [9007199254740993, '12345678901234567890.123456789', $text, $bytes, '2020-02-29 12:34:56.789+00'];
        array_push($values, '{1,NULL,3}', '{"a": [1, null, "ü"]}', null, 1.5, true);
        foreach ($values as $index => $value) {
            $type = $index === 3 ? PDO::PARAM_LOB : (is_bool($value) ? PDO::PARAM_BOOL : PDO::PARAM_STR);
            $statement->bindValue($index + 1, $value, $value === null ? PDO::PARAM_NULL : $type);
        }
        $statement->execute();
        $row = $statement->fetch(PDO::FETCH_NUM);
        same(stream_get_contents($row[3]), $bytes);
        $row[3] = $bytes;
        same($statement->getColumnMeta(0)['native_type'], 'int8');
        same(array_map(strval(...), $row), array_map(strval(...), $values));
    }
    $client->exec('reset timezone');
});

step('listen and notify', function () use (&$client, &$other) {
    $client->exec('listen php_pdo');
    $other->exec("select pg_notify('php_pdo', 'first')");
    $other->exec("notify php_pdo, 'second'");
    foreach (['first', 'second'] as $expected) {
        $heard = $client->pgsqlGetNotify(PDO::FETCH_ASSOC, 10_000);
        same([$heard['message'], $heard['payload']], ['php_pdo', $expected]);
    }
    $client->exec('unlisten *');
});

step('50,000 rows', function () use (&$client) {
    $statement = $client->prepare("select n, n::text || ' row' from generate_series(1, ?::int) n");
    $statement->execute([50_000]);
    $rows = $statement->fetchAll(PDO::FETCH_NUM);
    same([count($rows), $rows[49_999]], [50_000, [50_000, '50000 row']]);
});

step('50,000 rows by a cursor', function () use (&$client) {
    $client->beginTransaction();
    $scroll = [PDO::ATTR_CURSOR => PDO::CURSOR_SCROLL];
    $statement = $client->prepare('select n from generate_series(1, 50000) n', $scroll);
    $statement->execute();
    for ($count = 0; $count < 2000 && ($row = $statement->fetch(PDO::FETCH_NUM)); $count++) {
        same($row[0], $count + 1);
    }
    same($statement->fetch(PDO::FETCH_NUM, PDO::FETCH_ORI_LAST)[0], 50_000);
    $client->rollBack();
});

step('settings and temporary tables', function () use (&$client, &$other) {
    $client->exec("set timezone to 'Asia/Tokyo'");
    crowded($other, fn () => same(value($client, 'show timezone'), 'Asia/Tokyo'));
    same(value($other, 'show timezone') === 'Asia/Tokyo', false);
    $client->exec('reset timezone');
    $client->exec('create temporary table php_temporary (id int)');
    $client->exec('insert into php_temporary values (1)');
    same(value($client, 'select count(*) from php_temporary'), 1);
    fails('42P01', fn () => $other->query('select * from php_temporary'));
    $client->exec('drop table php_temporary');
});

step('persistent connections', function () {
    foreach ([1, 2] as $turn) {
        $client = connect(null, null, [PDO::ATTR_PERSISTENT => true]);
        same(value($client, 'select ?::int', [$turn]), $turn);
    }
});

step('leave', function () use (&$client, &$other) {
    $client->exec('drop table ' . TABLE);
    $client = $other = null;
});

exit($failed ? 1 : 0);
