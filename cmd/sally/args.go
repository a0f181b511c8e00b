package main

import (
	"fmt"
	"slices"
	"strings"

	"github.com/urfave/cli/v2"
)

// arrange moves flags in front of positional arguments, because urfave/cli stops
// reading flags at the first of those: "sally --json ping PEER -c 3" becomes "sally
// ping --json -c 3 -- PEER". It also finds unknown commands and flags, where it
// can say what was probably meant, and adds the settings of the configuration file.
func arrange(app *cli.App, args []string) ([]string, error) {
	scan := flagScan{command: "sally", known: slices.Concat(app.Flags, builtinFlags())}
	before, rest, err := scan.untilPositional(args[1:])
	switch {
	case err != nil:
		return nil, err
	case len(rest) == 0 || rest[0] == "help" || rest[0] == "h":
		return slices.Concat(args[:1], withoutValues(before), rest), nil
	}
	command := app.Command(rest[0])
	if command == nil {
		return nil, unknownCommand(app, rest[0])
	}
	scan = flagScan{command: "sally " + command.Name, known: slices.Concat(command.Flags, builtinFlags())}
	flags := before
	var positional []string
	for rest = rest[1:]; len(rest) > 0; {
		var more []string
		if more, rest, err = scan.untilPositional(rest); err != nil {
			return nil, err
		}
		flags = append(flags, more...)
		if len(rest) > 0 && rest[0] == "--" {
			positional, rest = append(positional, rest[1:]...), nil
		} else if len(rest) > 0 {
			positional, rest = append(positional, rest[0]), rest[1:]
		}
	}
	settings, err := configured(command, flags)
	if err != nil {
		return nil, err
	}
	arranged := slices.Concat(args[:1], []string{command.Name}, settings, flags)
	if len(positional) > 0 {
		arranged = append(append(arranged, "--"), positional...)
	}
	return arranged, nil
}

// withoutValues keeps --help and --version, all that matters without a command.
func withoutValues(flags []string) (kept []string) {
	for _, f := range flags {
		if slices.Contains([]string{"-h", "--help", "-v", "--version"}, f) {
			kept = append(kept, f)
		}
	}
	return kept
}

func builtinFlags() []cli.Flag { return []cli.Flag{cli.HelpFlag, cli.VersionFlag} }

func unknownCommand(app *cli.App, name string) error {
	var names []string
	for _, c := range app.Commands {
		names = append(names, c.Names()...)
	}
	if guess := nearest(name, names); guess != "" {
		return usagef("there is no command %q; did you mean %q? (\"sally help\" lists them)", name, guess)
	}
	return usagef("there is no command %q: \"sally help\" lists them", name)
}

// flagScan knows which flags there are and which of them take a value.
type flagScan struct {
	command string
	known   []cli.Flag
}

// untilPositional returns the flags at the front of args, with their values, and
// what follows them.
func (s flagScan) untilPositional(args []string) (flags, rest []string, err error) {
	for i := 0; i < len(args); i++ {
		arg := args[i]
		if arg == "--" || arg == "-" || !strings.HasPrefix(arg, "-") {
			return flags, args[i:], nil
		}
		name, _, joined := strings.Cut(strings.TrimLeft(arg, "-"), "=")
		flag := lookupFlag(s.known, name)
		if flag == nil {
			return nil, nil, s.unknown(arg, name)
		}
		flags = append(flags, arg)
		if joined || !takesValue(flag) {
			continue
		}
		if i++; i == len(args) {
			return nil, nil, usagef("%s needs a value: see \"%s --help\"", arg, s.command)
		}
		flags = append(flags, args[i])
	}
	return flags, nil, nil
}

func (s flagScan) unknown(arg, name string) error {
	var names []string
	for _, f := range s.known {
		names = append(names, f.Names()...)
	}
	guess := ""
	if g := nearest(name, names); g != "" {
		guess = fmt.Sprintf("; did you mean --%s?", g)
	}
	return usagef("%s has no flag %s%s (\"%[1]s --help\" lists them)", s.command, strings.SplitN(arg, "=", 2)[0], guess)
}

func lookupFlag(flags []cli.Flag, name string) cli.Flag {
	for _, f := range flags {
		if slices.Contains(f.Names(), name) {
			return f
		}
	}
	return nil
}

func takesValue(f cli.Flag) bool {
	doc, ok := f.(cli.DocGenerationFlag)
	return ok && doc.TakesValue()
}

// usageError puts what urfave/cli found wrong into one line.
func usageError(c *cli.Context, err error, _ bool) error {
	return usagef("%s: %w: see \"%[1]s --help\"", strings.TrimSpace("sally "+strings.TrimPrefix(c.Command.Name, "sally")), err)
}
