package kernel

import (
	"bufio"
	"bytes"
	"cmp"
	"context"
	"debug/elf"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"

	"github.com/ulikunitz/xz"
)

// module is a kernel module's file and the information in it.
type module struct {
	name    string   // with "_" for "-"
	path    string   // below the modules directory: kernel/fs/overlayfs/overlay.ko
	depends []string // names of the modules it needs directly
	aliases []string
	soft    []string // soft dependencies, as modprobe reads them
	weak    []string // weak dependencies
}

// moduleSet holds all modules of a kernel in the order of modules.order, in which
// modprobe tries the modules of one alias.
type moduleSet struct {
	dir    string
	list   []*module
	byName map[string]*module
}

func moduleName(path string) string {
	name, _, _ := strings.Cut(filepath.Base(path), ".ko")
	return strings.ReplaceAll(name, "-", "_")
}

// readModules reads every module below dir, and decompresses its file: a guest would do
// that each time it loads the module, which takes longer than the rest of the loading. It
// uses all processors, since this is most of the work of a build.
func readModules(ctx context.Context, dir string) (*moduleSet, error) {
	paths, err := modulePaths(dir)
	if err != nil {
		return nil, err
	}
	set := &moduleSet{dir: dir, list: make([]*module, len(paths)), byName: map[string]*module{}}
	errs := make([]error, len(paths))
	next := make(chan int)
	var workers sync.WaitGroup
	for range runtime.GOMAXPROCS(0) {
		workers.Go(func() {
			for i := range next {
				if ctx.Err() == nil {
					set.list[i], errs[i] = unpackModule(dir, paths[i])
				}
			}
		})
	}
	for i := range paths {
		next <- i
	}
	close(next)
	workers.Wait()
	if err := errors.Join(append(errs, ctx.Err())...); err != nil {
		return nil, err
	}
	for _, m := range set.list {
		if other, ok := set.byName[m.name]; ok {
			return nil, fmt.Errorf("two modules are named %s: %s and %s", m.name, other.path, m.path)
		}
		set.byName[m.name] = m
	}
	return set, nil
}

// modulePaths returns the modules' paths. Those in modules.order come first, in its
// order.
func modulePaths(dir string) ([]string, error) {
	order := map[string]int{}
	text, err := os.ReadFile(filepath.Join(dir, "modules.order"))
	if err != nil {
		return nil, err
	}
	for i, line := range strings.Fields(string(text)) {
		order[line] = i - len(text) // negative: before those that are not in the file
	}
	var paths []string
	err = fs.WalkDir(os.DirFS(dir), ".", func(path string, entry fs.DirEntry, err error) error {
		if err == nil && entry.Type().IsRegular() && strings.Contains(entry.Name(), ".ko") {
			paths = append(paths, path)
		}
		return err
	})
	slices.SortStableFunc(paths, func(a, b string) int {
		return cmp.Compare(order[plainName(a)], order[plainName(b)])
	})
	return paths, err
}

// plainName returns a module's path without the suffix of its compression.
func plainName(path string) string {
	if i := strings.LastIndex(path, ".ko"); i >= 0 {
		return path[:i+len(".ko")]
	}
	return path
}

func unpackModule(dir, path string) (*module, error) {
	data, err := moduleData(filepath.Join(dir, path))
	if err != nil {
		return nil, fmt.Errorf("read module %s: %w", path, err)
	}
	m := &module{name: moduleName(path), path: plainName(path)}
	if m.path != path {
		err := errors.Join(os.WriteFile(filepath.Join(dir, m.path), data, 0o644), os.Remove(filepath.Join(dir, path)))
		if err != nil {
			return nil, fmt.Errorf("unpack module %s: %w", path, err)
		}
	}
	if err := m.readInfo(data); err != nil {
		return nil, fmt.Errorf("read module %s: %w", path, err)
	}
	return m, nil
}

// moduleData returns a module's decompressed content.
func moduleData(path string) ([]byte, error) {
	file, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	var plain io.Reader = file
	switch filepath.Ext(path) {
	case ".ko":
	case ".xz":
		// Unbuffered, xz reads byte by byte.
		if plain, err = xz.NewReader(bufio.NewReader(file)); err != nil {
			return nil, err
		}
	default:
		return nil, errors.New("its compression is unknown")
	}
	data, err := io.ReadAll(io.LimitReader(plain, maxModule+1))
	if err == nil && len(data) > maxModule {
		err = errors.New("it is larger than the limit for a module")
	}
	return data, err
}

func (m *module) readInfo(data []byte) error {
	file, err := elf.NewFile(bytes.NewReader(data))
	if err != nil {
		return err
	}
	section := file.Section(".modinfo")
	if section == nil {
		return errors.New("it has no .modinfo")
	}
	info, err := section.Data()
	if err != nil {
		return err
	}
	for field := range bytes.SplitSeq(info, []byte{0}) {
		key, value, _ := strings.Cut(string(field), "=")
		switch key {
		case "depends":
			for name := range strings.SplitSeq(value, ",") {
				if name != "" {
					m.depends = append(m.depends, strings.ReplaceAll(name, "-", "_"))
				}
			}
		case "alias":
			m.aliases = append(m.aliases, value)
		case "softdep":
			m.soft = append(m.soft, value)
		case "weakdep":
			m.weak = append(m.weak, value)
		}
	}
	return nil
}

// needs returns all modules that m needs, in loading order.
func (s *moduleSet) needs(m *module) ([]*module, error) {
	var order []*module
	state := map[*module]bool{} // true: visited, false: being visited
	var visit func(m *module) error
	visit = func(m *module) error {
		if done, seen := state[m]; seen {
			if !done {
				return fmt.Errorf("module %s needs itself", m.name)
			}
			return nil
		}
		state[m] = false
		for _, name := range m.depends {
			other, ok := s.byName[name]
			if !ok {
				return fmt.Errorf("module %s needs %s, which this kernel lacks", m.name, name)
			}
			if err := visit(other); err != nil {
				return err
			}
		}
		state[m] = true
		order = append(order, m)
		return nil
	}
	if err := visit(m); err != nil {
		return nil, err
	}
	return order[:len(order)-1], nil
}
