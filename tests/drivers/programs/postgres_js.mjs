// postgres.js (postgres): pipelines everything, and prepares every statement.

import { once } from "node:events";
import { Readable } from "node:stream";
import { pipeline } from "node:stream/promises";
import postgres from "postgres";
import steps from "./steps.js";

const { assert, finish, sqlstate, step, until } = steps;
const quiet = { max: 1, onnotice: () => {} };

const sql = postgres(quiet);
const other = postgres(quiet);
const table = sql("postgres_js");

async function value(query) {
  const [row] = await query;
  return Object.values(row)[0];
}

/** Do the work while the other client holds a transaction, and so a connection of its own. */
async function crowded(work) {
  await other.begin(async (transaction) => {
    await transaction`select 1`;
    await work();
  });
}

await step("connect", async () => {
  assert.equal(await value(sql`select current_user::text`), process.env.PGUSER);
  await sql`drop table if exists ${table}`;
  await sql`create table ${table} (id int primary key, name text)`;
});

await step("unknown database", async () => {
  const wrong = postgres({ ...quiet, database: "no_such_database" });
  assert.equal(await sqlstate(wrong`select 1`), "3D000");
  await wrong.end();
});

await step("wrong password", async () => {
  const wrong = postgres({ ...quiet, password: "wrong" });
  assert.equal(await sqlstate(wrong`select 1`), "28P01");
  await wrong.end();
});

await step("transaction with a savepoint", async () => {
  await sql.begin(async (transaction) => {
    await transaction`insert into ${table} values (${1}, ${"kept"})`;
    const inner = transaction.savepoint((nested) => nested`insert into ${table} values (1, 'twice')`);
    assert.equal(await sqlstate(inner), "23505");
    await transaction`insert into ${table} values (2, 'kept')`;
  });
  const undone = sql.begin(async (transaction) => {
    await transaction`delete from ${table}`;
    await transaction`select 1/0`;
  });
  assert.equal(await sqlstate(undone), "22012");
  assert.equal(await value(sql`select count(*)::int from ${table}`), 2);
});

await step("prepared statements", async () => {
  const pids = new Set();
  for (let turn = 0; turn < 20; turn += 1) {
    const work = async () => {
      const [row] = await sql`select pg_backend_pid() as pid, ${turn}::int * 2 as twice`;
      assert.equal(row.twice, turn * 2);
      pids.add(row.pid);
    };
    if (turn % 2) await crowded(work);
    else await work();
  }
  await sql.begin(async (transaction) => {
    for (const turn of ["a", "b"]) {
      assert.equal(await value(transaction`select ${turn}::text || ' postgres_js'`), `${turn} postgres_js`);
    }
    const count = transaction`
      select count(*)::int from pg_prepared_statements
      where not from_sql and statement = ${"select $1::text || ' postgres_js'"}`;
    assert.equal(await value(count), 1);
  });
  console.log(`connections ${pids.size}`);
});

await step("pipeline with an error in the middle", async () => {
  const queries = [...Array(300).keys()].map((number) => {
    if (number === 150) return sqlstate(sql`select 1 / ${0}::int`);
    if (number === 151) return sqlstate(sql`select nonsense`);
    return value(sql`select ${number}::int`);
  });
  const expected = [...Array(300).keys()].map((n) => (n === 150 ? "22012" : n === 151 ? "42703" : n));
  assert.deepEqual(await Promise.all(queries), expected);
});

await step("pipelined transaction", async () => {
  const results = await sql.begin((transaction) =>
    [...Array(50).keys()].map((n) => transaction`insert into ${table} values (${n + 100}) returning id`),
  );
  assert.deepEqual(results.map(([row]) => row.id), [...Array(50).keys()].map((n) => n + 100));
  const undone = sql.begin((transaction) => [
    transaction`insert into ${table} values (200)`,
    transaction`insert into ${table} values (100)`,
    transaction`insert into ${table} values (201)`,
  ]);
  assert.ok(["23505", "25P02"].includes(await sqlstate(undone)));
  assert.equal(await value(sql`select count(*)::int from ${table} where id between 100 and 299`), 50);
});

await step("several statements in one query", async () => {
  const results = await sql`insert into ${table} values (50); select 1 as one; select 2 as two`.simple();
  assert.deepEqual(results.map((each) => each.command), ["INSERT", "SELECT", "SELECT"]);
  assert.equal(await sqlstate(sql`insert into ${table} values (51); select 1/0; select 2`.simple()), "22012");
  assert.equal(await value(sql`select count(*)::int from ${table} where id in (50, 51)`), 1);
});

await step("copy in", async () => {
  const lines = [...Array(5000).keys()].map((number) => `${number + 1000}\tname ${number} \\\\ ü\n`);
  await pipeline(Readable.from(lines), await sql`copy ${table} from stdin`.writable());
  // Once such a stream has ended, this driver waits for ever after an error: it stays open.
  const bad = await sql`copy ${table} from stdin`.writable();
  bad.write("9\tgood\n");
  bad.write("bad\tbad\n");
  assert.equal(await sqlstate(once(bad, "end")), "22P02");
  const given = await sql`copy ${table} from stdin`.writable();
  given.write("9\tgood\n");
  given.destroy(Object.assign(new Error("given up"), { code: "GIVUP" }));
  assert.equal(await sqlstate(once(given, "end")), "GIVUP");
  assert.equal(await value(sql`select count(*)::int from ${table} where id >= 1000 or id = 9`), 5000);
});

