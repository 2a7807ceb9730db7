# Ruby's pg: libpq with named statements, pipelines, COPY, cancel.

require "json"
require "pg"
require "time"

TABLE = "ruby_pg"
$stdout.sync = true
$failed = false

def step(name)
  yield
  puts "ok #{name}"
rescue StandardError => error
  $failed = true
  puts "FAILED #{name}: #{error.class} #{error.message.gsub("\n", " | ")}"
end

def same(found, expected)
  raise "found #{found.inspect}, expected #{expected.inspect}" unless found == expected
end

def fails(sqlstate)
  yield
rescue PG::Error => error
  found = error.result&.error_field(PG::PG_DIAG_SQLSTATE)
  raise "#{found.inspect}: #{error.message}" unless found == sqlstate
else
  raise "there was no error"
end

def wait_until(what)
  limit = Process.clock_gettime(Process::CLOCK_MONOTONIC) + 10
  until yield
    raise "no #{what} within ten seconds" if Process.clock_gettime(Process::CLOCK_MONOTONIC) > limit

    sleep 0.005
  end
end

def value(client, sql, *parameters)
  (parameters.empty? ? client.exec(sql) : client.exec_params(sql, parameters)).getvalue(0, 0)
end

client = other = nil
# Do the work while the other client holds a transaction, and so a connection of its own.
crowded = lambda do |&work|
  other.transaction do
    other.exec("select 1")
    work.call
  end
end

step "connect" do
  client = PG.connect
  other = PG.connect
  same value(client, "select current_user::text"), ENV.fetch("PGUSER")
  client.exec("set client_min_messages = warning; drop table if exists #{TABLE}; reset client_min_messages")
  client.exec("create table #{TABLE} (id int primary key, name text)")
end

# libpq has no result for a failed login, so that the message has to do.
step "unknown database" do
  PG.connect(dbname: "no_such_database")
  raise "there was no error"
rescue PG::ConnectionBad => error
  same error.message[/database "no_such_database" does not exist/].nil?, false
end

step "wrong password" do
  PG.connect(password: "wrong")
  raise "there was no error"
rescue PG::ConnectionBad => error
  same error.message[/password authentication failed for user "#{ENV.fetch("PGUSER")}"/].nil?, false
end

step "transaction with a savepoint" do
  client.transaction do
    client.exec("insert into #{TABLE} values (1, 'kept')")
    client.exec("savepoint s")
    fails("23505") { client.exec("insert into #{TABLE} values (1, 'twice')") }
    fails("25P02") { client.exec("select 1") }
    same client.transaction_status, PG::PQTRANS_INERROR
    client.exec("rollback to savepoint s")
    client.exec_params("insert into #{TABLE} values ($1, $2)", [2, "kept"])
  end
  fails("22012") do
    client.transaction do
      client.exec("delete from #{TABLE}")
      client.exec("select 1/0")
    end
  end
  same client.transaction_status, PG::PQTRANS_IDLE
  same value(client, "select count(*) from #{TABLE}"), "2"
end

step "prepared statements" do
  pids = {}
  client.prepare("name", "select pg_backend_pid(), $1::int * 2")
  other.prepare("name", "select $1::text || ' theirs'")
  20.times do |turn|
    work = lambda do
      pid, twice = client.exec_prepared("name", [turn]).values.first
      same twice, (turn * 2).to_s
      pids[pid] = true
    end
    turn.odd? ? crowded.call(&work) : work.call
    same other.exec_prepared("name", ["is"]).getvalue(0, 0), "is theirs"
  end
  puts "connections #{pids.size}"
  same client.describe_prepared("name").fields, ["pg_backend_pid", "?column?"]
  client.prepare("named", "select $1::text || ' ruby_pg'")
  client.transaction do
    same client.exec_prepared("named", ["named"]).getvalue(0, 0), "named ruby_pg"
    count = "select count(*) from pg_prepared_statements where not from_sql and statement = $1"
    same value(client, count, "select $1::text || ' ruby_pg'"), "1"
  end
  fails("42P05") { client.prepare("name", "select 1") }
end

# As Active Record does with what its cache has no room for.
step "deallocate by SQL" do
  2.times do |turn|
    client.prepare("again", "select #{turn}")
    same client.exec_prepared("again").getvalue(0, 0), turn.to_s
    client.exec("deallocate again")
  end
end

step "pipeline with an error in the middle" do
  client.enter_pipeline_mode
  300.times do |number|
    client.send_query_params("select $1::int / $2::int", [number, number == 150 ? 0 : 1])
    client.pipeline_sync if (number % 50) == 49
  end
  found = []
  6.times do
    loop do
      result = client.get_result or next
      break if result.result_status == PG::PGRES_PIPELINE_SYNC

      case result.result_status
      when PG::PGRES_TUPLES_OK then found << result.getvalue(0, 0)
      when PG::PGRES_PIPELINE_ABORTED then found << "aborted"
      else found << result.error_field(PG::PG_DIAG_SQLSTATE)
      end
    end
  end
  client.exit_pipeline_mode
  same found, (0...300).map { |n| n == 150 ? "22012" : (151..199).cover?(n) ? "aborted" : n.to_s }
end

