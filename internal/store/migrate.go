package store

import (
	"context"
	"database/sql"
	"embed"
	"fmt"
	"io/fs"
	"os"

	"banger"
	"banger/internal/durable"
)

//go:embed migrations/*.sql
var migrations embed.FS

// steps returns the migrations in order; step i brings schema i to i+1.
func steps() ([]string, error) {
	names, err := fs.Glob(migrations, "migrations/*.sql") // sorted
	if err != nil {
		return nil, err
	}
	var all []string
	for _, name := range names {
		text, err := migrations.ReadFile(name)
		if err != nil {
			return nil, err
		}
		all = append(all, string(text))
	}
	return all, nil
}

func migrate(ctx context.Context, db *sql.DB, path string) error {
	all, err := steps()
	if err != nil {
		return err
	}
	return migrateTo(ctx, db, path, all)
}

// migrateTo applies the steps that the database has not seen, each in one
// transaction, after a copy of a database that holds something.
func migrateTo(ctx context.Context, db *sql.DB, path string, all []string) error {
	var at int
	if err := db.QueryRowContext(ctx, "PRAGMA user_version").Scan(&at); err != nil {
		return fmt.Errorf("read schema version: %w", err)
	}
	if at > len(all) {
		return &banger.Error{
			Kind: banger.Conflict,
			Why:  fmt.Errorf("its schema is version %d, this banger knows up to %d", at, len(all)),
			Fix:  "use the banger version that wrote it, or a newer one",
		}
	}
	if at == len(all) {
		return nil
	}
	if at > 0 {
		if err := backup(ctx, db, fmt.Sprintf("%s.v%d.bak", path, at)); err != nil {
			return fmt.Errorf("copy database before migrating: %w", err)
		}
	}
	for ; at < len(all); at++ {
		if err := apply(ctx, db, all[at], at+1); err != nil {
			return fmt.Errorf("migrate to schema %d: %w", at+1, err)
		}
	}
	return nil
}

func apply(ctx context.Context, db *sql.DB, step string, version int) error {
	tx, err := db.BeginTx(ctx, nil)
	if err != nil {
		return err
	}
	defer tx.Rollback()
	if _, err := tx.ExecContext(ctx, step); err != nil {
		return err
	}
	if _, err := tx.ExecContext(ctx, fmt.Sprintf("PRAGMA user_version = %d", version)); err != nil {
		return err
	}
	return tx.Commit()
}

// backup writes a whole copy of the database to path, or nothing.
func backup(ctx context.Context, db *sql.DB, path string) error {
	partial := path + ".tmp"
	// VACUUM INTO accepts an existing file only when it is empty, and keeps its mode.
	file, err := os.OpenFile(partial, os.O_RDWR|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	defer file.Close()
	defer os.Remove(partial)
	if _, err := db.ExecContext(ctx, "VACUUM INTO ?", partial); err != nil {
		return err
	}
	if err := durable.Sync(partial); err != nil {
		return err
	}
	return durable.Rename(partial, path)
}
