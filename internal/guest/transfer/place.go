package transfer

import (
	"errors"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// place is where the root of a stream goes: into an open directory, under a name. An
// empty name is the directory itself, which then gets the content of the root.
type place struct {
	dir  *os.File
	path string // of dir, for messages
	name string
}

// find returns the place for a root of this kind and name at the destination that a user
// names, as cp does. The caller closes its dir.
func find(dst string, root kind, name string) (place, error) {
	info, err := os.Stat(dst)
	switch {
	case err == nil && info.IsDir() && (root == dir || name != ""):
		return openPlace(dst, name)
	case err == nil && info.IsDir():
		return place{}, &Failure{Code: NoFile, Path: dst, Why: "is a directory, and stdin has no name"}
	case err == nil && (root == dir || strings.HasSuffix(dst, "/")):
		return place{}, &Failure{Code: Exists, Path: dst, Why: notDirectory}
	case err == nil && !info.Mode().IsRegular():
		return place{}, &Failure{Code: NoFile, Path: dst, Why: "is not a regular file"}
	case err == nil:
		real, err := filepath.EvalSymlinks(dst)
		if err != nil {
			return place{}, fail(dst, err)
		}
		return openPlace(filepath.Dir(real), filepath.Base(real))
	case !errors.Is(err, os.ErrNotExist):
		return place{}, fail(dst, err)
	}
	return findNew(dst, root)
}

// findNew returns the place for a name that does not exist.
func findNew(dst string, root kind) (place, error) {
	bare := strings.TrimRight(dst, "/")
	if _, err := os.Lstat(bare); err == nil {
		return place{}, &Failure{Code: Missing, Path: bare, Why: "is a link to a file that does not exist"}
	}
	if bare != dst && root != dir {
		return place{}, &Failure{Code: NoParent, Path: bare, Why: "no such directory"}
	}
	at := strings.LastIndexByte(bare, '/') + 1
	parent, name := bare[:at], bare[at:]
	if parent == "" {
		parent = "."
	}
	p, err := openPlace(parent, name)
	if f := (*Failure)(nil); errors.As(err, &f) && f.Code == Missing {
		return place{}, &Failure{Code: NoParent, Path: filepath.Clean(parent), Why: "no such directory"}
	}
	return p, err
}

func openPlace(path, name string) (place, error) {
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return place{}, fail(path, err)
	}
	return place{os.NewFile(uintptr(fd), path), path, name}, nil
}
