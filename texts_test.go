package banger_test

import (
	"bytes"
	"context"
	"go/ast"
	"go/parser"
	"go/printer"
	"go/token"
	"io/fs"
	"maps"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"banger/internal/cli"
)

// TestTexts lists what people read, so that it can be read as one piece: the
// help of every command, then the errors, fixes and other sentences of every
// package. Whoever changes such a text regenerates the file.
func TestTexts(t *testing.T) {
	const golden = "testdata/texts.golden"
	got := []byte(help(t, "banger") + sentences(t))
	if *update {
		if err := os.WriteFile(golden, got, 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	want, err := os.ReadFile(golden)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, want) {
		t.Errorf("%s is out of date, or the merge of two versions; never edit it, but run\n\tgo test . -run TestTexts -update\n%s", golden, firstDifference(string(got), string(want)))
	}
}

func firstDifference(got, want string) string {
	g, w := strings.Split(got, "\n"), strings.Split(want, "\n")
	for i := range min(len(g), len(w)) {
		if g[i] != w[i] {
			return "got  " + g[i] + "\nwant " + w[i]
		}
	}
	return "one is longer than the other"
}

// help returns what --help prints for a command and for all below it.
func help(t *testing.T, command string) string {
	t.Helper()
	words := strings.Fields(command)
	var out bytes.Buffer
	std := cli.Std{In: strings.NewReader(""), Out: &out, Err: &out, Getenv: func(key string) string { return map[string]string{"HOME": "/nonexistent"}[key] }}
	if code := cli.Main(context.Background(), std, append(words[1:], "--help")); code != 0 {
		t.Fatalf("%s --help: exit code %d\n%s", command, code, out.String())
	}
	text, section := "$ "+command+" --help\n"+out.String()+"\n", ""
	below := []string{}
	for line := range strings.Lines(out.String()) {
		if !strings.HasPrefix(line, " ") {
			section = strings.TrimSpace(line)
		} else if section == "Available Commands:" {
			below = append(below, strings.Fields(line)[0])
		}
	}
	if command == "banger vm" {
		below = append(below, "proxy") // hidden
	}
	for _, name := range below {
		if name != "help" && name != "completion" {
			text += help(t, command+" "+name)
		}
	}
	return text
}

// sentences returns the texts in the tree's Go code, without those of tests.
func sentences(t *testing.T) string {
	t.Helper()
	found := map[string]*strings.Builder{}
	err := filepath.WalkDir(".", func(file string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if entry.IsDir() && file != "." && (entry.Name() == "testdata" || strings.HasPrefix(entry.Name(), ".") || file == "runtime") {
			return fs.SkipDir
		}
		if entry.IsDir() || !strings.HasSuffix(file, ".go") || strings.HasSuffix(file, "_test.go") {
			return nil
		}
		parsed, err := parser.ParseFile(token.NewFileSet(), file, nil, parser.SkipObjectResolution)
		if err != nil {
			return err
		}
		dir := path.Dir(filepath.ToSlash(file))
		if found[dir] == nil {
			found[dir] = &strings.Builder{}
		}
		ast.Inspect(parsed, (&texts{out: found[dir]}).visit)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	all := ""
	for _, dir := range slices.Sorted(maps.Keys(found)) {
		if text := found[dir].String(); text != "" {
			all += "== " + dir + "\n" + text + "\n"
		}
	}
	return all
}

// texts collects the texts of one file.
type texts struct{ out *strings.Builder }

// written matches what was written for people, and no paths or options.
var written = regexp.MustCompile(`^[^/]*[a-z]{2,}[,:;]? [a-z%"{(]`)

var sql = regexp.MustCompile(`^(SELECT|INSERT|UPDATE|DELETE|CREATE|PRAGMA) `)

func (c *texts) visit(node ast.Node) bool {
	switch n := node.(type) {
	case *ast.ImportSpec, *ast.Field: // struct tags
		return false
	case *ast.KeyValueExpr:
		if key, ok := n.Key.(*ast.Ident); ok && slices.Contains([]string{"What", "Why", "Fix", "Note", "Detail"}, key.Name) {
			c.add(strings.ToLower(key.Name), n.Value)
			return false
		}
		if key, ok := n.Key.(*ast.Ident); ok && slices.Contains([]string{"Use", "Short", "Long", "Example"}, key.Name) {
			return false // --help has them
		}
	case *ast.AssignStmt:
		if field, ok := n.Lhs[0].(*ast.SelectorExpr); ok && slices.Contains([]string{"Long", "Example"}, field.Sel.Name) {
			return false
		}
	case *ast.CallExpr:
		switch name := called(n); {
		case strings.HasSuffix(name, "Var") || strings.HasSuffix(name, "VarP"):
			return false
		case name == "Invalidf":
			for i, arg := range n.Args[:min(2, len(n.Args))] {
				c.add([]string{"fix", "why"}[i], arg)
			}
			return false
		case name == "Errorf" || name == "New" && len(n.Args) == 1:
			c.add("error", n.Args[0])
			return false
		case slices.Contains([]string{"Debug", "Info", "Warn", "Error"}, name) && len(n.Args) > 0:
			c.add("log", n.Args[0])
			return false
		}
	case *ast.BinaryExpr, *ast.BasicLit:
		c.add("text", n.(ast.Expr))
		return false
	}
	return true
}

// add writes a text that has words in it.
func (c *texts) add(kind string, value ast.Expr) {
	text, literal := render(value)
	if !literal || text == "" || kind == "text" && (!written.MatchString(text) || sql.MatchString(text)) {
		return
	}
	c.out.WriteString(kind + ": " + strings.ReplaceAll(strings.TrimSpace(text), "\n", "\n    ") + "\n")
}

func called(call *ast.CallExpr) string {
	switch f := call.Fun.(type) {
	case *ast.Ident:
		return f.Name
	case *ast.SelectorExpr:
		return f.Sel.Name
	}
	return ""
}

// render returns a text with what is put into it in braces, and whether any of
// it is literal.
func render(value ast.Expr) (text string, literal bool) {
	switch v := value.(type) {
	case *ast.BasicLit:
		if v.Kind != token.STRING {
			return "", false
		}
		text, _ := strconv.Unquote(v.Value)
		return text, true
	case *ast.ParenExpr:
		return render(v.X)
	case *ast.BinaryExpr:
		left, one := render(v.X)
		right, other := render(v.Y)
		return left + right, v.Op == token.ADD && (one || other)
	case *ast.CallExpr:
		if name := called(v); (name == "Sprintf" || name == "Errorf" || name == "New") && len(v.Args) > 0 {
			return render(v.Args[0])
		}
	}
	var source bytes.Buffer
	printer.Fprint(&source, token.NewFileSet(), value)
	return "{" + source.String() + "}", false
}
