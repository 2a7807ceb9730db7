// pgx by itself: binary formats, a cache of prepared statements, batches in one pipeline, COPY.

package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/jackc/pgconn"
	"github.com/jackc/pgtype"
	"github.com/jackc/pgx/v4"
)

const running = "select count(*) from pg_stat_activity where state = 'active' and query like $1"

var background = context.Background()

func fails(sqlstate string, err error) {
	var found *pgconn.PgError
	if !errors.As(err, &found) || found.Code != sqlstate {
		panic(fmt.Sprintf("%v in place of %s", err, sqlstate))
	}
}

func connect(options string) (*pgx.Conn, error) {
	return pgx.Connect(background, "sslmode=disable "+options)
}

func execute(client *pgx.Conn, query string, values ...interface{}) {
	must(executing(client, query, values...))
}

func executing(client *pgx.Conn, query string, values ...interface{}) error {
	_, err := client.Exec(background, query, values...)
	return err
}

func number(client *pgx.Conn, query string, values ...interface{}) (found int) {
	must(client.QueryRow(background, query, values...).Scan(&found))
	return found
}

func text(client *pgx.Conn, query string, values ...interface{}) (found string) {
	must(client.QueryRow(background, query, values...).Scan(&found))
	return found
}

// crowded does the work while the other client holds a transaction, and so a connection of its own.
func crowded(other *pgx.Conn, work func()) {
	must(other.BeginFunc(background, func(transaction pgx.Tx) error {
		_, err := transaction.Exec(background, "select 1")
		work()
		return err
	}))
}

func batch(count int, bad int) *pgx.Batch {
	queries := &pgx.Batch{}
	for at := 0; at < count; at++ {
		if at == bad {
			queries.Queue("select 1 / $1::int", 0)
		} else {
			queries.Queue("insert into pgx values ($1, $2) returning id", 100+at, "batch")
		}
	}
	return queries
}

