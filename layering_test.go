package sallyport_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"go/parser"
	"go/token"
	"io"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
)

const module = "github.com/sallyport-net/sallyport"

// arrows say which packages of ours a package may import. The longest name
// that is the package or a folder above it counts; "x/..." is x and all below.
// A package may always import what lies in its own folder and below it, but
// for what [kept] says. Tests may import more: see the second list.
var arrows = map[string]struct {
	may     []string
	inTests []string
	why     string
}{
	".":                {nil, nil, "the root is the vocabulary of all others and stands on the standard library alone"},
	"internal":         {nil, nil, "internal packages are leaves"},
	"holepunch":        {[]string{".", "internal/packet"}, []string{"holepunch/natlab"}, "holepunch, rendezvous and relay never import each other"},
	"holepunch/natlab": {nil, nil, "the laboratory must not share code with what it tests"},
	"rendezvous": {[]string{".", "internal/packet"}, []string{"rendezvous/server", "holepunch/natlab"},
		"holepunch, rendezvous and relay never import each other, and a client never imports its server"},
	"rendezvous/server": {[]string{".", "internal/packet", "rendezvous/..."}, []string{"holepunch/natlab"}, "holepunch, rendezvous and relay never import each other"},
	"relay": {[]string{".", "internal/packet"}, []string{"relay/server", "holepunch/natlab"},
		"holepunch, rendezvous and relay never import each other, and a client never imports its server"},
	"relay/server": {[]string{".", "internal/packet", "relay"}, []string{"holepunch/natlab"}, "holepunch, rendezvous and relay never import each other"},
	"peerconn": {[]string{".", "internal/packet", "holepunch", "holepunch/behavior", "holepunch/portmap", "rendezvous", "rendezvous/dht", "relay"},
		[]string{"holepunch/natlab", "rendezvous/server", "relay/server"}, "peerconn joins the three clients and knows no server"},
	"cmd":         {[]string{".", "internal/packet", "holepunch/...", "rendezvous/...", "relay/...", "peerconn"}, nil, "the command stands above all but the tests"},
	"e2e":         {[]string{".", "internal/packet", "holepunch/...", "rendezvous/...", "relay/...", "peerconn"}, nil, "e2e wires whole nodes as the command does"},
	"netns-tests": {nil, nil, "netns-tests drives the built binary from outside: what it proves must not come from our own code"},
}

// kept packages may be imported only by some, whatever arrows say.
var kept = map[string]struct {
	by      []string
	inTests []string
	why     string
}{
	"peerconn":          {[]string{"cmd/...", "e2e/...", "peerconn/..."}, nil, "only the command and e2e stand above peerconn"},
	"holepunch/natlab":  {[]string{"cmd/sally", "e2e/...", "holepunch/natlab/..."}, []string{"./..."}, "the emulated internet is for tests and for `sally demo`"},
	"rendezvous/server": {[]string{"cmd/...", "e2e/...", "rendezvous/server/..."}, []string{"./..."}, "a client never carries its server"},
	"relay/server":      {[]string{"cmd/...", "e2e/...", "relay/server/..."}, []string{"./..."}, "a client never carries its server"},
	"e2e":               {[]string{"e2e/..."}, nil, "e2e holds tests"},
	"cmd":               {[]string{"cmd/..."}, nil, "nothing stands above the command"},
}

// owners say who may import a module that is not ours. A library that is not
// here has no owner: decide who it is and write it down in docs/dependencies.md too.
var owners = map[string]struct {
	packages []string
	inTests  []string
	why      string
}{
	"github.com/quic-go/quic-go":      {[]string{"rendezvous", "rendezvous/server", "peerconn"}, []string{"./..."}, "QUIC belongs to the link and to signalling"},
	"github.com/pion/turn/v5":         {[]string{"relay", "relay/server"}, []string{"holepunch/natlab"}, "TURN belongs to the relay"},
	"github.com/pion/logging":         {[]string{"relay", "relay/server"}, []string{"holepunch/natlab"}, "only pion/turn asks for it"},
	"github.com/pion/stun/v4":         {[]string{"holepunch", "holepunch/behavior", "rendezvous/server", "relay", "relay/server"}, []string{"internal/packet", "holepunch/natlab"}, "STUN belongs to gathering, the node and the relay"},
	"github.com/urfave/cli/v2":        {[]string{"cmd/..."}, nil, "only the command has flags"},
	"golang.org/x/term":               {[]string{"cmd/..."}, nil, "only the command has a terminal"},
	"golang.org/x/net":                {[]string{"peerconn", "relay/server"}, []string{"./..."}, "batched reads and writes belong to the data planes"},
	"golang.org/x/sys":                {[]string{"peerconn", "relay/server", "holepunch"}, []string{"./..."}, "socket options belong to who owns a socket"},
	"github.com/vishvananda/netlink":  {nil, []string{"netns-tests"}, "namespaces are for tests"},
	"github.com/vishvananda/netns":    {nil, []string{"netns-tests"}, "namespaces are for tests"},
	"github.com/google/nftables":      {nil, []string{"netns-tests"}, "kernel NAT is for tests"},
	"github.com/rogpeppe/go-internal": {nil, []string{"cmd/..."}, "testscript tests the command"},
	"go.uber.org/goleak":              {nil, []string{"./..."}, "leaks are looked for in tests"},
	"google.golang.org/grpc":          {nil, []string{"peerconn", "e2e"}, "gRPC is an example of what runs over a link"},
}

