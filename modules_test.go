package sallyport_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"regexp"
	"strings"
	"testing"
)

// goModule is what we read of `go list -m -json`.
type goModule struct {
	Path, Version  string
	Main, Indirect bool
	Replace        *goModule
}

func listModules(t *testing.T) []goModule {
	t.Helper()
	var modules []goModule
	for d := json.NewDecoder(bytes.NewReader(goCommand(t, "list", "-m", "-json", "all"))); ; {
		var m goModule
		if err := d.Decode(&m); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			t.Fatal("go list -m -json:", err)
		}
		modules = append(modules, m)
	}
	if len(modules) < 2 {
		t.Fatalf("go list -m finds %d modules", len(modules))
	}
	return modules
}

// banned modules let one packet kill or hang the process that reads it, or have
// no upkeep any more. The vulnerability database knows only newer module paths,
// so a scanner says nothing about these.
var banned = []struct {
	path *regexp.Regexp
	why  string
}{
	{regexp.MustCompile(`^github\.com/pion/turn(/v2)?$`), "one 24-byte datagram kills its client, one 32-byte packet its server, nine bytes over TCP spin a goroutine; use v5"},
	{regexp.MustCompile(`^github\.com/pion/stun(/v2)?$`), "decodes for the turn v2 line and honours attributes behind MESSAGE-INTEGRITY; use v4"},
	{regexp.MustCompile(`^github\.com/pion/(dtls|transport|ice)(/v2)?$`), "belongs to the unmaintained turn v2 line"},
	{regexp.MustCompile(`^github\.com/pion/webrtc(/v[23])?$`), "belongs to the unmaintained turn v2 line"},
	{regexp.MustCompile(`^github\.com/lucas-clemente/quic-go$`), "is the path of quic-go before v0.31, with its old advisories"},
}

// floors are versions that mended what a stranger could do to us.
var floors = map[string]string{
	"github.com/pion/turn/v5":    "v5.1.3",
	"github.com/quic-go/quic-go": "v0.65.0",
}

func whyBanned(path string) string {
	for _, b := range banned {
		if b.path.MatchString(path) {
			return b.why
		}
	}
	return ""
}

// newer reports whether version v is at least floor.
func newer(v, floor string) bool {
	var a, b [3]int
	if n, _ := fmt.Sscanf(v, "v%d.%d.%d", &a[0], &a[1], &a[2]); n != 3 {
		return false
	}
	fmt.Sscanf(floor, "v%d.%d.%d", &b[0], &b[1], &b[2])
	for i := range a {
		if a[i] != b[i] {
			return a[i] > b[i]
		}
	}
	return !strings.Contains(v, "-") // v1.2.3-pre stands before v1.2.3
}

func TestNoBannedModule(t *testing.T) {
	for _, m := range listModules(t) {
		if why := whyBanned(m.Path); why != "" {
			t.Errorf("%s %s is in the build list: %s (see who wants it: go mod graph | grep ' %s@')", m.Path, m.Version, why, m.Path)
		}
		if floor := floors[m.Path]; floor != "" && !newer(m.Version, floor) {
			t.Errorf("%s %s is older than %s", m.Path, m.Version, floor)
		}
		if m.Replace != nil {
			t.Errorf("%s is replaced by %s: `go install` of our command would fail", m.Path, m.Replace.Path)
		}
	}
}

// What is compiled in counts even where the module graph is pruned.
func TestNoBannedPackage(t *testing.T) {
	paths := strings.Fields(string(goCommand(t, "list", "-e", "-deps", "-test", "-f", "{{with .Module}}{{.Path}}{{end}}", "./...")))
	if len(paths) == 0 {
		t.Fatal("go list -deps finds no module")
	}
	seen := map[string]bool{}
	for _, path := range paths {
		if why := whyBanned(path); why != "" && !seen[path] {
			t.Errorf("%s is compiled in: %s", path, why)
		}
		seen[path] = true
	}
}

func TestBannedModulesAreRecognised(t *testing.T) {
	for path, want := range map[string]bool{
		"github.com/pion/turn": true, "github.com/pion/turn/v2": true, "github.com/pion/turn/v5": false,
		"github.com/pion/stun": true, "github.com/pion/stun/v2": true, "github.com/pion/stun/v4": false,
		"github.com/pion/dtls": true, "github.com/pion/dtls/v2": true, "github.com/pion/dtls/v3": false, "github.com/pion/webrtc/v3": true,
		"github.com/quic-go/quic-go": false,
	} {
		if got := whyBanned(path) != ""; got != want {
			t.Errorf("%s: banned %v, want %v", path, got, want)
		}
	}
	for _, test := range []struct {
		v, floor string
		want     bool
	}{{"v5.1.3", "v5.1.3", true}, {"v5.1.10", "v5.1.3", true}, {"v5.1.2", "v5.1.3", false}, {"v6.0.0", "v5.1.3", true}, {"v5.1.3-rc1", "v5.1.3", false}, {"", "v1.0.0", false}} {
		if got := newer(test.v, test.floor); got != test.want {
			t.Errorf("newer(%q, %q) = %v", test.v, test.floor, got)
		}
	}
}

// docs/dependencies.md says of each direct dependency why it is there, and of
// nothing else.
func TestDependenciesAreExplained(t *testing.T) {
	text, err := os.ReadFile("docs/dependencies.md")
	if err != nil {
		t.Fatal(err)
	}
	explained := map[string]bool{}
	for _, row := range regexp.MustCompile("(?m)^\\| `([^`]+)`").FindAllSubmatch(text, -1) {
		explained[string(row[1])] = true
	}
	var gomod struct{ Require []goModule }
	if err := json.Unmarshal(goCommand(t, "mod", "edit", "-json"), &gomod); err != nil {
		t.Fatal(err)
	}
	for _, m := range gomod.Require {
		if !m.Indirect && !explained[m.Path] {
			t.Errorf("docs/dependencies.md has no row for %s", m.Path)
		}
		if !m.Indirect {
			delete(explained, m.Path)
		}
	}
	for path := range explained {
		t.Errorf("docs/dependencies.md explains %s, which is no direct dependency", path)
	}
}
