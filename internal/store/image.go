package store

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"strings"
	"time"

	"banger"
)

// artifact is what images and kernels have in common: they are immutable, known
// by digest for ever, and called by a name that moves on.
type artifact struct {
	name, origin string
	id           banger.Digest
	size         banger.Size
	created      time.Time
}

// shelf is one kind of artifact and its two tables.
type shelf struct{ noun, table, names string }

var (
	images  = shelf{"image", "images", "image_names"}
	kernels = shelf{"kernel", "kernels", "kernel_names"}
)

func scanArtifact(row scanner) (artifact, error) {
	var a artifact
	var created int64
	err := row.Scan(&a.name, &a.id, &a.size, &a.origin, &created)
	a.created = instant(created)
	return a, err
}

func (s *Store) put(ctx context.Context, on shelf, a artifact) error {
	err := s.write(ctx, func(tx *sql.Tx) error {
		_, err := tx.ExecContext(ctx, "INSERT INTO "+on.table+" (digest, name, size, origin, created_at) VALUES (?, ?, ?, ?, ?)"+
			" ON CONFLICT (digest) DO UPDATE SET name = excluded.name", a.id, a.name, a.size, a.origin, stamp(a.created))
		if err != nil {
			return err
		}
		_, err = tx.ExecContext(ctx, "INSERT INTO "+on.names+" (name, digest) VALUES (?, ?)"+
			" ON CONFLICT (name) DO UPDATE SET digest = excluded.digest", a.name, a.id)
		return err
	})
	return during(err, "store %s %q", on.noun, a.name)
}

// find looks a name up first, then a digest.
func (s *Store) find(ctx context.Context, on shelf, ref string) (artifact, error) {
	query := "SELECT n.name, a.digest, a.size, a.origin, a.created_at FROM " + on.names + " n JOIN " + on.table + " a USING (digest) WHERE n.name = ?"
	if strings.HasPrefix(ref, "sha256:") {
		query = "SELECT name, digest, size, origin, created_at FROM " + on.table + " WHERE digest = ?"
	}
	a, err := scanArtifact(s.readers.QueryRowContext(ctx, query, ref))
	if errors.Is(err, sql.ErrNoRows) {
		err = &banger.Error{Kind: banger.NotFound, Why: fmt.Errorf("there is no such %s", on.noun), Fix: "banger " + on.noun + " list"}
	}
	return a, during(err, "find %s %q", on.noun, ref)
}

func (s *Store) named(ctx context.Context, on shelf) ([]artifact, error) {
	all, err := collect(ctx, s.readers, scanArtifact,
		"SELECT n.name, a.digest, a.size, a.origin, a.created_at FROM "+on.names+" n JOIN "+on.table+" a USING (digest) ORDER BY n.name")
	return all, during(err, "list %ss", on.noun)
}

// PutImage makes an image known. A name that was another image's moves to this
// one; the other stays known by its digest.
func (s *Store) PutImage(ctx context.Context, i banger.Image) error {
	return s.put(ctx, images, artifact{i.Name, i.Origin, i.ID, i.Size, i.CreatedAt})
}

// Image returns an image by name or digest; NotFound otherwise.
func (s *Store) Image(ctx context.Context, ref string) (banger.Image, error) {
	a, err := s.find(ctx, images, ref)
	return a.image(), err
}

// Images returns the images that have a name, by name.
func (s *Store) Images(ctx context.Context) ([]banger.Image, error) {
	all, err := s.named(ctx, images)
	return each(all, artifact.image), err
}

// PutKernel makes a kernel known, as PutImage does an image.
func (s *Store) PutKernel(ctx context.Context, k banger.Kernel) error {
	return s.put(ctx, kernels, artifact{k.Name, k.Origin, k.ID, k.Size, k.CreatedAt})
}

// Kernel returns a kernel by name or digest; NotFound otherwise.
func (s *Store) Kernel(ctx context.Context, ref string) (banger.Kernel, error) {
	a, err := s.find(ctx, kernels, ref)
	return a.kernel(), err
}

// Kernels returns the kernels that have a name, by name.
func (s *Store) Kernels(ctx context.Context) ([]banger.Kernel, error) {
	all, err := s.named(ctx, kernels)
	return each(all, artifact.kernel), err
}

func (a artifact) image() banger.Image {
	return banger.Image{Name: a.name, ID: a.id, Size: a.size, Origin: a.origin, CreatedAt: a.created}
}

func (a artifact) kernel() banger.Kernel {
	return banger.Kernel{Name: a.name, ID: a.id, Size: a.size, Origin: a.origin, CreatedAt: a.created}
}

func each[T any](all []artifact, as func(artifact) T) []T {
	var list []T
	for _, a := range all {
		list = append(list, as(a))
	}
	return list
}
