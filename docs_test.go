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
