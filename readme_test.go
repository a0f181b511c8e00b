package sallyport_test

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// A program in the README that does not compile is worse than none.
func TestREADMEPrograms(t *testing.T) {
	text := readText(t, "README.md")
	blocks := regexp.MustCompile("(?s)```go\n(.*?)```").FindAllStringSubmatch(text, -1)
	if len(blocks) == 0 {
		t.Fatal("README.md shows no program")
	}
	for _, block := range blocks {
		file := filepath.Join(t.TempDir(), "main.go")
		if err := os.WriteFile(file, []byte(block[1]), 0o600); err != nil {
			t.Fatal(err)
		}
		goCommand(t, "vet", file)
	}
}

// TestDocumentsLinks follows every relative link, and its #heading where it has one.
func TestDocumentsLinks(t *testing.T) {
	files := []string{"README.md", "CONTRIBUTING.md"}
	more, err := filepath.Glob("docs/*.md")
	if err != nil || len(more) == 0 {
		t.Fatalf("docs: %v, %v", more, err)
	}
	links := 0
	for _, file := range append(files, more...) {
		for _, link := range regexp.MustCompile(`\]\(([^)\s]+)\)`).FindAllStringSubmatch(readText(t, file), -1) {
			if strings.Contains(link[1], "://") {
				continue
			}
			links++
			path, heading, _ := strings.Cut(link[1], "#")
			target := file
			if path != "" {
				target = filepath.Join(filepath.Dir(file), path)
			}
			if _, err := os.Stat(target); err != nil {
				t.Errorf("%s: the link %s leads nowhere", file, link[1])
			} else if heading != "" && !hasHeading(readText(t, target), heading) {
				t.Errorf("%s: %s has no heading #%s", file, target, heading)
			}
		}
	}
	if links == 0 {
		t.Fatal("no relative link found")
	}
}

// hasHeading reports whether a heading of the text has that anchor, as renderers make it.
func hasHeading(text, anchor string) bool {
	for line := range strings.Lines(text) {
		title, ok := strings.CutPrefix(strings.TrimLeft(line, "#"), " ")
		if !ok || !strings.HasPrefix(line, "#") {
			continue
		}
		title = strings.ToLower(strings.TrimSpace(title))
		title = regexp.MustCompile(`[^\p{L}\p{N} _-]`).ReplaceAllString(title, "")
		if strings.ReplaceAll(title, " ", "-") == anchor {
			return true
		}
	}
	return false
}

func readText(t *testing.T, path string) string {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}