func main() {
	var client, other *pgx.Conn
	var err error

	step("connect", func() {
		client, err = connect("")
		must(err)
		other, err = connect("")
		must(err)
		same(text(client, "select current_user::text"), os.Getenv("PGUSER"))
		execute(client, "drop table if exists pgx")
		execute(client, "create table pgx (id int primary key, name text)")
	})
	step("unknown database", func() {
		_, err := connect("dbname=no_such_database")
		fails("3D000", err)
	})
	step("wrong password", func() {
		_, err := connect("password=wrong")
		fails("28P01", err)
	})

	step("transaction with a savepoint", func() {
		must(client.BeginFunc(background, func(transaction pgx.Tx) error {
			_, err := transaction.Exec(background, "insert into pgx values (1, 'kept')")
			must(err)
			fails("23505", transaction.BeginFunc(background, func(nested pgx.Tx) error {
				_, err := nested.Exec(background, "insert into pgx values (1, 'twice')")
				return err
			}))
			_, err = transaction.Exec(background, "insert into pgx values (2, 'kept')")
			return err
		}))
		fails("25006", client.BeginTxFunc(background, pgx.TxOptions{AccessMode: pgx.ReadOnly}, func(each pgx.Tx) error {
			_, err := each.Exec(background, "delete from pgx")
			return err
		}))
		same(number(client, "select count(*) from pgx"), 2)
	})

	step("prepared statements", func() {
		pids := map[int]bool{}
		for turn := 0; turn < 20; turn++ {
			work := func() {
				var pid, twice int
				row := client.QueryRow(background, "select pg_backend_pid(), $1::int * 2", turn)
				must(row.Scan(&pid, &twice))
				same(twice, turn*2)
				pids[pid] = true
			}
			if turn%2 == 1 {
				crowded(other, work)
			} else {
				work()
			}
		}
		fmt.Println("connections", len(pids))
		_, err := client.Prepare(background, "named", "select $1::text || ' pgx'")
		must(err)
		execute(client, "begin")
		same(text(client, "named", "named"), "named pgx")
		count := "select count(*) from pg_prepared_statements where not from_sql and statement = $1"
		same(number(client, count, "select $1::text || ' pgx'"), 1)
		execute(client, "commit")
	})

	step("deallocate by SQL", func() {
		for _, query := range []string{"select 'first'", "select 'second'"} {
			_, err := client.Prepare(background, "again", query)
			must(err)
			same(text(client, "again"), strings.Split(query, "'")[1])
			must(client.Deallocate(background, "again"))
		}
	})

	step("more statements than the cache keeps", func() {
		small, err := connect("statement_cache_capacity=5")
		must(err)
		for turn := 0; turn < 60; turn++ {
			query := fmt.Sprintf("select %d + $1::int", turn%20)
			same(number(small, query, turn), turn%20+turn)
		}
		must(small.Close(background))
	})

	step("descriptions in place of statements", func() {
		describing, err := connect("statement_cache_mode=describe")
		must(err)
		for turn := 0; turn < 10; turn++ {
			same(number(describing, "select $1::int * 3", turn), turn*3)
		}
		must(describing.Close(background))
	})

	step("batch with an error in the middle", func() {
		results := client.SendBatch(background, batch(200, 100))
		for at := 0; at < 100; at++ {
			var id int
			must(results.QueryRow().Scan(&id))
			same(id, 100+at)
		}
		_, err := results.Exec()
		fails("22012", err)
		fails("22012", results.Close())
		same(number(client, "select count(*) from pgx where id >= 100"), 0)
		results = client.SendBatch(background, batch(200, -1))
		for at := 0; at < 200; at++ {
			_, err := results.Exec()
			must(err)
		}
		must(results.Close())
		same(number(client, "select count(*) from pgx where id >= 100"), 200)
	})

	step("copy in", func() {
		rows := make([][]interface{}, 5000)
		for at := range rows {
			rows[at] = []interface{}{1000 + at, fmt.Sprintf("name %d \\ ü", at)}
		}
		columns := []string{"id", "name"}
		count, err := client.CopyFrom(background, pgx.Identifier{"pgx"}, columns, pgx.CopyFromRows(rows))
		must(err)
		same(count, int64(5000))
		_, err = client.CopyFrom(background, pgx.Identifier{"pgx"}, columns, pgx.CopyFromRows(rows[4000:]))
		fails("23505", err)
		bad := &strings.Builder{}
		for at := 0; at < 10000; at++ {
			fmt.Fprintf(bad, "%d\tgood\n", 10000+at)
		}
		bad.WriteString("not a number\tbad\n")
		_, err = client.PgConn().CopyFrom(background, strings.NewReader(bad.String()), "copy pgx from stdin")
		fails("22P02", err)
		same(number(client, "select count(*) from pgx where id >= 1000"), 5000)
	})

	step("copy out", func() {
		var out bytes.Buffer
		query := "copy (select * from pgx where id >= 1000 order by id) to stdout"
		tag, err := client.PgConn().CopyTo(background, &out, query)
		must(err)
		same(tag.RowsAffected(), int64(5000))
		same(strings.Split(out.String(), "\n")[4999], "5999\tname 4999 \\\\ ü")
	})

	step("cancel", func() {
		over := make(chan error)
		go func() {
			over <- executing(client, "select pg_sleep(60) /* pgx */")
		}()
		until("running query", func() bool { return number(other, running, "select pg_sleep(60) /* pgx%") > 0 })
		must(client.PgConn().CancelRequest(background))
		fails("57014", <-over)
		same(text(client, "select 'goes on'"), "goes on")
	})

	step("a context that ends", func() {
		leaving, err := connect("")
		must(err)
		context, cancel := context.WithCancel(background)
		over := make(chan error)
		go func() {
			_, err := leaving.Exec(context, "select pg_sleep(61) /* pgx */")
			over <- err
		}()
		count := func() int { return number(other, running, "select pg_sleep(61) /* pgx%") }
		until("running query", func() bool { return count() > 0 })
		cancel()
		same(<-over != nil, true)
		until("end of the query", func() bool { return count() == 0 })
	})

	step("errors", func() {
		for turn := 0; turn < 5; turn++ {
			fails("23505", executing(client, "insert into pgx values ($1)", 1))
			fails("42601", executing(client, "selekt 1"))
			fails("42601", executing(client, "selekt $1", 1))
			fails("42P01", executing(client, "select * from no_such_table where id = $1", 1))
			fails("22P02", executing(client, "select $1::text::int", "not a number"))
		}
		same(text(client, "select 'goes on'"), "goes on")
	})

	step("types", func() {
		when := time.Date(2020, 2, 29, 12, 34, 56, 789_000_000, time.UTC)
		query := `select $1::int8, ($2::text)::numeric, $3::text, $4::bytea, $5::timestamptz, $6::int[], $7::text[],
			$8::jsonb, $9::text, $10::float8, $11::bool`
		for _, mode := range []pgx.QuerySimpleProtocol{false, true} {
			var big int64
			var exact pgtype.Numeric
			var name string
			var found []byte
			var at time.Time
			var numbers pgtype.Int4Array
			var texts []string
			var document map[string]interface{}
			var nothing *string
			var float float64
			var yes bool
			must(numbers.Set([]int32{1, -2, 3}))
			row := client.QueryRow(background, query, mode, int64(9007199254740993), "12345678901234567890.123456789",
				"Grüße 😀 ' \\ \"", []byte{0, 1, 39, 92, 255}, when, numbers, []string{"a,b", "{}", "\""},
				`{"a": [1, null, "ü"]}`, nil, 1.5, true)
			numbers = pgtype.Int4Array{}
			must(row.Scan(&big, &exact, &name, &found, &at, &numbers, &texts, &document, &nothing, &float, &yes))
			same(big, int64(9007199254740993))
			digits, err := exact.EncodeText(nil, nil)
			must(err)
			same(string(digits), "12345678901234567890123456789e-9")
			same(name, "Grüße 😀 ' \\ \"")
			same(found, []byte{0, 1, 39, 92, 255})
			same(at.Equal(when), true)
			same([]int32{numbers.Elements[0].Int, numbers.Elements[1].Int, numbers.Elements[2].Int}, []int32{1, -2, 3})
			same(texts, []string{"a,b", "{}", "\""})
			same(document["a"], []interface{}{float64(1), nil, "ü"})
			same([]interface{}{nothing == nil, float, yes}, []interface{}{true, 1.5, true})
		}
	})

	step("listen and notify", func() {
		execute(client, "listen pgx")
		execute(other, "select pg_notify('pgx', $1)", "first")
		execute(other, "notify pgx, 'second'")
		for _, expected := range []string{"first", "second"} {
			context, cancel := context.WithTimeout(background, 10*time.Second)
			notification, err := client.WaitForNotification(context)
			cancel()
			must(err)
			same(notification.Payload, expected)
		}
		execute(client, "unlisten *")
	})

	step("50,000 rows", func() {
		rows, err := client.Query(background, "select n, n::text || ' row' from generate_series(1, $1) n", 50000)
		must(err)
		count := 0
		for rows.Next() {
			var number int
			var name string
			must(rows.Scan(&number, &name))
			count++
			same(name, fmt.Sprintf("%d row", count))
		}
		must(rows.Err())
		same(count, 50000)
	})

	step("settings and temporary tables", func() {
		execute(client, "set timezone to 'Asia/Tokyo'")
		crowded(other, func() { same(text(client, "show timezone"), "Asia/Tokyo") })
		same(client.PgConn().ParameterStatus("TimeZone"), "Asia/Tokyo")
		same(text(other, "show timezone") == "Asia/Tokyo", false)
		execute(client, "reset timezone")
		execute(client, "create temporary table pgx_temporary (id int)")
		execute(client, "insert into pgx_temporary values (1)")
		same(number(client, "select count(*) from pgx_temporary"), 1)
		fails("42P01", executing(other, "select * from pgx_temporary"))
		execute(client, "drop table pgx_temporary")
	})

	step("leave", func() {
		execute(client, "drop table pgx")
		must(client.Close(background))
		must(other.Close(background))
	})
	finish()
}