// goPackage is what we read of `go list -json`.
type goPackage struct {
	Dir, ImportPath                   string
	GoFiles, CgoFiles, IgnoredGoFiles []string
	TestGoFiles, XTestGoFiles         []string
	Standard                          bool
	Error                             *struct{ Err string }
}

// rel is the package's folder seen from the root, "." for the root.
func (p goPackage) rel() string { return relative(p.ImportPath) }

func relative(importPath string) string {
	if importPath == module {
		return "."
	}
	return strings.TrimPrefix(importPath, module+"/")
}

// files are all Go files of the package, for whatever system they are.
func (p goPackage) files() []string {
	return slices.Concat(p.GoFiles, p.CgoFiles, p.IgnoredGoFiles, p.TestGoFiles, p.XTestGoFiles)
}

func goCommand(t *testing.T, args ...string) []byte {
	t.Helper()
	cmd := exec.Command("go", args...)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("go %s: %v\n%s", strings.Join(args, " "), err, stderr.String())
	}
	return out
}

func listPackages(t *testing.T) []goPackage {
	t.Helper()
	var packages []goPackage
	for d := json.NewDecoder(bytes.NewReader(goCommand(t, "list", "-e", "-json", "./..."))); ; {
		var p goPackage
		if err := d.Decode(&p); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			t.Fatal("go list -json:", err)
		}
		packages = append(packages, p)
	}
	if len(packages) == 0 {
		t.Fatal("go list finds no package")
	}
	return packages
}

// within reports whether pkg is one of the patterns.
func within(pkg string, patterns []string) bool {
	return slices.ContainsFunc(patterns, func(pattern string) bool {
		folder, below := strings.CutSuffix(pattern, "/...")
		return pattern == "./..." || pkg == folder || below && strings.HasPrefix(pkg, folder+"/")
	})
}

// longest finds the key that is path itself or the nearest folder above it.
func longest[V any](table map[string]V, path string) (V, bool) {
	for p := path; ; p = filepath.ToSlash(filepath.Dir(p)) {
		if v, ok := table[p]; ok {
			return v, true
		}
		if p == "." || p == "/" || !strings.Contains(p, "/") {
			var none V
			return none, false
		}
	}
}

// forbidden says why importer may not import path, or "".
func forbidden(importer, path string, inTest bool) string {
	first, _, _ := strings.Cut(path, "/")
	switch {
	case path == module || strings.HasPrefix(path, module+"/"):
		return forbiddenOurs(importer, relative(path), inTest)
	case strings.Contains(first, "."):
		return forbiddenForeign(importer, path, inTest)
	}
	return "" // standard library
}

func forbiddenOurs(importer, imported string, inTest bool) string {
	if rule, ok := longest(kept, imported); ok && !within(importer, rule.by) && !(inTest && within(importer, rule.inTests)) {
		return rule.why
	}
	rule, ok := longest(arrows, importer)
	if !ok {
		return "package " + importer + " has no arrows yet: say in layering_test.go what it may import"
	}
	own := imported == importer || importer != "." && strings.HasPrefix(imported, importer+"/")
	if own || within(imported, rule.may) || inTest && within(imported, rule.inTests) {
		return ""
	}
	if room, _, _ := strings.Cut(importer, "/"); imported == room+"/internal" || strings.HasPrefix(imported, room+"/internal/") {
		return "" // what a room shares inside
	}
	return rule.why
}