step "several statements in one query" do
  client.send_query("insert into #{TABLE} values (50); select 1; select 2")
  tags = []
  while (result = client.get_result)
    tags << result.cmd_status
  end
  same tags, ["INSERT 0 1", "SELECT 1", "SELECT 1"]
  fails("22012") { client.exec("insert into #{TABLE} values (51); select 1/0; select 2") }
  same value(client, "select count(*) from #{TABLE} where id in (50, 51)"), "1"
end

step "copy in" do
  client.copy_data("copy #{TABLE} from stdin", PG::TextEncoder::CopyRow.new) do
    5000.times { |number| client.put_copy_data([(number + 1000).to_s, "name\t#{number} \\ ü"]) }
  end
  fails("22P02") do
    client.copy_data("copy #{TABLE} from stdin") { client.put_copy_data("9\tgood\nnot a number\tbad\n") }
  end
  begin
    client.copy_data("copy #{TABLE} from stdin") { raise IOError, "given up" }
  rescue IOError
    client.discard_results
    same client.transaction_status, PG::PQTRANS_IDLE
  end
  same value(client, "select count(*) from #{TABLE} where id >= 1000 or id = 9"), "5000"
end

step "copy out" do
  rows = []
  query = "copy (select * from #{TABLE} where id >= 1000 order by id) to stdout"
  client.copy_data(query, PG::TextDecoder::CopyRow.new) do
    while (row = client.get_copy_data)
      rows << row
    end
  end
  same rows.size, 5000
  same rows.last, ["5999", "name\t4999 \\ ü"]
end

step "cancel" do
  client.send_query("select pg_sleep(60) /* ruby_pg */")
  running = "select count(*) from pg_stat_activity where state = 'active' and query like $1"
  wait_until("running query") { value(other, running, "select pg_sleep(60) /* ruby_pg%") == "1" }
  same client.cancel, nil
  fails("57014") { client.get_last_result }
  same value(client, "select 'goes on'"), "goes on"
end

step "errors" do
  fails("23505") { client.exec_params("insert into #{TABLE} values ($1)", [1]) }
  fails("42601") { client.exec("selekt 1") }
  fails("42601") { client.exec_params("selekt $1", [1]) }
  fails("42P01") { client.prepare("bad", "select * from no_such_table") }
  fails("26000") { client.exec_prepared("bad") }
  same value(client, "select 'goes on'"), "goes on"
end

step "types" do
  when_ = Time.utc(2020, 2, 29, 12, 34, Rational(56_789, 1000))
  bytes = [0, 1, 39, 92, 255].pack("C*")
  list = [
    [9_007_199_254_740_993, "int8"], ["12345678901234567890.123456789", "numeric"], ["Grüße 😀 ' \\ \"", "text"],
    [{ value: bytes, format: 1 }, "bytea"], [when_.iso8601(3), "timestamptz"], ["{1,NULL,3}", "int[]"],
    ['{"a,b","{}",NULL}', "text[]"], [JSON.generate({ a: [1, nil, "ü"] }), "jsonb"], [nil, "text"], [1.5, "float8"],
    [true, "bool"]
  ]
  sql = "select " + list.each_with_index.map { |(_, type), index| "$#{index + 1}::#{type}" }.join(", ")
  result = client.exec_params(sql, list.map(&:first))
  result.type_map = PG::BasicTypeMapForResults.new(client)
  big, exact, text, found, at, numbers, texts, document, nothing, float, yes = result.values.first
  same [big, exact.to_s("F"), text, found], [9_007_199_254_740_993, list[1][0], list[2][0], bytes]
  same at, when_
  same [numbers, texts, document], [[1, nil, 3], ["a,b", "{}", nil], { "a" => [1, nil, "ü"] }]
  same [nothing, float, yes], [nil, 1.5, true]
  binary = client.exec_params("select $1::int8, $2::bytea", ["-7", { value: bytes, format: 1 }], 1)
  same binary.values.first, [[-7].pack("q>"), bytes]
end

step "listen and notify" do
  client.exec("listen ruby_pg")
  other.exec_params("select pg_notify('ruby_pg', $1)", ["first"])
  other.exec("notify ruby_pg, 'second'")
  heard = Array.new(2) { client.wait_for_notify(10) { |_, _, payload| break payload } }
  same heard, %w[first second]
  client.exec("unlisten *")
end

step "50,000 rows" do
  rows = client.exec_params("select n, n::text || ' row' from generate_series(1, $1::int) n", [50_000]).values
  same [rows.size, rows.last], [50_000, ["50000", "50000 row"]]
end

step "50,000 rows one by one" do
  client.send_query("select n from generate_series(1, 50000) n")
  client.set_single_row_mode
  sum = 0
  client.get_result.stream_each_row { |(number)| sum += number.to_i }
  client.get_result
  same sum, 50_000 * 50_001 / 2
end

step "settings and temporary tables" do
  client.exec("set timezone to 'Asia/Tokyo'")
  crowded.call { same value(client, "show timezone"), "Asia/Tokyo" }
  same client.parameter_status("TimeZone"), "Asia/Tokyo"
  same value(other, "show timezone") == "Asia/Tokyo", false
  client.exec("reset timezone")
  client.exec("create temporary table ruby_temporary (id int)")
  client.exec("insert into ruby_temporary values (1)")
  same value(client, "select count(*) from ruby_temporary"), "1"
  fails("42P01") { other.exec("select * from ruby_temporary") }
  client.exec("drop table ruby_temporary")
end

step "leave" do
  client.exec("drop table #{TABLE}")
  client.close
  other.close
end

exit($failed ? 1 : 0)
