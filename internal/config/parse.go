package config

import (
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/pelletier/go-toml/v2"
	"github.com/pelletier/go-toml/v2/unstable"

	"banger"
)

// list prints one problem a line. It does not unwrap: the fix of one problem
// would be shown as that of all.
type list []error

func (l list) Error() string {
	lines := make([]string, len(l))
	for i, err := range l {
		lines[i] = err.Error()
	}
	return strings.Join(lines, "\n")
}

// value is a scalar as the file has it: a string's content, a number's digits.
type value struct {
	text string
	kind unstable.Kind
	home string
}

// keys are all the keys of config.toml. The file is flat.
var keys = map[string]func(*Config, value) error{
	"log_level":             func(c *Config, v value) error { return v.level(&c.LogLevel) },
	"runtime_dir":           func(c *Config, v value) error { return v.absolute(&c.RuntimeDir) },
	"driver":                func(c *Config, v value) error { return v.word(&c.Driver) },
	"vcpus":                 func(c *Config, v value) error { return v.count(&c.VCPUs) },
	"memory":                func(c *Config, v value) error { return v.memory(&c.Memory) },
	"disk_size":             func(c *Config, v value) error { return v.size(&c.Disk) },
	"overlay_size":          func(c *Config, v value) error { return v.size(&c.Overlay) },
	"default_image":         func(c *Config, v value) error { return v.word(&c.DefaultImage) },
	"firecracker_bin":       func(c *Config, v value) error { return v.command(&c.FirecrackerBin) },
	"ssh_key_path":          func(c *Config, v value) error { return v.absolute(&c.SSHKeyPath) },
	"namegen_path":          func(c *Config, v value) error { return v.command(&c.NamegenPath) },
	"customize_script":      func(c *Config, v value) error { return v.path(&c.CustomizeScript) },
	"default_rootfs":        func(c *Config, v value) error { return v.path(&c.DefaultRootfs) },
	"default_base_rootfs":   func(c *Config, v value) error { return v.path(&c.DefaultBaseRootfs) },
	"default_kernel":        func(c *Config, v value) error { return v.path(&c.DefaultKernel) },
	"default_initrd":        func(c *Config, v value) error { return v.path(&c.DefaultInitrd) },
	"default_modules_dir":   func(c *Config, v value) error { return v.path(&c.DefaultModulesDir) },
	"default_packages_file": func(c *Config, v value) error { return v.path(&c.DefaultPackagesFile) },
	"mapdns_bin":            func(c *Config, v value) error { return v.command(&c.MapdnsBin) },
	"mapdns_data_file":      func(c *Config, v value) error { return v.absolute(&c.MapdnsDataFile) },
}

// parse sets in c what data says and returns everything that is wrong with it.
// toml.Unmarshal would stop at the first wrong type, hence the walk.
func parse(c *Config, data []byte, home string) []error {
	if err := toml.Unmarshal(data, &map[string]any{}); err != nil {
		var bad *toml.DecodeError
		if errors.As(err, &bad) {
			line, column := bad.Position()
			err = fmt.Errorf("line %d, column %d: %s", line, column, strings.TrimPrefix(bad.Error(), "toml: "))
		}
		return []error{err}
	}
	var problems []error
	var parser unstable.Parser
	parser.Reset(data)
	table := false
	for parser.NextExpression() {
		node := parser.Expression()
		switch node.Kind {
		case unstable.Table, unstable.ArrayTable:
			table = true
			problems = append(problems, at(&parser, node, unknown("table", name(node))))
		case unstable.KeyValue:
			if table {
				continue // its table was reported already
			}
			if err := set(c, node, home); err != nil {
				problems = append(problems, at(&parser, node, err))
			}
		}
	}
	return problems
}

func set(c *Config, node *unstable.Node, home string) error {
	key := name(node)
	assign, ok := keys[key]
	if !ok {
		return unknown("key", key)
	}
	v := node.Value()
	if err := assign(c, value{text: string(v.Data), kind: v.Kind, home: home}); err != nil {
		return fmt.Errorf("%s: %w", key, err)
	}
	return nil
}

// at puts the position of a node's key before err.
func at(parser *unstable.Parser, node *unstable.Node, err error) error {
	key := node.Key()
	if !key.Next() {
		return err
	}
	start := parser.Shape(key.Node().Raw).Start
	return fmt.Errorf("line %d, column %d: %w", start.Line, start.Column, err)
}

func name(node *unstable.Node) string {
	var parts []string
	for key := node.Key(); key.Next(); {
		parts = append(parts, string(key.Node().Data))
	}
	return strings.Join(parts, ".")
}

