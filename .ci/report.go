// Report reads `go test -json` on its standard input and prints what a person
// wants of it: the closing line of every package, the whole output of whatever
// failed, and every skipped test with the reason it gave.
package main

import (
	"bufio"
	"encoding/json"
	"fmt"
	"os"
	"strings"
)

// event is one line of `go doc test2json`.
type event struct {
	Action, Package, Test, Output string
}

type testName struct{ pkg, test string }

type report struct {
	output                  map[testName]string
	skips                   []string
	passed, failed, skipped int
}

func main() {
	r := report{output: map[testName]string{}}
	lines := bufio.NewReaderSize(os.Stdin, 1<<20)
	for {
		line, err := lines.ReadBytes('\n')
		if err != nil {
			break
		}
		var e event
		if json.Unmarshal(line, &e) != nil {
			os.Stdout.Write(line) // not from the test: a word of the go command
			continue
		}
		r.add(e)
	}
	for _, skip := range r.skips {
		fmt.Println(skip)
	}
	fmt.Printf("%d tests passed, %d failed, %d skipped\n", r.passed, r.failed, r.skipped)
}

func (r *report) add(e event) {
	name := testName{e.Package, e.Test}
	switch {
	case e.Action == "output" && e.Test != "":
		r.output[name] += e.Output
	case e.Action == "output" || e.Action == "build-output":
		if e.Output != "PASS\n" {
			fmt.Print(e.Output)
		}
	case e.Test == "":
	case e.Action == "pass":
		r.passed++
		delete(r.output, name)
	case e.Action == "fail":
		r.failed++
		fmt.Print(r.output[name])
		delete(r.output, name)
	case e.Action == "skip":
		r.skipped++
		r.skips = append(r.skips, fmt.Sprintf("--- SKIP: %s %s: %s", e.Package, e.Test, reason(r.output[name])))
		delete(r.output, name)
	}
}

// reason is what the test said, without the lines that the framework adds.
func reason(output string) string {
	var said []string
	for line := range strings.Lines(output) {
		line = strings.TrimSpace(line)
		if line != "" && !strings.HasPrefix(line, "=== ") && !strings.HasPrefix(line, "--- ") {
			said = append(said, line)
		}
	}
	if len(said) == 0 {
		return "no reason given"
	}
	return strings.Join(said, " ")
}
