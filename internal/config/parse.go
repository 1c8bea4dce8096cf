package config

import (
	"errors"
	"fmt"
	"strings"

	"github.com/pelletier/go-toml/v2"
	"github.com/pelletier/go-toml/v2/unstable"
)

// list prints one problem a line. It does not unwrap: FixOf would return the
// fix of one problem as that of all.
type list []error

func (l list) Error() string {
	lines := make([]string, len(l))
	for i, err := range l {
		lines[i] = err.Error()
	}
	return strings.Join(lines, "\n")
}

// parse sets in c what data says and returns everything that is wrong with it.
// Decoding into a struct would stop at the first wrong value, so parse decodes
// into a map and walks the file for the keys' positions.
func parse(c *Config, data []byte, home string) (problems []error) {
	values := map[string]any{}
	if err := toml.Unmarshal(data, &values); err != nil {
		var bad *toml.DecodeError
		if errors.As(err, &bad) {
			line, column := bad.Position()
			err = fmt.Errorf("line %d, column %d: %s", line, column, strings.TrimPrefix(bad.Error(), "toml: "))
		}
		return []error{err}
	}
	var parser unstable.Parser
	parser.Reset(data)
	for inTable := false; parser.NextExpression(); {
		node := parser.Expression()
		var err error
		name, raw := nameOf(node)
		switch {
		case node.Kind != unstable.KeyValue:
			inTable, err = true, unknown("table", name)
		case !inTable: // else the table was reported already
			err = set(c, name, value{values[name], home})
		}
		if err != nil {
			at := parser.Shape(raw).Start
			problems = append(problems, fmt.Errorf("line %d, column %d: %w", at.Line, at.Column, err))
		}
	}
	return problems
}

// nameOf returns the dotted name of a key or table, and where it begins.
func nameOf(node *unstable.Node) (name string, start unstable.Range) {
	var parts []string
	for key := node.Key(); key.Next(); parts = append(parts, string(key.Node().Data)) {
		if parts == nil {
			start = key.Node().Raw
		}
	}
	return strings.Join(parts, "."), start
}

func set(c *Config, name string, v value) error {
	for _, key := range legacy {
		if key.name == name {
			c.Legacy = append(c.Legacy, name+": "+key.why)
			return nil
		}
	}
	for _, key := range keys {
		if key.name != name {
			continue
		}
		if err := key.set(c, v); err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
		return nil
	}
	return unknown("key", name)
}

func unknown(what, name string) error {
	for _, key := range keys {
		if near(name, key.name) {
			return fmt.Errorf("unknown %s %q, perhaps %s", what, name, key.name)
		}
	}
	return fmt.Errorf("unknown %s %q", what, name)
}

// near reports whether two keys differ by one letter, or in their separators or case.
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
