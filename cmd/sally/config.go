package main

import (
	"bufio"
	"errors"
	"io"
	"io/fs"
	"os"
	"slices"
	"strings"

	"github.com/urfave/cli/v2"
)

const (
	configFlag    = "config"
	maxConfigSize = 64 << 10
)

// configured reads the configuration file and returns its settings as flags
// for the command: those that neither the command line nor the environment
// sets. A line is "flag = value"; it counts for every command that has the flag,
// or for one under a heading such as [serve]. Lines beginning with # are comments.
// A repeatable flag may be repeated.
func configured(command *cli.Command, given []string) ([]string, error) {
	path, chosen := configPath(given)
	f, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) && !chosen {
		return nil, nil
	}
	if err != nil {
		return nil, usagef("configuration file: %w", err)
	}
	defer f.Close()
	var out []string
	section := ""
	scan := bufio.NewScanner(io.LimitReader(f, maxConfigSize))
	for n := 1; scan.Scan(); n++ {
		line := strings.TrimSpace(scan.Text())
		if line == "" || strings.HasPrefix(line, "#") {
			continue
		}
		if heading, ok := strings.CutPrefix(line, "["); ok {
			section = strings.TrimSuffix(heading, "]")
			continue
		}
		name, value, ok := strings.Cut(line, "=")
		if !ok {
			return nil, usagef("%s line %d: want \"flag = value\", found %q", path, n, line)
		}
		name, value = strings.TrimSpace(name), strings.TrimSpace(value)
		flag := lookupFlag(command.Flags, name)
		switch {
		case section != "" && section != command.Name:
		case flag == nil && section != "":
			return nil, usagef("%s line %d: sally %s has no flag --%s", path, n, section, name)
		case flag == nil || decided(flag, given):
		default:
			out = append(out, "--"+flag.Names()[0]+"="+value)
		}
	}
	if err := scan.Err(); err != nil {
		return nil, usagef("configuration file %s: %w", path, err)
	}
	return out, nil
}

// configPath says which file, and whether somebody asked for it.
func configPath(given []string) (path string, chosen bool) {
	for i, arg := range given {
		name, value, joined := strings.Cut(strings.TrimLeft(arg, "-"), "=")
		if name != configFlag || !strings.HasPrefix(arg, "-") {
			continue
		}
		if joined {
			return value, true
		}
		if i+1 < len(given) {
			return given[i+1], true
		}
	}
	if path := os.Getenv(env(configFlag)[0]); path != "" {
		return path, true
	}
	return defaultFile("config"), false
}

// decided reports whether the command line or the environment set the flag.
func decided(flag cli.Flag, given []string) bool {
	for _, arg := range given {
		name, _, _ := strings.Cut(strings.TrimLeft(arg, "-"), "=")
		if strings.HasPrefix(arg, "-") && slices.Contains(flag.Names(), name) {
			return true
		}
	}
	doc, ok := flag.(cli.DocGenerationFlag)
	if !ok {
		return false
	}
	return slices.ContainsFunc(doc.GetEnvVars(), func(v string) bool { return os.Getenv(v) != "" })
}