func forbiddenForeign(importer, path string, inTest bool) string {
	owner, ok := longest(owners, path)
	if !ok {
		return "this library has no owner: see owners in layering_test.go"
	}
	if within(importer, owner.packages) || inTest && within(importer, owner.inTests) {
		return ""
	}
	return fmt.Sprintf("%s: only %v may, and tests of %v", owner.why, owner.packages, owner.inTests)
}

func TestImports(t *testing.T) {
	for _, p := range listPackages(t) {
		for _, name := range p.files() {
			fset := token.NewFileSet()
			file, err := parser.ParseFile(fset, filepath.Join(p.Dir, name), nil, parser.ImportsOnly)
			if err != nil {
				t.Error(err)
				continue
			}
			for _, spec := range file.Imports {
				path, err := strconv.Unquote(spec.Path.Value)
				if err != nil {
					t.Error(err)
				}
				if why := forbidden(p.rel(), path, strings.HasSuffix(name, "_test.go")); why != "" {
					t.Errorf("%s/%s:%d imports %s: %s", p.rel(), name, fset.Position(spec.Pos()).Line, path, why)
				}
			}
		}
	}
}

// The rules themselves: what must be refused is refused.
func TestLayeringRules(t *testing.T) {
	ours := func(p string) string { return module + "/" + p }
	for _, test := range []struct {
		importer, path string
		inTest, ok     bool
	}{
		{".", "crypto/tls", false, true},
		{".", ours("internal/packet"), false, false},
		{".", "golang.org/x/net/ipv4", false, false},
		{"internal/packet", module, false, false},
		{"internal/packet", "github.com/pion/stun/v4", false, false},
		{"internal/packet", "github.com/pion/stun/v4", true, true},
		{"holepunch", module, false, true},
		{"holepunch", ours("rendezvous"), false, false},
		{"holepunch", ours("rendezvous"), true, false},
		{"holepunch", ours("holepunch/natlab"), false, false},
		{"holepunch", ours("holepunch/natlab"), true, true},
		{"holepunch/behavior", ours("relay"), false, false},
		{"holepunch/natlab", module, false, false},
		{"rendezvous", ours("relay"), false, false},
		{"rendezvous", ours("holepunch"), false, false},
		{"rendezvous", ours("rendezvous/server"), false, false},
		{"rendezvous", ours("rendezvous/server"), true, true},
		{"rendezvous", ours("rendezvous/internal/wire"), false, true},
		{"rendezvous/server", ours("rendezvous/internal/wire"), false, true},
		{"rendezvous/server", ours("rendezvous"), false, true},
		{"rendezvous/server", ours("relay"), false, false},
		{"rendezvous/server", ours("relay/server"), false, false},
		{"relay", ours("relay/server"), false, false},
		{"relay/server", ours("relay"), false, true},
		{"relay", ours("peerconn"), true, false},
		{"peerconn", ours("rendezvous/server"), false, false},
		{"peerconn", ours("rendezvous/server"), true, true},
		{"peerconn", ours("relay"), false, true},
		{"peerconn", ours("holepunch/natlab"), false, false},
		{"cmd/sally", ours("peerconn"), false, true},
		{"cmd/sally", ours("relay/server"), false, true},
		{"cmd/sally", ours("holepunch/natlab"), false, true},
		{"cmd/sally", ours("e2e"), false, false},
		{"e2e", ours("peerconn"), false, true},
		{"netns-tests", module, true, false},
		{"netns-tests", ours("holepunch/natlab"), true, false},
		{"netns-tests", "github.com/vishvananda/netlink", true, true},
		{"netns-tests", "github.com/vishvananda/netlink", false, false},
		{"peerconn", "github.com/vishvananda/netlink", true, false},
		{"holepunch", "github.com/quic-go/quic-go", false, false},
		{"holepunch", "github.com/quic-go/quic-go", true, true},
		{"peerconn", "github.com/pion/turn/v5", false, false},
		{"peerconn", "github.com/urfave/cli/v2", false, false},
		{"relay", "github.com/pion/turn/v2", false, false},
		{"relay", "github.com/nobody/knows", true, false},
		{"newroom", module, false, false},
	} {
		if why := forbidden(test.importer, test.path, test.inTest); (why == "") != test.ok {
			t.Errorf("%s imports %s (test: %v): allowed %v, want %v %s", test.importer, test.path, test.inTest, why == "", test.ok, why)
		}
	}
}
