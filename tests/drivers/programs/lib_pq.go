// lib/pq behind database/sql.

package main

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/lib/pq"
)

const running = "select count(*) from pg_stat_activity where state = 'active' and query like $1"

var background = context.Background()

// one is a database/sql pool of a single connection, so that each stands for one session.
func one(options string) *sql.Conn {
	database, err := sql.Open("postgres", "sslmode=disable "+options)
	must(err)
	client, err := database.Conn(background)
	must(err)
	return client
}

func fails(sqlstate string, work func() error) {
	var found *pq.Error
	if err := work(); !errors.As(err, &found) || string(found.Code) != sqlstate {
		panic(fmt.Sprintf("%v in place of %s", err, sqlstate))
	}
}

func connecting(options string) func() error {
	return func() error {
		database, err := sql.Open("postgres", "sslmode=disable "+options)
		must(err)
		defer database.Close()
		return database.PingContext(background)
	}
}

func execute(client *sql.Conn, query string, values ...interface{}) {
	_, err := client.ExecContext(background, query, values...)
	must(err)
}

func executing(client *sql.Conn, query string, values ...interface{}) func() error {
	return func() error {
		_, err := client.ExecContext(background, query, values...)
		return err
	}
}

func number(client *sql.Conn, query string, values ...interface{}) (found int64) {
	must(client.QueryRowContext(background, query, values...).Scan(&found))
	return found
}

func text(client *sql.Conn, query string, values ...interface{}) (found string) {
	must(client.QueryRowContext(background, query, values...).Scan(&found))
	return found
}

