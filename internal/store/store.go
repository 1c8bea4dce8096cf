// Package store owns the database: what VMs, images and kernels exist and what
// is wanted of them. It knows nothing about running VMs; whether one runs is
// asked of the host. It is the only importer of SQLite.
package store

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"time"

	"modernc.org/sqlite"
	sqlite3 "modernc.org/sqlite/lib"

	"banger"
	"banger/internal/durable"
)

// Store is the open database. Its methods may be called by several goroutines.
type Store struct {
	path    string
	writer  *sql.DB // one connection: writers queue here, never in SQLite
	readers *sql.DB
}

// Open opens the database at path, which it makes when it does not exist (mode
// 0600), and brings it to the newest schema, after a copy beside it. A database
// of a newer schema is a Conflict; a damaged one is Unready and stays as it is.
func Open(ctx context.Context, path string) (*Store, error) {
	if err := touch(path); err != nil {
		return nil, &banger.Error{Kind: banger.Unready, What: "open database", Why: err, Fix: "make " + path + " readable and writable for you"}
	}
	s := &Store{path: path, writer: open(path, "rw", 1), readers: open(path, "ro", 4)}
	if err := s.prepare(ctx, path); err != nil {
		s.Close()
		return nil, explain(path, s.full(err))
	}
	return s, nil
}

func (s *Store) prepare(ctx context.Context, path string) error {
	var said string
	if err := s.writer.QueryRowContext(ctx, "PRAGMA quick_check(1)").Scan(&said); err != nil {
		return fmt.Errorf("check database: %w", err)
	}
	if said != "ok" {
		return &damaged{said}
	}
	return migrate(ctx, s.writer, path)
}

// Close closes the database. What was written is on disk already.
func (s *Store) Close() error {
	return errors.Join(s.readers.Close(), s.writer.Close())
}

// touch makes the file before SQLite does, with the right mode from birth:
// SQLite gives its write-ahead log and index the mode of the database.
func touch(path string) error {
	file, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return err
	}
	if err := file.Close(); err != nil {
		return err
	}
	return durable.Sync(filepath.Dir(path))
}

// open makes a pool. The pragmas are in the name so that every connection of
// the pool has them. synchronous is FULL because a lost row is a lost VM.
func open(path, mode string, connections int) *sql.DB {
	query := url.Values{"mode": {mode}, "_pragma": {"busy_timeout(10000)", "foreign_keys(1)"}}
	if mode == "rw" {
		query["_txlock"] = []string{"immediate"}
		query["_pragma"] = append(query["_pragma"], "journal_mode(WAL)", "synchronous(FULL)")
	} else {
		query["_pragma"] = append(query["_pragma"], "query_only(1)")
	}
	name := url.URL{Scheme: "file", Path: path, OmitHost: true, RawQuery: query.Encode()}
	db, err := sql.Open("sqlite", name.String())
	if err != nil {
		panic(err) // the driver is registered by this package's import
	}
	db.SetMaxOpenConns(connections)
	db.SetMaxIdleConns(connections)
	return db
}

// damaged is what SQLite's own check found.
type damaged struct{ found string }

func (d *damaged) Error() string { return d.found }

// explain names the file and the way out where SQLite says it is damaged.
func explain(path string, err error) error {
	var found *damaged
	var failed *sqlite.Error
	switch {
	case errors.Is(err, ErrFull):
		return err
	case errors.As(err, &found):
	case errors.As(err, &failed) && (failed.Code()&0xff == sqlite3.SQLITE_NOTADB || failed.Code()&0xff == sqlite3.SQLITE_CORRUPT):
	default:
		return fmt.Errorf("open %s: %w", path, err)
	}
	return &banger.Error{
		Kind: banger.Unready, What: "open " + path, Why: fmt.Errorf("the database is damaged: %w", err),
		Fix: "restore " + path + " from a copy (banger.db.v*.bak beside it), or move " + filepath.Dir(path) + " away to start with an empty database",
	}
}

// ErrFull says that the file system of the database has no room.
var ErrFull = errors.New("the file system of the database is full")

// full tells of a file system without room, by whichever call meets it.
func (s *Store) full(err error) error {
	var failed *sqlite.Error
	if !errors.As(err, &failed) || failed.Code()&0xff != sqlite3.SQLITE_FULL {
		return err
	}
	return &banger.Error{Kind: banger.Unready, Why: fmt.Errorf("%w: %w", ErrFull, err), Fix: "free space on " + filepath.Dir(s.path)}
}

// write runs f in a transaction of its own.
func (s *Store) write(ctx context.Context, f func(*sql.Tx) error) error {
	tx, err := s.writer.BeginTx(ctx, nil)
	if err != nil {
		return err
	}
	defer tx.Rollback()
	if err := f(tx); err != nil {
		return s.full(err)
	}
	return s.full(tx.Commit())
}

// scanner is a row, or the current one of several.
type scanner interface{ Scan(...any) error }

// collect scans all rows of a query with scan.
func collect[T any](ctx context.Context, db *sql.DB, scan func(scanner) (T, error), query string, args ...any) ([]T, error) {
	rows, err := db.QueryContext(ctx, query, args...)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	var all []T
	for rows.Next() {
		one, err := scan(rows)
		if err != nil {
			return nil, err
		}
		all = append(all, one)
	}
	return all, rows.Err()
}

// stamp and instant keep times as nanoseconds; the zero time is 0.
func stamp(t time.Time) int64 {
	if t.IsZero() {
		return 0
	}
	return t.UnixNano()
}

func instant(n int64) time.Time {
	if n == 0 {
		return time.Time{}
	}
	return time.Unix(0, n).UTC()
}
