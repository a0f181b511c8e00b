package main

// appHelp is what "sally help" prints.
const appHelp = `{{.Name}} - {{.Usage}}

Usage:
  sally COMMAND [flags] [PEER|TICKET]

Commands:{{range .VisibleCommands}}{{if ne .Name "help"}}
  {{printf "%-11s" .Name}} {{.Usage}}{{end}}{{end}}

{{range .VisibleFlagCategories}}{{if .Name}}{{.Name}}:{{range .Flags}}
  {{.}}{{end}}
{{end}}{{end}}
Start here:
  sally demo                       see it work on this machine, no network needed
  sally serve                      on a machine with a public address: prints a node URL
  sally listen --node URL --allow any --echo
                                   on one peer: prints a ticket
  sally ping TICKET --until-direct on another

Every flag has a variable (SALLY_NODE for --node); "sally COMMAND --help" shows examples.
Exit codes: 0 done, 1 failed, 2 wrong usage, 3 connected but not as asked, 4 peer offline, 5 peer refused.
`

// commandHelp is what "sally COMMAND --help" prints.
const commandHelp = `{{.HelpName}} - {{.Usage}}

Usage:
  {{.HelpName}} [flags]{{if .ArgsUsage}} {{.ArgsUsage}}{{end}}

{{.Description}}
{{range .VisibleFlagCategories}}
{{if .Name}}{{.Name}}{{else}}Flags{{end}}:{{range .Flags}}
  {{.}}{{end}}
{{end}}`
