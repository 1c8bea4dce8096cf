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
	err := s.write(ctx, func(tx *sql.Tx) error { return putArtifact(ctx, tx, on, a) })
	return during(err, "store %s %q", on.noun, a.name)
}

func putArtifact(ctx context.Context, tx *sql.Tx, on shelf, a artifact) error {
	_, err := tx.ExecContext(ctx, "INSERT INTO "+on.table+" (digest, name, size, origin, created_at) VALUES (?, ?, ?, ?, ?)"+
		" ON CONFLICT (digest) DO UPDATE SET name = excluded.name", a.id, a.name, a.size, a.origin, stamp(a.created))
	if err != nil {
		return err
	}
	_, err = tx.ExecContext(ctx, "INSERT INTO "+on.names+" (name, digest) VALUES (?, ?)"+
		" ON CONFLICT (name) DO UPDATE SET digest = excluded.digest", a.name, a.id)
	return err
}

// find looks a name up first, then a digest.
func (s *Store) find(ctx context.Context, on shelf, ref string) (artifact, error) {
	query := "SELECT n.name, a.digest, a.size, a.origin, a.created_at FROM " + on.names + " n JOIN " + on.table + " a USING (digest) WHERE n.name = ?"
	if strings.HasPrefix(ref, "sha256:") {
		query = "SELECT name, digest, size, origin, created_at FROM " + on.table + " WHERE digest = ?"
	}
	a, err := scanArtifact(s.readers.QueryRowContext(ctx, query, ref))
	if errors.Is(err, sql.ErrNoRows) {
		err = &banger.Error{Kind: banger.NotFound, Why: fmt.Errorf("there is no %s %q", on.noun, ref), Fix: "banger " + on.noun + " list"}
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

// AddImage is PutImage for a name that no image has; one that is taken is a
// Conflict.
func (s *Store) AddImage(ctx context.Context, i banger.Image) error {
	return s.write(ctx, func(tx *sql.Tx) error {
		var taken int
		if err := tx.QueryRowContext(ctx, "SELECT count(*) FROM image_names WHERE name = ?", i.Name).Scan(&taken); err != nil {
			return err
		}
		if taken > 0 {
			return ImageTaken(i.Name)
		}
		return putArtifact(ctx, tx, images, artifact{i.Name, i.Origin, i.ID, i.Size, i.CreatedAt})
	})
}

// ImageTaken is the Conflict of a name that an image has.
func ImageTaken(name string) error {
	return &banger.Error{Kind: banger.Conflict, Why: fmt.Errorf("an image named %q already exists", name),
		Fix: "banger image delete " + name + ", or choose another name"}
}

// ForgetImage takes an image's name away, or with a digest all that it has. The
// image itself is forgotten with its last name: the caller removes its file
// when last is true. An image that a VM was made from is a Conflict: no VM can
// be stored that needs it once this has returned.
func (s *Store) ForgetImage(ctx context.Context, ref string) (id banger.Digest, last bool, err error) {
	image, err := s.Image(ctx, ref)
	if err != nil {
		return "", false, err
	}
	err = s.write(ctx, func(tx *sql.Tx) error {
		if err := unused(ctx, tx, ref, image.ID); err != nil {
			return err
		}
		if _, err := tx.ExecContext(ctx, "DELETE FROM image_names WHERE digest = ?1 AND ?2 IN (name, digest)", image.ID, ref); err != nil {
			return err
		}
		// What it is called as long as it has another name is one of those.
		_, err := tx.ExecContext(ctx, "UPDATE images SET name = coalesce((SELECT min(n.name) FROM image_names n WHERE n.digest = images.digest), name) WHERE digest = ?", image.ID)
		if err != nil {
			return err
		}
		result, err := tx.ExecContext(ctx, "DELETE FROM images WHERE digest = ?1 AND NOT EXISTS (SELECT * FROM image_names WHERE digest = ?1)", image.ID)
		if err != nil {
			return err
		}
		n, err := result.RowsAffected()
		last = n == 1
		return err
	})
	return image.ID, last, err
}

// ForgetNameless forgets an image that has no name and no VM, and reports whether it was one.
func (s *Store) ForgetNameless(ctx context.Context, id banger.Digest) (bool, error) {
	return s.forget(ctx, "DELETE FROM images WHERE digest = ?1 AND NOT EXISTS (SELECT * FROM image_names WHERE digest = ?1) AND NOT EXISTS (SELECT * FROM vms WHERE image_id = ?1)", id)
}

// ForgetKernel forgets a kernel with its names, unless a VM has it. It reports whether
// nothing needs the kernel's files.
func (s *Store) ForgetKernel(ctx context.Context, id banger.Digest) (bool, error) {
	for _, table := range []string{kernels.names, kernels.table} {
		if _, err := s.forget(ctx, "DELETE FROM "+table+" WHERE digest = ?1 AND NOT EXISTS (SELECT * FROM vms WHERE kernel_id = ?1)", id); err != nil {
			return false, err
		}
	}
	var users int
	err := s.readers.QueryRowContext(ctx, "SELECT count(*) FROM vms WHERE kernel_id = ?", id).Scan(&users)
	return users == 0, err
}

// forget runs a DELETE and reports whether it deleted a row.
func (s *Store) forget(ctx context.Context, query string, id banger.Digest) (bool, error) {
	var n int64
	err := s.write(ctx, func(tx *sql.Tx) error {
		result, err := tx.ExecContext(ctx, query, id)
		if err != nil {
			return err
		}
		n, err = result.RowsAffected()
		return err
	})
	return n > 0, err
}

// unused is a Conflict when VMs, in whatever phase, were made from the image.
func unused(ctx context.Context, tx *sql.Tx, ref string, id banger.Digest) error {
	var users sql.NullString
	err := tx.QueryRowContext(ctx, "SELECT group_concat(name, ' ') FROM (SELECT name FROM vms WHERE image_id = ? ORDER BY name)", id).Scan(&users)
	if err != nil || !users.Valid {
		return err
	}
	return &banger.Error{Kind: banger.Conflict, Why: fmt.Errorf("it is in use by %s", strings.ReplaceAll(users.String, " ", ", ")),
		Fix: "banger vm delete " + users.String + ", then: banger image delete " + ref}
}

// KnownImages returns every image that is known, with or without a name.
func (s *Store) KnownImages(ctx context.Context) ([]banger.Image, error) {
	all, err := collect(ctx, s.readers, scanArtifact, "SELECT name, digest, size, origin, created_at FROM images ORDER BY digest")
	return each(all, artifact.image), during(err, "list images")
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
