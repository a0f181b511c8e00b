package main

import (
	"context"
	"io"
	"log/slog"
	"strings"

	"github.com/urfave/cli/v2"
)

// run is the whole command: it never exits, and touches nothing global but the
// environment and files.
func run(ctx context.Context, args []string, in io.Reader, out, errOut io.Writer) int {
	r := &runner{in: in, out: newOutput(out, errOut)}
	app := newApp(r, out, errOut)
	arranged, err := arrange(app, args)
	if err == nil {
		err = app.RunContext(ctx, arranged)
	}
	return r.out.report(ctx, err)
}

// runner is what the commands of one process share.
type runner struct {
	in  io.Reader
	out *output
}

// invocation is one command at work: its flags and where to print.
type invocation struct {
	*cli.Context
	*output
	in  io.Reader
	log *slog.Logger
}

// action turns f into what urfave/cli calls. args names the positional
// arguments, "" for none.
func (r *runner) action(args string, f func(context.Context, *invocation) error) cli.ActionFunc {
	want := len(strings.Fields(args))
	return func(c *cli.Context) error {
		r.out.json = c.Bool("json")
		switch {
		case c.NArg() < want:
			return usagef("%s needs %s: see \"sally %[1]s --help\"", c.Command.Name, args)
		case c.NArg() > want:
			return usagef("%s takes %s, not %q: see \"sally %[1]s --help\"", c.Command.Name, orNothing(args), c.Args().Slice()[want])
		}
		log, err := newLogger(r.out, c.String("log-level"))
		if err != nil {
			return err
		}
		return f(c.Context, &invocation{Context: c, output: r.out, in: r.in, log: log})
	}
}

func orNothing(args string) string {
	if args == "" {
		return "no argument"
	}
	return args + " only"
}

// newLogger writes to stderr; the level is a word or "off".
func newLogger(w io.Writer, level string) (*slog.Logger, error) {
	if level == "off" {
		return slog.New(slog.DiscardHandler), nil
	}
	var l slog.Level
	if err := l.UnmarshalText([]byte(level)); err != nil {
		return nil, usagef("--log-level %q is not a level: use debug, info, warn, error or off", level)
	}
	return slog.New(slog.NewTextHandler(w, &slog.HandlerOptions{Level: l})), nil
}

func newApp(r *runner, out, errOut io.Writer) *cli.App {
	commands := []*cli.Command{
		r.idCommand(), r.listenCommand(), r.dialCommand(), r.pingCommand(), r.speedCommand(),
		r.doctorCommand(), r.demoCommand(),
		r.serveCommand(), r.relayCommand(), r.credentialCommand(),
	}
	for _, c := range commands {
		c.HideHelpCommand = true
		c.CustomHelpTemplate = commandHelp
		c.OnUsageError = usageError
		c.Flags = append(c.Flags, globalFlags()...)
	}
	return &cli.App{
		Name: "sally", HelpName: "sally", Version: version(),
		Usage:                 "a live, authenticated link between two programs, whatever lies between",
		CustomAppHelpTemplate: appHelp,
		Commands:              commands, Flags: globalFlags(),
		Writer: out, ErrWriter: errOut, Reader: r.in,
		OnUsageError:   usageError,
		ExitErrHandler: func(*cli.Context, error) {}, // run turns errors into exit codes
	}
}
