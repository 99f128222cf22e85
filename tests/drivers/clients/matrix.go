// pgx 5 with its pool: see scenario.py. It prepares each statement once for each connection, by default.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"
)

const (
	present      = "SELECT set_config('bodata.impersonation_token', $1, true)"
	seenOrders   = "SELECT min(carrier), max(carrier), count(*) FROM app.orders WHERE id > $1"
	stateNow     = "SELECT current_user::text, current_setting('work_mem'), nullif(current_setting('app.left', true), ''), to_regclass('pg_temp.left_behind')::text"
	divide       = "SELECT 1 / (count(*) - count(*)) FROM app.orders"
	transactions = 200
)

var (
	users    = []string{"alice", "bob", "carol"}
	carriers = []string{"UA", "AA", "DL"}
	given    struct {
		Where struct {
			Host, User, Password, Dbname string
			Port                         int
		}
		Tokens map[string]string
	}
)

func code(err error) string {
	var refused *pgconn.PgError
	if errors.As(err, &refused) {
		return refused.Code
	}
	return ""
}

func seen(ctx context.Context, tx pgx.Tx, carrier string) error {
	var low, high string
	var count int
	if err := tx.QueryRow(ctx, seenOrders, 0).Scan(&low, &high, &count); err != nil {
		return err
	}
	if low != carrier || high != carrier || count != 10 {
		return fmt.Errorf("%s sees %s %s %d", carrier, low, high, count)
	}
	return nil
}

func work(ctx context.Context, tx pgx.Tx, number int) error {
	user, carrier := users[number%3], carriers[number%3]
	exec := func(sql string, values ...any) error {
		_, err := tx.Exec(ctx, sql, values...)
		return err
	}
	if err := exec(present, given.Tokens[user]); err != nil {
		return err
	}
	if err := seen(ctx, tx, carrier); err != nil {
		return err
	}
	var who, memory string
	var left, made *string
	if err := tx.QueryRow(ctx, stateNow).Scan(&who, &memory, &left, &made); err != nil {
		return err
	}
	if who != user || memory != "4MB" || left != nil || made != nil {
		return fmt.Errorf("%s finds %s %s %v %v", user, who, memory, left, made)
	}
	switch {
	case number%10 == 1:
		err := pgx.BeginFunc(ctx, tx, func(nested pgx.Tx) error {
			if _, err := nested.Exec(ctx, "INSERT INTO app.orders (carrier) VALUES ($1)", carrier); err != nil {
				return err
			}
			_, err := nested.Exec(ctx, divide)
			return err
		})
		if code(err) != "22012" {
			return fmt.Errorf("expected 22012, not %w", err)
		}
	case number%10 == 3:
		return exec(divide)
	case number%10 == 5:
		if err := exec("SELECT set_config('work_mem', '5MB', false), set_config('app.left', 'x', false)"); err != nil {
			return err
		}
		if err := exec("CREATE TEMP TABLE left_behind (a int)"); err != nil {
			return err
		}
	case number%10 == 7:
		batch := &pgx.Batch{}
		batch.Queue("INSERT INTO app.orders (carrier, note) VALUES ($1, 'mine')", carrier)
		batch.Queue("DELETE FROM app.orders WHERE note = $1", "mine")
		if err := tx.SendBatch(ctx, batch).Close(); err != nil {
			return err
		}
	case number%50 == 49:
		// By the protocol, from another connection.
		time.AfterFunc(50*time.Millisecond, func() { tx.Conn().PgConn().CancelRequest(context.Background()) })
		return exec("SELECT pg_sleep(20)")
	}
	return seen(ctx, tx, carrier)
}

func some(ctx context.Context, pool *pgxpool.Pool, from, to int) error {
	for number := from; number < to; number += 2 {
		expected := ""
		if number%10 == 3 {
			expected = "22012"
		} else if number%50 == 49 {
			expected = "57014"
		}
		err := pgx.BeginFunc(ctx, pool, func(tx pgx.Tx) error { return work(ctx, tx, number) })
		if code(err) != expected || err != nil && expected == "" {
			return fmt.Errorf("%d: %w", number, err)
		}
		if number%20 == 0 {
			if _, err := pool.Exec(ctx, "SELECT count(*) FROM app.orders"); code(err) != "42501" {
				return fmt.Errorf("%d: expected 42501, not %w", number, err)
			}
		}
	}
	return nil
}

func main() {
	ctx := context.Background()
	if err := json.NewDecoder(os.Stdin).Decode(&given); err != nil {
		panic(err)
	}
	where := given.Where
	pool, err := pgxpool.New(ctx, fmt.Sprintf("host=%s port=%d user=%s password=%s dbname=%s pool_max_conns=2",
		where.Host, where.Port, where.User, where.Password, where.Dbname))
	if err != nil {
		panic(err)
	}
	for from := 0; from < transactions; from += transactions / 2 {
		done := make(chan error)
		for first := 0; first < 2; first++ {
			go func() { done <- some(ctx, pool, from+first, from+transactions/2) }()
		}
		for range 2 {
			if err := <-done; err != nil {
				panic(err)
			}
		}
		pool.Reset()
	}
	pool.Close()
	fmt.Println("done", transactions)
}
