package main

import (
	"bytes"
	"errors"
	"strings"
	"testing"
)

func TestServiceLine(t *testing.T) {
	for _, text := range []string{"ping", "speed send 10s", "no such service"} {
		var b bytes.Buffer
		if err := writeLine(&b, text); err != nil {
			t.Fatal(err)
		}
		b.WriteString("data behind it")
		got, err := readServiceLine(&b)
		if err != nil || got != text {
			t.Errorf("%q: read %q, %v", text, got, err)
		}
		if b.String() != "data behind it" {
			t.Errorf("%q: the line's reader took data: %q is left", text, b.String())
		}
	}
}

func TestServiceLineIsBounded(t *testing.T) {
	var b bytes.Buffer
	if err := writeLine(&b, strings.Repeat("long\n", 200)); err != nil {
		t.Fatal(err)
	}
	if b.Len() != maxServiceLine || strings.Count(b.String(), "\n") != 1 {
		t.Errorf("wrote %d bytes, %d lines", b.Len(), strings.Count(b.String(), "\n"))
	}
	if _, err := readServiceLine(&b); err != nil {
		t.Errorf("the longest line: %v", err)
	}
}

func TestServiceLineMalformed(t *testing.T) {
	for _, text := range []string{"sally/2 ping\n", "GET / HTTP/1.1\r\n", "\n", "sally/1ping\n", "sally/1 \x00\n", strings.Repeat("a", 1000)} {
		if got, err := readServiceLine(strings.NewReader(text)); !errors.Is(err, errServiceLine) {
			t.Errorf("%q: %q, %v; want errServiceLine", text, got, err)
		}
	}
	line := "sally/1 ping\n"
	for n := range len(line) {
		if got, err := readServiceLine(strings.NewReader(line[:n])); err == nil {
			t.Errorf("the first %d bytes: %q, want an error", n, got)
		}
	}
}

func TestReadAnswer(t *testing.T) {
	if err := readAnswer(strings.NewReader("sally/1 ok\n")); err != nil {
		t.Error(err)
	}
	if err := readAnswer(strings.NewReader("sally/1 no time\n")); err == nil || !strings.Contains(err.Error(), "time") {
		t.Errorf("a no: %v", err)
	}
	if err := readAnswer(strings.NewReader("sally/1 perhaps\n")); !errors.Is(err, errServiceLine) {
		t.Errorf("neither: %v", err)
	}
}

// FuzzServiceLine: what parses is written as the same bytes, and no more is read than the line.
func FuzzServiceLine(f *testing.F) {
	for _, seed := range []string{"sally/1 ping\n", "sally/1 speed receive 10s\nx", "sally/1 \n", "sally/1 no\n", "\n", "sally/1 ping\r\n"} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		r := bytes.NewReader(b)
		text, err := readServiceLine(r)
		read := len(b) - r.Len()
		if read > maxServiceLine {
			t.Fatalf("%d bytes were read", read)
		}
		if err != nil {
			return
		}
		var again bytes.Buffer
		if err := writeLine(&again, text); err != nil {
			t.Fatal(err)
		}
		if again.String() != string(b[:read]) {
			t.Errorf("%q became %q", b[:read], again.String())
		}
	})
}