await step("copy out", async () => {
  const chunks = [];
  // This driver may leave the socket paused behind the last row, whoever is at its other end.
  const reader = postgres(quiet);
  const query = reader`copy (select * from ${reader("postgres_js")} where id >= 1000 order by id) to stdout`;
  for await (const chunk of await query.readable()) chunks.push(chunk);
  const lines = Buffer.concat(chunks).toString().split("\n");
  assert.equal(lines.length, 5001);
  assert.equal(lines[4999], "5999\tname 4999 \\\\ ü");
  await reader.end({ timeout: 0 });
});

await step("cancel", async () => {
  const query = sql`select pg_sleep(60) /* postgres_js */`.execute();
  await until("running query", async () => {
    const [row] = await other`
      select count(*)::int as running from pg_stat_activity
      where state = 'active' and query like ${"select pg_sleep(60) /* postgres_js%"} and pid <> pg_backend_pid()`;
    return row.running;
  });
  query.cancel();
  assert.equal(await sqlstate(query), "57014");
  assert.equal(await value(sql`select 'goes on'`), "goes on");
});

await step("errors", async () => {
  for (let turn = 0; turn < 3; turn += 1) {
    assert.equal(await sqlstate(sql`insert into ${table} values (${1})`), "23505");
    assert.equal(await sqlstate(sql`selekt 1`), "42601");
    assert.equal(await sqlstate(sql`select ${"not a number"}::text::int`), "22P02");
    assert.equal(await sqlstate(sql`select * from no_such_table`), "42P01");
  }
  assert.equal(await value(sql`select 'goes on'`), "goes on");
});

await step("types", async () => {
  const bytes = Buffer.from([0, 1, 39, 92, 255]);
  const when = new Date("2020-02-29T12:34:56.789Z");
  const text = "Grüße 😀 ' \\ \"";
  for (let turn = 0; turn < 2; turn += 1) {
    const [row] = await sql`
      select ${"9007199254740993"}::int8 as big, ${"12345678901234567890.123456789"}::numeric as exact,
        ${text}::text as text, ${bytes}::bytea as bytes, ${when}::timestamptz as when,
        ${sql.array([1, 2, 3])}::int[] as numbers, ${["a,b", "{}", '"']}::text[] as texts,
        ${sql.json({ a: [1, null, "ü"] })} as json,
        ${null}::text as nothing, ${1.5}::float8 as float, ${true}::bool as yes`;
    assert.equal(row.big, "9007199254740993");
    assert.equal(row.exact, "12345678901234567890.123456789");
    assert.equal(row.text, text);
    assert.deepEqual(row.bytes, bytes);
    assert.equal(row.when.getTime(), when.getTime());
    assert.deepEqual(row.numbers, [1, 2, 3]);
    assert.deepEqual(row.texts, ["a,b", "{}", '"']);
    assert.deepEqual(row.json, { a: [1, null, "ü"] });
    assert.deepEqual([row.nothing, row.float, row.yes], [null, 1.5, true]);
  }
  const description = await sql`select 1::int8 as big, ${"x"}::text as text`.describe();
  assert.deepEqual(description.columns.map((each) => [each.name, each.type]), [["big", 20], ["text", 25]]);
});

await step("listen and notify", async () => {
  const heard = [];
  const listening = await sql.listen("postgres_js", (payload) => heard.push(payload));
  await other.notify("postgres_js", "first");
  await other.begin((transaction) => transaction`select pg_notify('postgres_js', 'second')`);
  await until("notifications", () => heard.length >= 2);
  assert.deepEqual(heard, ["first", "second"]);
  await listening.unlisten();
});

await step("50,000 rows", async () => {
  const rows = await sql`select n, n::text || ' row' as row from generate_series(1, 50000) n`;
  assert.equal(rows.length, 50_000);
  assert.deepEqual({ ...rows[49_999] }, { n: 50_000, row: "50000 row" });
});

await step("50,000 rows by a cursor", async () => {
  let count = 0;
  for await (const rows of sql`select n from generate_series(1, ${50_000}::int) n`.cursor(1000)) {
    for (const row of rows) assert.equal(row.n, (count += 1));
  }
  assert.equal(count, 50_000);
  for await (const rows of sql`select n from generate_series(1, ${50_000}::int) n`.cursor(10)) {
    assert.equal(rows.length, 10);
    break;
  }
  assert.equal(await value(sql`select 'goes on'`), "goes on");
});

await step("settings and temporary tables", async () => {
  await sql`set timezone to 'Asia/Tokyo'`;
  await crowded(async () => assert.equal(await value(sql`show timezone`), "Asia/Tokyo"));
  assert.notEqual(await value(other`show timezone`), "Asia/Tokyo");
  await sql`reset timezone`;
  await sql`create temporary table postgres_js_temporary (id int)`;
  await sql`insert into postgres_js_temporary values (1)`;
  assert.equal(await value(sql`select count(*)::int from postgres_js_temporary`), 1);
  assert.equal(await sqlstate(other`select * from postgres_js_temporary`), "42P01");
  await sql`drop table postgres_js_temporary`;
});

await step("leave", async () => {
  await sql`drop table ${table}`;
  await sql.end();
  await other.end();
});

finish();
