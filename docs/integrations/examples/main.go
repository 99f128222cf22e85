// pgx: one function that runs work in a transaction as a user.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"log"
	"net/http"
	"os"
	"strings"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"
)

// asUser sends the token as a statement of its own: not in the same Batch as the queries, which would be prepared before it.
func asUser(ctx context.Context, pool *pgxpool.Pool, token string, work func(pgx.Tx) error) error {
	return pgx.BeginFunc(ctx, pool, func(tx pgx.Tx) error {
		if _, err := tx.Exec(ctx, "SELECT set_config('bodata.impersonation_token', $1, true)", token); err != nil {
			return err
		}
		return work(tx)
	})
}

func flights(ctx context.Context, tx pgx.Tx) (map[string]int, error) {
	rows, err := tx.Query(ctx, "SELECT carrier, count(*) FROM app.flights GROUP BY carrier")
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	counts := map[string]int{}
	for rows.Next() {
		var carrier string
		var count int
		if err := rows.Scan(&carrier, &count); err != nil {
			return nil, err
		}
		counts[carrier] = count
	}
	return counts, rows.Err()
}

func main() {
	pool, err := pgxpool.New(context.Background(), "") // PGHOST, PGUSER, PGPASSWORD ... name the service login
	if err != nil {
		log.Fatal(err)
	}
	http.HandleFunc("/flights", func(w http.ResponseWriter, r *http.Request) {
		scheme, token, _ := strings.Cut(r.Header.Get("Authorization"), " ")
		if scheme != "Bearer" {
			http.Error(w, `{"error": "sign in"}`, http.StatusUnauthorized)
			return
		}
		var counts map[string]int
		err := asUser(r.Context(), pool, token, func(tx pgx.Tx) (err error) {
			counts, err = flights(r.Context(), tx)
			return err
		})
		var refused *pgconn.PgError
		if errors.As(err, &refused) && refused.Code == "28000" {
			http.Error(w, `{"error": "sign in again"}`, http.StatusUnauthorized)
		} else if err != nil {
			log.Print(err)
			http.Error(w, `{"error": "try again later"}`, http.StatusInternalServerError)
		} else {
			json.NewEncoder(w).Encode(counts)
		}
	})
	log.Fatal(http.ListenAndServe("127.0.0.1:"+os.Getenv("PORT"), nil))
}
