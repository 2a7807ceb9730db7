// What the programs for Node share: steps with a line each, and what to wait for.

"use strict";

const assert = require("node:assert/strict");

let failures = 0;

async function step(name, work) {
  try {
    await work();
    console.log(`ok ${name}`);
  } catch (error) {
    failures += 1;
    console.log(`FAILED ${name}: ${String((error && error.message) || error).split("\n").join(" | ")}`);
  }
}

/** The error's SQLSTATE; whatever else comes of the promise is a failure. */
async function sqlstate(promise) {
  try {
    await promise;
  } catch (error) {
    assert.match(String(error.code), /^[0-9A-Z]{5}$/, `no SQLSTATE: ${error.message}`);
    return error.code;
  }
  throw new Error("there was no error");
}

/** Until the condition holds, ten seconds at most. */
async function until(what, condition) {
  const end = Date.now() + 10_000;
  while (!(await condition())) {
    if (Date.now() > end) throw new Error(`no ${what} within ten seconds`);
    await new Promise((resolve) => setTimeout(resolve, 5));
  }
}

function finish() {
  process.exit(failures ? 1 : 0); // what a failed step has left open would keep the process
}

module.exports = { assert, finish, sqlstate, step, until };
