// node-postgres (pg) with its cursors and COPY streams.

"use strict";

const { Readable } = require("node:stream");
const { pipeline } = require("node:stream/promises");
const { Client, types } = require("pg");
const Cursor = require("pg-cursor");
const copy = require("pg-copy-streams");
const { assert, finish, sqlstate, step, until } = require("./steps.js");

const TABLE = "node_postgres";
const RUNNING =
  "select 1 from pg_stat_activity where state = 'active' and query like $1 and pid <> pg_backend_pid()";

async function connected(options = {}) {
  const client = new Client(options);
  await client.connect();
  return client;
}

async function value(client, ...query) {
  const { rows } = await client.query(...query);
  return Object.values(rows[0])[0];
}

async function main() {
  let client, other;

  await step("connect", async () => {
    client = await connected();
    other = await connected();
    assert.equal(await value(client, "select current_user::text"), process.env.PGUSER);
    await client.query(`drop table if exists ${TABLE}`);
    await client.query(`create table ${TABLE} (id int primary key, name text)`);
  });

  await step("unknown database", async () => {
    assert.equal(await sqlstate(connected({ database: "no_such_database" })), "3D000");
  });

  await step("wrong password", async () => {
    assert.equal(await sqlstate(connected({ password: "wrong" })), "28P01");
  });

  await step("transaction with a savepoint", async () => {
    await client.query("begin");
    await client.query(`insert into ${TABLE} values ($1, $2)`, [1, "kept"]);
    await client.query("savepoint s");
    assert.equal(await sqlstate(client.query(`insert into ${TABLE} values (1, 'twice')`)), "23505");
    assert.equal(await sqlstate(client.query("select 1")), "25P02");
    await client.query("rollback to savepoint s");
    await client.query(`insert into ${TABLE} values (2, 'kept')`);
    await client.query("commit");
    await client.query("begin");
    await client.query(`delete from ${TABLE}`);
    await client.query("rollback");
    assert.equal(await value(client, `select count(*) from ${TABLE}`), "2");
  });

  await step("prepared statements", async () => {
    const pids = new Set();
    for (let turn = 0; turn < 20; turn += 1) {
      if (turn % 2) await other.query("begin; select 1");
      const { rows } = await client.query({
        name: "shared name",
        text: "select pg_backend_pid() as pid, $1::int * 2 as twice",
        values: [turn],
      });
      if (turn % 2) {
        const theirs = { name: "shared name", text: "select $1::text as name", values: ["theirs"] };
        assert.equal(await value(other, theirs), "theirs");
        await other.query("commit");
      }
      assert.equal(rows[0].twice, turn * 2);
      pids.add(rows[0].pid);
    }
    await client.query("begin");
    const named = { name: "named", text: "select $1::text || ' node_postgres'", values: ["named"] };
    assert.equal(await value(client, named), "named node_postgres");
    const prepared = "select count(*) from pg_prepared_statements where not from_sql and statement = $1";
    assert.equal(await value(client, prepared, [named.text]), "1");
    await client.query("commit");
    console.log(`connections ${pids.size}`);
  });

  await step("many queries at once", async () => {
    const queries = [];
    for (let number = 0; number < 300; number += 1) {
      if (number === 150) queries.push(sqlstate(client.query("select 1 / $1::int", [0])));
      else queries.push(value(client, "select $1::int", [number]));
    }
    const found = await Promise.all(queries);
    assert.deepEqual(found, [...Array(300).keys()].map((number) => (number === 150 ? "22012" : number)));
  });

  await step("pipeline with an error in the middle", async () => {
    const quick = await connected({ pipeline: true });
    const queries = [];
    for (let number = 0; number < 300; number += 1) {
      const name = number % 3 ? `pipelined ${number % 7}` : undefined;
      if (number % 100 === 50) queries.push(sqlstate(quick.query("select 1 / $1::int", [0])));
      else if (number % 100 === 51) queries.push(sqlstate(quick.query("select nonsense")));
      else if (name) queries.push(value(quick, { name, text: `select $1::int + ${number % 7}`, values: [number] }));
      else queries.push(value(quick, "select $1::int", [number]));
    }
    const expected = [...Array(300).keys()].map((number) => {
      if (number % 100 === 50) return "22012";
      if (number % 100 === 51) return "42703";
      return number % 3 ? number + (number % 7) : number;
    });
    assert.deepEqual(await Promise.all(queries), expected);
    await quick.end();
  });

  await step("several statements in one query", async () => {
    const results = await client.query(`insert into ${TABLE} values (50, 'x'); select 1 as one; select 2 as two`);
    assert.deepEqual(results.map((each) => each.command), ["INSERT", "SELECT", "SELECT"]);
    const broken = `insert into ${TABLE} values (51, 'x'); select 1/0; select 2`;
    assert.equal(await sqlstate(client.query(broken)), "22012");
    assert.equal(await value(client, `select count(*) from ${TABLE} where id >= 50`), "1");
  });

  await step("copy in", async () => {
    const lines = [...Array(5000).keys()].map((number) => `${number + 1000}\tname ${number} \\\\ ü\n`);
    const target = client.query(copy.from(`copy ${TABLE} from stdin`));
    await pipeline(Readable.from(lines), target);
    assert.equal(target.rowCount, 5000);
    const bad = client.query(copy.from(`copy ${TABLE} from stdin`));
    assert.equal(await sqlstate(pipeline(Readable.from(["9\tgood\n", "not a number\tbad\n"]), bad)), "22P02");
    assert.equal(await value(client, `select count(*) from ${TABLE} where id >= 1000 or id = 9`), "5000");
  });

  await step("copy out", async () => {
    const chunks = [];
    const source = client.query(copy.to(`copy (select * from ${TABLE} where id >= 1000 order by id) to stdout`));
    for await (const chunk of source) chunks.push(chunk);
    const lines = Buffer.concat(chunks).toString().split("\n");
    assert.equal(lines.length, 5001);
    assert.equal(lines[4999], "5999\tname 4999 \\\\ ü");
  });

  await step("cancel", async () => {
    const { Query } = require("pg");
    let ended;
    const over = new Promise((resolve, reject) => (ended = (error) => (error ? reject(error) : resolve())));
    const query = new Query("select pg_sleep(60) /* node_postgres */", ended);
    client.query(query);
    await until("running query", async () => {
      return (await other.query(RUNNING, ["select pg_sleep(60) /* node_postgres%"])).rows.length;
    });
    new Client().cancel(client, query);
    assert.equal(await sqlstate(over), "57014");
    assert.equal(await value(client, "select 'goes on'"), "goes on");
  });

  await step("errors", async () => {
    assert.equal(await sqlstate(client.query(`insert into ${TABLE} values ($1)`, [1])), "23505");
    assert.equal(await sqlstate(client.query("selekt 1")), "42601");
    assert.equal(await sqlstate(client.query("select $1::int", ["not a number"])), "22P02");
    assert.equal(await sqlstate(client.query({ name: "bad", text: "select * from no_such_table" })), "42P01");
    assert.equal(await sqlstate(client.query({ name: "bad", text: "select * from no_such_table" })), "42P01");
    assert.equal(await value(client, "select 'goes on'"), "goes on");
  });

  await step("types", async () => {
    const when = new Date("2020-02-29T12:34:56.789Z");
    const bytes = Buffer.from([0, 1, 39, 92, 255]);
    const values = ["9007199254740993", "12345678901234567890.123456789", "Grüße 😀 ' \\ \"", bytes, when];
    values.push([1, null, 3], ["a,b", "{}", null, '"'], { a: [1, null, "ü"] }, null, 1.5, true);
    const casts = "int8 numeric text bytea timestamptz int[] text[] jsonb text float8 bool".split(" ");
    const list = casts.map((cast, index) => `$${index + 1}::${cast}`).join(", ");
    for (const name of [undefined, "types"]) {
      const { rows, fields } = await client.query({ name, text: `select ${list}`, values, rowMode: "array" });
      assert.deepEqual(rows, [values]);
      assert.equal(fields[0].dataTypeID, types.builtins.INT8);
    }
    const binary = new Client({ binary: true });
    await binary.connect();
    assert.equal(await value(binary, "select $1::int4", [7]), 7);
    await binary.end();
  });

  await step("listen and notify", async () => {
    const heard = [];
    client.on("notification", (message) => heard.push(`${message.channel} ${message.payload}`));
    await client.query("listen node_postgres");
    await other.query("select pg_notify('node_postgres', 'first')");
    await other.query("begin; notify node_postgres, 'second'; commit");
    await until("notifications", () => heard.length >= 2);
    assert.deepEqual(heard, ["node_postgres first", "node_postgres second"]);
    await client.query("unlisten *");
  });

  await step("50,000 rows", async () => {
    const { rows } = await client.query("select n, n::text || ' row' as row from generate_series(1, 50000) n");
    assert.equal(rows.length, 50_000);
    assert.deepEqual(rows[49_999], { n: 50_000, row: "50000 row" });
  });

  await step("50,000 rows by a cursor", async () => {
    const cursor = client.query(new Cursor("select n from generate_series(1, $1) n", [50_000]));
    let count = 0;
    for (;;) {
      const rows = await cursor.read(1000);
      if (!rows.length) break;
      for (const row of rows) assert.equal(row.n, (count += 1));
    }
    assert.equal(count, 50_000);
    const broken = client.query(new Cursor("select n from generate_series(1, $1) n", [50_000]));
    assert.equal((await broken.read(10)).length, 10);
    await broken.close();
    assert.equal(await value(client, "select 'goes on'"), "goes on");
  });

  await step("settings and temporary tables", async () => {
    await client.query("set timezone to 'Asia/Tokyo'");
    await other.query("begin; select 1");
    assert.equal(await value(client, "show timezone"), "Asia/Tokyo");
    assert.notEqual(await value(other, "show timezone"), "Asia/Tokyo");
    await other.query("commit");
    await client.query("reset timezone");
    await client.query("create temporary table node_temporary (id int)");
    await client.query("insert into node_temporary values (1)");
    assert.equal(await value(client, "select count(*) from node_temporary"), "1");
    assert.equal(await sqlstate(other.query("select * from node_temporary")), "42P01");
    await client.query("drop table node_temporary");
  });

  await step("leave", async () => {
    await client.query(`drop table ${TABLE}`);
    await client.end();
    await other.end();
  });
}

main().finally(finish);