func main() {
	var client, other *sql.Conn

	// crowded does the work while the other client holds a transaction, and so a connection of its own.
	crowded := func(work func()) {
		transaction, err := other.BeginTx(background, nil)
		must(err)
		_, err = transaction.Exec("select 1")
		must(err)
		work()
		must(transaction.Commit())
	}

	step("connect", func() {
		client, other = one(""), one("")
		same(text(client, "select current_user::text"), os.Getenv("PGUSER"))
		execute(client, "drop table if exists lib_pq")
		execute(client, "create table lib_pq (id int primary key, name text)")
	})
	step("unknown database", func() { fails("3D000", connecting("dbname=no_such_database")) })
	step("wrong password", func() { fails("28P01", connecting("password=wrong")) })

	step("transaction with a savepoint", func() {
		transaction, err := client.BeginTx(background, nil)
		must(err)
		run := func(query string) error { _, err := transaction.Exec(query); return err }
		must(run("insert into lib_pq values (1, 'kept')"))
		must(run("savepoint s"))
		fails("23505", func() error { return run("insert into lib_pq values (1, 'twice')") })
		fails("25P02", func() error { return run("select 1") })
		must(run("rollback to savepoint s"))
		must(run("insert into lib_pq values (2, 'kept')"))
		must(transaction.Commit())
		transaction, err = client.BeginTx(background, &sql.TxOptions{Isolation: sql.LevelSerializable, ReadOnly: true})
		must(err)
		fails("25006", func() error { return run("delete from lib_pq") })
		must(transaction.Rollback())
		same(number(client, "select count(*) from lib_pq"), int64(2))
	})

	step("prepared statements", func() {
		pids := map[int]bool{}
		statement, err := client.PrepareContext(background, "select pg_backend_pid(), $1::int * 2")
		must(err)
		for turn := 0; turn < 20; turn++ {
			work := func() {
				var pid, twice int
				must(statement.QueryRow(turn).Scan(&pid, &twice))
				same(twice, turn*2)
				pids[pid] = true
			}
			if turn%2 == 1 {
				crowded(work)
			} else {
				work()
			}
		}
		must(statement.Close())
		fmt.Println("connections", len(pids))
		transaction, err := client.BeginTx(background, nil)
		must(err)
		named, err := transaction.Prepare("select $1::text || ' lib_pq'")
		must(err)
		var found string
		must(named.QueryRow("named").Scan(&found))
		same(found, "named lib_pq")
		var count int
		query := "select count(*) from pg_prepared_statements where not from_sql and statement = $1"
		must(transaction.QueryRow(query, "select $1::text || ' lib_pq'").Scan(&count))
		same(count, 1)
		must(transaction.Commit())
	})

	step("several statements in one query", func() {
		several := "insert into lib_pq values (50); select 1; select 2 union all select 3"
		rows, err := client.QueryContext(background, several)
		must(err)
		var found []int
		for more := true; more; more = rows.NextResultSet() {
			for rows.Next() {
				var value int
				must(rows.Scan(&value))
				found = append(found, value)
			}
		}
		must(rows.Err())
		must(rows.Close())
		same(found, []int{1, 2, 3})
		fails("22012", executing(client, "insert into lib_pq values (51); select 1/0; select 2"))
		same(number(client, "select count(*) from lib_pq where id in (50, 51)"), int64(1))
	})

	step("copy in", func() {
		load := func(first int, bad int) error {
			transaction, err := client.BeginTx(background, nil)
			must(err)
			defer transaction.Rollback()
			statement, err := transaction.Prepare(pq.CopyIn("lib_pq", "id", "name"))
			must(err)
			for at := 0; at < 5000; at++ {
				var id interface{} = first + at
				if at == bad {
					id = "not a number"
				}
				if _, err = statement.Exec(id, fmt.Sprintf("name\t%d\\ ü", at)); err != nil {
					return err
				}
			}
			if _, err = statement.Exec(); err != nil {
				return err
			}
			must(statement.Close())
			return transaction.Commit()
		}
		must(load(1000, -1))
		fails("22P02", func() error { return load(10000, 4999) })
		same(number(client, "select count(*) from lib_pq where id >= 1000"), int64(5000))
		same(text(client, "select name from lib_pq where id = 5999"), "name\t4999\\ ü")
	})

	step("cancel", func() {
		context, cancel := context.WithCancel(background)
		over := make(chan error)
		go func() {
			_, err := client.ExecContext(context, "select pg_sleep(60) /* lib_pq */")
			over <- err
		}()
		until("running query", func() bool { return number(other, running, "select pg_sleep(60) /* lib_pq%") > 0 })
		cancel()
		fails("57014", func() error { return <-over })
		same(text(other, "select 'goes on'"), "goes on")
		client.Close()
		client = one("") // database/sql drops a connection whose context has ended
		execute(client, "set statement_timeout to 50")
		fails("57014", executing(client, "select pg_sleep(60)"))
		execute(client, "reset statement_timeout")
		same(text(client, "select 'goes on'"), "goes on")
	})

	step("errors", func() {
		for turn := 0; turn < 5; turn++ {
			fails("23505", executing(client, "insert into lib_pq values ($1)", 1))
			fails("42601", executing(client, "selekt 1"))
			fails("42601", executing(client, "selekt $1", 1))
			fails("42P01", executing(client, "select * from no_such_table where id = $1", 1))
			fails("22P02", executing(client, "select $1::text::int", "not a number"))
		}
		same(text(client, "select 'goes on'"), "goes on")
	})

	step("types", func() {
		when := time.Date(2020, 2, 29, 12, 34, 56, 789_000_000, time.UTC)
		query := `select $1::int8, $2::numeric, $3::text, $4::bytea, $5::timestamptz, $6::int[], $7::text[],
			$8::jsonb, $9::text, $10::float8, $11::bool`
		bytes := []byte{0, 1, 39, 92, 255}
		for _, options := range []string{"", "binary_parameters=yes"} {
			session := one(options)
			var big int64
			var exact, name, document string
			var found []byte
			var at time.Time
			var numbers []int64
			var texts []string
			var nothing sql.NullString
			var float float64
			var yes bool
			row := session.QueryRowContext(background, query, int64(9007199254740993), "12345678901234567890.123456789",
				"Grüße 😀 ' \\ \"", bytes, when, pq.Array([]int64{1, -2, 3}), pq.Array([]string{"a,b", "{}", "\""}),
				`{"a": [1, null, "ü"]}`, nil, 1.5, true)
			must(row.Scan(&big, &exact, &name, &found, &at, pq.Array(&numbers), pq.Array(&texts), &document,
				&nothing, &float, &yes))
			same(big, int64(9007199254740993))
			same(exact, "12345678901234567890.123456789")
			same(name, "Grüße 😀 ' \\ \"")
			same(found, bytes)
			same(at.Equal(when), true)
			same(numbers, []int64{1, -2, 3})
			same(texts, []string{"a,b", "{}", "\""})
			same([]interface{}{document, nothing.Valid, float, yes}, []interface{}{`{"a": [1, null, "ü"]}`, false, 1.5, true})
			session.Close()
		}
	})

	step("listen and notify", func() {
		listener := pq.NewListener("sslmode=disable", time.Second, time.Minute, nil)
		must(listener.Listen("lib_pq"))
		execute(other, "select pg_notify('lib_pq', 'first')")
		execute(other, "notify lib_pq, 'second'")
		for _, expected := range []string{"first", "second"} {
			select {
			case notification := <-listener.Notify:
				same(notification.Extra, expected)
			case <-time.After(10 * time.Second):
				panic("no notification within ten seconds")
			}
		}
		must(listener.Ping())
		must(listener.UnlistenAll())
		must(listener.Close())
	})

	step("50,000 rows", func() {
		rows, err := client.QueryContext(background, "select n, n::text || ' row' from generate_series(1, $1) n", 50000)
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
		crowded(func() { same(text(client, "show timezone"), "Asia/Tokyo") })
		same(text(other, "show timezone") == "Asia/Tokyo", false)
		execute(client, "reset timezone")
		execute(client, "create temporary table lib_pq_temporary (id int)")
		execute(client, "insert into lib_pq_temporary values (1)")
		same(number(client, "select count(*) from lib_pq_temporary"), int64(1))
		fails("42P01", executing(other, "select * from lib_pq_temporary"))
		execute(client, "drop table lib_pq_temporary")
	})

	step("leave", func() {
		execute(client, "drop table lib_pq")
		must(client.Close())
		must(other.Close())
	})
	finish()
}
