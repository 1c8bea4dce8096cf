package kernel

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// writeIndexes writes the files in which modprobe and udev look up modules, as depmod
// would. A kernel package does not contain them. modules.symbols is left out: modprobe
// needs it only for aliases of the form symbol:NAME.
func (s *moduleSet) writeIndexes() error {
	for _, step := range []func(*moduleSet) error{
		(*moduleSet).writeDeps, (*moduleSet).writeAliases, (*moduleSet).writeHints,
		(*moduleSet).writeDevnames, (*moduleSet).writeBuiltin, (*moduleSet).writeBuiltinAliases,
	} {
		if err := step(s); err != nil {
			return err
		}
	}
	return nil
}

func (s *moduleSet) write(name string, data []byte) error {
	return writeFile(filepath.Join(s.dir, name), bytes.NewReader(data))
}

func (s *moduleSet) writeIndex(name string, x *index) error {
	var out bytes.Buffer
	if err := x.writeTo(&out); err != nil {
		return err
	}
	return s.write(name, out.Bytes())
}

// writeDeps writes modules.dep: each module and what it needs, in reverse loading order,
// as modprobe expects it.
func (s *moduleSet) writeDeps() error {
	var text bytes.Buffer
	var x index
	for i, m := range s.list {
		needs, err := s.needs(m)
		if err != nil {
			return err
		}
		line := m.path + ":"
		for _, other := range slices.Backward(needs) {
			line += " " + other.path
		}
		fmt.Fprintln(&text, line)
		if err := x.add(m.name, line, uint32(i)); err != nil {
			return err
		}
	}
	if err := s.write("modules.dep", text.Bytes()); err != nil {
		return err
	}
	return s.writeIndex("modules.dep.bin", &x)
}

func (s *moduleSet) writeAliases() error {
	text := bytes.NewBufferString("# Aliases extracted from modules themselves.\n")
	var x index
	for i, m := range s.list {
		for _, alias := range m.aliases {
			fmt.Fprintf(text, "alias %s %s\n", alias, m.name)
			key, err := aliasKey(alias)
			if err != nil {
				return fmt.Errorf("module %s: %w", m.name, err)
			}
			if err := x.add(key, m.name, uint32(i)); err != nil {
				return err
			}
		}
	}
	if err := s.write("modules.alias", text.Bytes()); err != nil {
		return err
	}
	return s.writeIndex("modules.alias.bin", &x)
}

// aliasKey returns an alias as modprobe looks it up: "_" for "-", except in brackets.
func aliasKey(alias string) (string, error) {
	key, inside := []byte(alias), false
	for i, char := range key {
		switch {
		case char == '[' && !inside:
			inside = true
		case char == ']' && inside:
			inside = false
		case char == '[' || char == ']':
			return "", fmt.Errorf("alias %q: its brackets do not match", alias)
		case char == '-' && !inside:
			key[i] = '_'
		}
	}
	if inside {
		return "", fmt.Errorf("alias %q: its brackets do not match", alias)
	}
	return string(key), nil
}

// writeHints writes modules.softdep and modules.weakdep.
func (s *moduleSet) writeHints() error {
	soft := bytes.NewBufferString("# Soft dependencies extracted from modules themselves.\n")
	weak := bytes.NewBufferString("# Weak dependencies extracted from modules themselves.\n")
	for _, m := range s.list {
		for _, hint := range m.soft {
			fmt.Fprintf(soft, "softdep %s %s\n", m.name, hint)
		}
		for _, hint := range m.weak {
			fmt.Fprintf(weak, "weakdep %s %s\n", m.name, hint)
		}
	}
	if err := s.write("modules.softdep", soft.Bytes()); err != nil {
		return err
	}
	return s.write("modules.weakdep", weak.Bytes())
}

// writeDevnames writes modules.devname: the device nodes whose opening loads a module.
// kmod and the agent create these nodes at boot.
func (s *moduleSet) writeDevnames() error {
	text := bytes.NewBufferString("# Device nodes to trigger on-demand module loading.\n")
	for _, m := range s.list {
		var name, number string
		for _, alias := range m.aliases {
			if node, ok := strings.CutPrefix(alias, "devname:"); ok {
				name = node
				continue
			}
			var major, minor uint32
			if n, _ := fmt.Sscanf(alias, "char-major-%d-%d", &major, &minor); n == 2 {
				number = fmt.Sprintf("c%d:%d", major, minor)
			} else if n, _ := fmt.Sscanf(alias, "block-major-%d-%d", &major, &minor); n == 2 {
				number = fmt.Sprintf("b%d:%d", major, minor)
			}
		}
		if name != "" && number != "" {
			fmt.Fprintf(text, "%s %s %s\n", m.name, name, number)
		}
	}
	return s.write("modules.devname", text.Bytes())
}

func (s *moduleSet) writeBuiltin() error {
	names, err := s.builtin()
	if err != nil {
		return err
	}
	var x index
	for _, name := range names {
		if err := x.add(name, "", 0); err != nil {
			return err
		}
	}
	return s.writeIndex("modules.builtin.bin", &x)
}

// writeBuiltinAliases indexes the aliases in modules.builtin.modinfo, which holds
// zero-terminated fields NAME.KEY=VALUE. A kernel may lack this file.
func (s *moduleSet) writeBuiltinAliases() error {
	info, err := os.ReadFile(filepath.Join(s.dir, "modules.builtin.modinfo"))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	var x index
	for field := range bytes.SplitSeq(info, []byte{0}) {
		key, value, _ := strings.Cut(string(field), "=")
		name, key, _ := strings.Cut(key, ".")
		if key != "alias" {
			continue
		}
		alias, err := aliasKey(value)
		if err != nil {
			return fmt.Errorf("built-in module %s: %w", name, err)
		}
		if err := x.add(alias, name, 0); err != nil {
			return err
		}
	}
	return s.writeIndex("modules.builtin.alias.bin", &x)
}