func unknown(what, key string) error {
	err := fmt.Errorf("unknown %s %q", what, key)
	for known := range keys {
		if near(key, known) {
			return fmt.Errorf("%w, perhaps %s", err, known)
		}
	}
	return err
}

// near says whether two keys differ by one letter, or in their separators or case.
func near(a, b string) bool {
	plain := strings.NewReplacer("-", "", "_", "", ".", "")
	a, b = strings.ToLower(plain.Replace(a)), plain.Replace(b)
	if len(a) > len(b) {
		a, b = b, a
	}
	if len(b)-len(a) > 1 {
		return false
	}
	i := 0
	for i < len(a) && a[i] == b[i] {
		i++
	}
	return a[i:] == b[min(i+1, len(b)):] || len(a) == len(b) && a[min(i+1, len(a)):] == b[min(i+1, len(b)):]
}

func (v value) string() (string, error) {
	if v.kind != unstable.String {
		return "", fmt.Errorf("want a string in quotes, found %s", article(v.kind))
	}
	if strings.ContainsRune(v.text, 0) {
		return "", errors.New("a string cannot hold a zero byte")
	}
	return v.text, nil
}

func article(kind unstable.Kind) string {
	if kind == unstable.Integer || kind == unstable.Array || kind == unstable.InlineTable {
		return "an " + map[unstable.Kind]string{unstable.Integer: "integer", unstable.Array: "array", unstable.InlineTable: "inline table"}[kind]
	}
	return "a " + strings.ToLower(kind.String())
}

func (v value) word(to *string) error {
	text, err := v.string()
	if err == nil && text == "" {
		err = errors.New("must not be empty")
	}
	*to = text
	return err
}

func (v value) level(to *slog.Level) error {
	text, err := v.string()
	if err != nil {
		return err
	}
	return setLevel(to, text)
}

var levels = []string{"debug", "info", "warn", "error"}

func setLevel(to *slog.Level, text string) error {
	if !slices.Contains(levels, strings.ToLower(text)) {
		return fmt.Errorf("%q is not one of %s", text, strings.Join(levels, ", "))
	}
	return to.UnmarshalText([]byte(text))
}

// path reads a path: "~/x" is below the home directory.
func (v value) path(to *string) error {
	text, err := v.string()
	if err != nil || text == "" {
		return err
	}
	if text == "~" || strings.HasPrefix(text, "~/") {
		if !filepath.IsAbs(v.home) {
			return errors.New("~ stands for HOME, which is not set")
		}
		text = filepath.Join(v.home, text[1:])
	}
	*to = filepath.Clean(text)
	return nil
}

func (v value) absolute(to *string) error {
	var path string
	if err := v.path(&path); err != nil || path == "" {
		return err
	}
	if !filepath.IsAbs(path) {
		return fmt.Errorf("%q is relative; write an absolute path or one below ~", path)
	}
	*to = path
	return nil
}

// command reads a program: a bare name is looked up in PATH by whoever runs it.
func (v value) command(to *string) error {
	if v.kind == unstable.String && v.text != "" && v.text != "~" && !strings.ContainsAny(v.text, "/\x00") {
		*to = v.text
		return nil
	}
	return v.absolute(to)
}

func (v value) count(to *int) error {
	if v.kind != unstable.Integer {
		return fmt.Errorf("want a number, found %s", article(v.kind))
	}
	n, err := strconv.ParseInt(v.text, 0, 32)
	if err != nil || n < 1 || n > 1024 {
		return fmt.Errorf("%s is not between 1 and 1024", v.text)
	}
	*to = int(n)
	return nil
}

// memory reads a size; a bare number counts in MiB.
func (v value) memory(to *banger.Size) (err error) {
	if v.kind != unstable.String && v.kind != unstable.Integer {
		return fmt.Errorf("want a size such as \"2G\" or a number of MiB, found %s", article(v.kind))
	}
	*to, err = banger.ParseSize(strings.ReplaceAll(v.text, "_", ""), banger.MiB)
	return err
}

// size reads a size with its unit: a bare number would be a guess.
func (v value) size(to *banger.Size) (err error) {
	if v.kind != unstable.String {
		return fmt.Errorf("want a size with its unit such as \"16G\", found %s", article(v.kind))
	}
	if strings.Trim(v.text, " .0123456789") == "" {
		return fmt.Errorf("%q has no unit; write a size such as \"16G\"", v.text)
	}
	*to, err = banger.ParseSize(v.text, banger.MiB)
	return err
}
