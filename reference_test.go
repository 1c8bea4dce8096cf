package banger_test

import (
	"cmp"
	"flag"
	"fmt"
	"go/ast"
	"go/token"
	"os"
	"reflect"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"banger"
)

var update = flag.Bool("update", false, "rewrite testdata/texts.golden and the generated parts of docs/*.md")

// generated matches a part of a document that TestReference writes. Its first line
// names what is in it: fields DIR TYPE, values DIR TYPE, objects, bodies, routes or
// transitions.
var generated = regexp.MustCompile(`(?s)(<!-- generated: ([^\n]*) -->\n)(.*?)(<!-- end -->)`)

// TestReference compares the API routes, the JSON fields and the states of a VM in the
// documents with the code.
func TestReference(t *testing.T) {
	code := reference{t: t, root: parseDir(t, "."), api: parseDir(t, "internal/api")}
	for _, path := range []string{"docs/json.md", "docs/api.md", "docs/internals.md"} {
		old, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		parts := 0
		text := generated.ReplaceAllStringFunc(string(old), func(part string) string {
			parts++
			match := generated.FindStringSubmatch(part)
			return match[1] + "\n" + code.part(strings.Fields(match[2])) + "\n" + match[4]
		})
		if parts == 0 {
			t.Errorf("%s has no generated part", path)
		}
		if text == string(old) {
			continue
		}
		if !*update {
			t.Errorf("%s differs from the code; fix: go test -run TestReference . -update", path)
			continue
		}
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
}

// reference reads the code that the documents describe.
type reference struct {
	t         *testing.T
	root, api []*ast.File
}

func (r reference) part(words []string) string {
	switch words[0] {
	case "fields":
		return r.fields(parseDir(r.t, words[1]), words[2])
	case "values":
		return r.values(parseDir(r.t, words[1]), words[2])
	case "routes":
		return r.routesTable()
	case "transitions":
		return transitions()
	case "bodies":
		return r.sections(func(m method) string { return m.body })
	case "objects":
		return r.sections(func(m method) string { return m.answer })
	}
	r.t.Fatalf("there is no generated part %q", words)
	return ""
}

// transitions lists the verbs that a VM takes in each state.
func transitions() string {
	text := "| state | verb and next state |\n|---|---|\n"
	for _, state := range append([]banger.State{banger.Gone}, banger.States...) {
		next := map[string][]string{}
		var order []string
		for _, t := range banger.Transitions {
			to := cmp.Or(string(t.To), "gone")
			if t.Wait {
				to = "waits for the end"
			}
			if t.From != state {
				continue
			}
			if t.To == t.From {
				to = "stays"
			}
			if next[to] == nil {
				order = append(order, to)
			}
			next[to] = append(next[to], string(t.Verb))
		}
		for i, to := range order {
			order[i] = strings.Join(next[to], ", ") + " → " + to
		}
		text += fmt.Sprintf("| %s | %s |\n", cmp.Or(string(state), "gone"), strings.Join(order, "; "))
	}
	return text
}

// sections describes every struct that the routes use in one direction.
func (r reference) sections(pick func(method) string) string {
	var names []string
	for _, route := range r.routes() {
		names = r.reachable(names, strings.TrimLeft(pick(route.method), "[]~"))
	}
	var text strings.Builder
	for i, name := range names {
		if i > 0 {
			text.WriteByte('\n')
		}
		fmt.Fprintf(&text, "### %s\n\n%s", name, r.fields(r.root, name))
	}
	return text.String()
}

// reachable adds a struct and those that its fields hold, each once.
func (r reference) reachable(names []string, name string) []string {
	structure, ok := typeNamed(r.root, name).(*ast.StructType)
	if !ok || r.isText(name) || slices.Contains(names, name) {
		return names
	}
	names = append(names, name)
	for _, field := range structure.Fields.List {
		names = r.reachable(names, strings.TrimLeft(typeText(field.Type), "[]*"))
	}
	return names
}

func (r reference) fields(files []*ast.File, name string) string {
	structure, ok := typeNamed(files, name).(*ast.StructType)
	if !ok {
		r.t.Fatalf("there is no struct %s", name)
	}
	return "| field | type | meaning |\n|---|---|---|\n" + r.rows(files, name, structure)
}

func (r reference) rows(files []*ast.File, name string, structure *ast.StructType) string {
	text := ""
	for _, field := range structure.Fields.List {
		if embedded, ok := typeNamed(files, typeText(field.Type)).(*ast.StructType); ok && field.Names == nil {
			text += r.rows(files, name, embedded)
			continue
		}
		if field.Tag == nil {
			r.t.Errorf("%s: a field has no json tag", name)
			continue
		}
		tag, _ := strconv.Unquote(field.Tag.Value)
		key, options, _ := strings.Cut(reflect.StructTag(tag).Get("json"), ",")
		meaning := sentence(field.Comment, field.Doc)
		if meaning == "" {
			r.t.Errorf("%s: the field %s has no comment", name, key)
		}
		kind := r.jsonType(field.Type, key)
		if options != "" {
			kind += ", optional"
		}
		text += fmt.Sprintf("| `%s` | %s | %s |\n", key, kind, meaning)
	}
	return text
}

// isText reports whether a type writes itself as a string.
func (r reference) isText(name string) bool {
	return slices.ContainsFunc(r.root, func(file *ast.File) bool {
		return slices.ContainsFunc(file.Decls, func(decl ast.Decl) bool {
			f, ok := decl.(*ast.FuncDecl)
			return ok && f.Recv != nil && f.Name.Name == "MarshalText" && strings.TrimLeft(typeText(f.Recv.List[0].Type), "*") == name
		})
	})
}

// jsonType returns the type of a field as a reader of JSON sees it.
func (r reference) jsonType(expr ast.Expr, key string) string {
	text := typeText(expr)
	name := strings.TrimLeft(text, "[]*0123456789")
	array := ""
	if strings.HasPrefix(strings.TrimLeft(text, "*"), "[") {
		array = "array of "
	}
	basic := map[string]string{"string": "string", "bool": "boolean", "int": "integer", "int64": "integer", "uint16": "integer", "uint64": "integer",
		"float64": "number", "Size": "bytes", "Duration": "nanoseconds", "Time": "time"}
	if known, ok := basic[name]; ok {
		return array + known
	}
	if _, ok := typeNamed(r.root, name).(*ast.StructType); ok && !r.isText(name) {
		return array + "[" + name + "](#" + strings.ToLower(name) + ")"
	}
	if strings.HasSuffix(key, "result") || name == "RawMessage" {
		return "object"
	}
	return array + "string"
}

// values lists the constants of a type with what their comments say.
func (r reference) values(files []*ast.File, name string) string {
	text := "| value | meaning |\n|---|---|\n"
	eachSpec(files, func(_ *ast.GenDecl, spec ast.Spec) {
		value, ok := spec.(*ast.ValueSpec)
		if !ok || value.Type == nil || typeText(value.Type) != name || len(value.Values) != 1 {
			return
		}
		literal, ok := value.Values[0].(*ast.BasicLit)
		if !ok || literal.Value == `""` {
			return
		}
		text += fmt.Sprintf("| `%s` | %s |\n", strings.Trim(literal.Value, `"`), sentence(value.Comment, value.Doc))
	})
	return text
}

// method is what a route does: the request's body and the answer, as types of Go.
type method struct{ body, answer string }

type route struct {
	pattern string
	stream  bool // it sends steps before the answer
	method
}

func (r reference) routesTable() string {
	text := "| route | body | answer |\n|---|---|---|\n"
	for _, route := range r.routes() {
		body, answer := route.body, r.link(route.answer)
		if body != "" {
			body = "[" + body + "](#" + strings.ToLower(body) + ")"
			if strings.HasPrefix(route.pattern, "GET ") {
				body += ", as query parameters"
			}
		}
		if route.stream {
			answer = "steps, then " + answer
		}
		text += fmt.Sprintf("| `%s` | %s | %s |\n", route.pattern, body, answer)
	}
	return text
}

// link returns what a route answers, with a link to where its fields are.
func (r reference) link(answer string) string {
	name := strings.TrimLeft(answer, "[]~")
	if _, ok := typeNamed(r.root, name).(*ast.StructType); !ok {
		return cmp.Or(answer, "`{}`")
	}
	text := "[" + name + "](json.md#" + strings.ToLower(name) + ")"
	return map[byte]string{'[': "array of ", '~': "lines of "}[answer[0]] + text
}

// routes finds the patterns in internal/api, and what each leads to in the root's services.
func (r reference) routes() []route {
	methods := r.methods()
	var found []route
	for _, file := range r.api {
		ast.Inspect(file, func(node ast.Node) bool {
			var parts []ast.Node
			switch node := node.(type) {
			case *ast.CallExpr:
				for _, arg := range node.Args {
					parts = append(parts, arg)
				}
			case *ast.CompositeLit:
				for _, element := range node.Elts {
					parts = append(parts, element)
				}
			case *ast.KeyValueExpr:
				parts = append(parts, node.Key, node.Value)
			}
			if pattern := patternIn(parts); pattern != "" {
				called := r.called(methods, parts, true)
				found = append(found, route{pattern: pattern, stream: methods[called].stream, method: methods[called].method})
			}
			return true
		})
	}
	slices.SortFunc(found, func(a, b route) int {
		_, x, _ := strings.Cut(a.pattern, " ")
		_, y, _ := strings.Cut(b.pattern, " ")
		return cmp.Or(cmp.Compare(x, y), cmp.Compare(a.pattern, b.pattern))
	})
	return found
}

// patternIn returns the route among the parts of an expression, or "".
func patternIn(parts []ast.Node) string {
	for _, part := range parts {
		if literal, ok := part.(*ast.BasicLit); ok && literal.Kind == token.STRING {
			text, _ := strconv.Unquote(literal.Value)
			if strings.HasPrefix(text, "GET /") || strings.HasPrefix(text, "POST /") {
				return text
			}
		}
	}
	return ""
}

// called returns the method of a service that the parts use, themselves or in the
// handler that they name.
func (r reference) called(methods map[string]signature, parts []ast.Node, follow bool) string {
	found, handler := "", ""
	for _, part := range parts {
		ast.Inspect(part, func(node ast.Node) bool {
			selector, ok := node.(*ast.SelectorExpr)
			if !ok {
				return true
			}
			if _, ok := methods[selector.Sel.Name]; ok && found == "" {
				found = selector.Sel.Name
			}
			handler = selector.Sel.Name
			return true
		})
	}
	if found != "" || !follow {
		return found
	}
	for _, file := range r.api {
		for _, decl := range file.Decls {
			if function, ok := decl.(*ast.FuncDecl); ok && function.Name.Name == handler && function.Recv != nil {
				return r.called(methods, []ast.Node{function.Body}, false)
			}
		}
	}
	return ""
}

type signature struct {
	method
	stream bool
}

// methods returns the methods of the root's service interfaces.
func (r reference) methods() map[string]signature {
	found := map[string]signature{}
	eachSpec(r.root, func(_ *ast.GenDecl, spec ast.Spec) {
		typ, ok := spec.(*ast.TypeSpec)
		if !ok {
			return
		}
		service, ok := typ.Type.(*ast.InterfaceType)
		if !ok {
			return
		}
		for _, m := range service.Methods.List {
			function, ok := m.Type.(*ast.FuncType)
			if !ok {
				continue
			}
			sig := signature{method: method{answer: answer(function)}}
			for _, param := range function.Params.List {
				name := typeText(param.Type)
				if _, ok := typeNamed(r.root, name).(*ast.StructType); ok {
					sig.body = name
				}
				sig.stream = sig.stream || name == "Progress"
			}
			found[m.Names[0].Name] = sig
		}
	})
	return found
}

// answer returns the type of what a method returns: VM, []VM, or ~Event for a sequence.
func answer(function *ast.FuncType) string {
	if sequence, ok := function.Results.List[0].Type.(*ast.IndexListExpr); ok {
		return "~" + typeText(sequence.Indices[0])
	}
	if len(function.Results.List) < 2 {
		return "`{}`"
	}
	switch name := typeText(function.Results.List[0].Type); name {
	case "ReadCloser":
		return "text"
	case "Conn":
		return "a raw stream"
	default:
		return name
	}
}
