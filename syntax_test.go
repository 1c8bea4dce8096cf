package banger_test

import (
	"go/ast"
	"go/parser"
	"go/token"
	"path/filepath"
	"strings"
	"testing"
)

// parseDir parses the Go files of a directory, without tests.
func parseDir(t *testing.T, dir string) []*ast.File {
	t.Helper()
	paths, err := filepath.Glob(filepath.Join(dir, "*.go"))
	if err != nil {
		t.Fatal(err)
	}
	var files []*ast.File
	for _, path := range paths {
		if strings.HasSuffix(path, "_test.go") {
			continue
		}
		file, err := parser.ParseFile(token.NewFileSet(), path, nil, parser.ParseComments)
		if err != nil {
			t.Fatal(err)
		}
		files = append(files, file)
	}
	return files
}

func eachSpec(files []*ast.File, do func(*ast.GenDecl, ast.Spec)) {
	for _, file := range files {
		for _, decl := range file.Decls {
			if general, ok := decl.(*ast.GenDecl); ok {
				for _, spec := range general.Specs {
					do(general, spec)
				}
			}
		}
	}
}

// typeNamed returns the type of that name, or nil.
func typeNamed(files []*ast.File, name string) (found ast.Expr) {
	eachSpec(files, func(_ *ast.GenDecl, spec ast.Spec) {
		if typ, ok := spec.(*ast.TypeSpec); ok && typ.Name.Name == name {
			found = typ.Type
		}
	})
	return found
}

// typeText returns a type without its package: []VM, *Size, Duration.
func typeText(expr ast.Expr) string {
	switch e := expr.(type) {
	case *ast.Ident:
		return e.Name
	case *ast.SelectorExpr:
		return e.Sel.Name
	case *ast.StarExpr:
		return "*" + typeText(e.X)
	case *ast.ArrayType:
		return "[]" + typeText(e.Elt)
	}
	return ""
}

// sentence returns the first of the comments that says something, on one line.
func sentence(comments ...*ast.CommentGroup) string {
	for _, comment := range comments {
		if text := strings.Join(strings.Fields(comment.Text()), " "); text != "" {
			return strings.ReplaceAll(text, "|", `\|`)
		}
	}
	return ""
}
