package sallyport_test

import (
	"bytes"
	"go/ast"
	"go/format"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// A package with two comments has two authors who did not read each other.
func TestEveryPackageHasOneComment(t *testing.T) {
	for _, p := range listPackages(t) {
		var found []string
		for _, name := range p.files() {
			if strings.HasSuffix(name, "_test.go") && len(p.GoFiles) > 0 {
				continue
			}
			file, err := parser.ParseFile(token.NewFileSet(), filepath.Join(p.Dir, name), nil, parser.PackageClauseOnly|parser.ParseComments)
			if err != nil {
				t.Error(err)
				continue
			}
			if file.Doc == nil {
				continue
			}
			found = append(found, name)
			if want := commentStart(file); !strings.HasPrefix(file.Doc.Text(), want) {
				t.Errorf("%s/%s: the package comment does not begin with %q", p.rel(), name, want)
			}
		}
		if len(found) != 1 {
			t.Errorf("package %s has %d package comments %v, want 1", p.rel(), len(found), found)
		}
	}
}

// commentStart is how https://go.dev/doc/comment wants a package comment to begin.
func commentStart(file *ast.File) string {
	if file.Name.Name == "main" {
		return "" // "Sally does ..."
	}
	return "Package " + strings.TrimSuffix(file.Name.Name, "_test")
}

func TestEveryFileIsFormatted(t *testing.T) {
	count := 0
	err := filepath.WalkDir(".", func(path string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if name := entry.Name(); entry.IsDir() && path != "." && (name == "testdata" || strings.HasPrefix(name, ".")) {
			return fs.SkipDir
		}
		if entry.IsDir() || filepath.Ext(path) != ".go" {
			return nil
		}
		count++
		source, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		formatted, err := format.Source(source)
		if err != nil {
			t.Errorf("%s: %v", path, err)
		} else if !bytes.Equal(source, formatted) {
			t.Errorf("%s is not formatted: run gofmt -w %s", path, path)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if count == 0 {
		t.Fatal("no Go file found")
	}
}

// Constants may be explained behind the line, by their group or by their type;
// Error and String are explained by the interfaces they are for.
func TestEveryExportedNameIsDocumented(t *testing.T) {
	for _, p := range listPackages(t) {
		for _, name := range p.files() {
			if strings.HasSuffix(name, "_test.go") {
				continue
			}
			fset := token.NewFileSet()
			file, err := parser.ParseFile(fset, filepath.Join(p.Dir, name), nil, parser.ParseComments|parser.SkipObjectResolution)
			if err != nil {
				t.Error(err)
				continue
			}
			if file.Name.Name == "main" {
				continue // nobody can import it
			}
			for _, decl := range file.Decls {
				for _, bare := range undocumented(decl) {
					t.Errorf("%s/%s:%d: %s has no comment", p.rel(), name, fset.Position(bare.Pos()).Line, bare.Name)
				}
			}
		}
	}
}

// undocumented lists the exported names of a declaration that nothing explains.
func undocumented(decl ast.Decl) (names []*ast.Ident) {
	if f, ok := decl.(*ast.FuncDecl); ok {
		wellKnown := f.Recv != nil && (f.Name.Name == "Error" || f.Name.Name == "String")
		if f.Doc == nil && f.Name.IsExported() && !wellKnown && (f.Recv == nil || receiver(f.Recv.List[0].Type).IsExported()) {
			names = append(names, f.Name)
		}
		return names
	}
	group, ok := decl.(*ast.GenDecl)
	if !ok || group.Doc != nil {
		return nil
	}
	for _, spec := range group.Specs {
		switch s := spec.(type) {
		case *ast.TypeSpec:
			if s.Name.IsExported() && s.Doc == nil && s.Comment == nil {
				names = append(names, s.Name)
			}
		case *ast.ValueSpec:
			if s.Names[0].IsExported() && s.Type == nil && s.Doc == nil && s.Comment == nil {
				names = append(names, s.Names[0])
			}
		}
	}
	return names
}

// receiver is the name of a method's type, behind a star or type parameters.
func receiver(expr ast.Expr) *ast.Ident {
	switch e := expr.(type) {
	case *ast.Ident:
		return e
	case *ast.StarExpr:
		return receiver(e.X)
	case *ast.IndexExpr:
		return receiver(e.X)
	case *ast.IndexListExpr:
		return receiver(e.X)
	}
	return ast.NewIdent("_")
}
