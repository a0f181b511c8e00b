// Package netnstests drives the built sally binary through Linux network
// namespaces with the kernel's own NAT between them.
//
//	go test ./netns-tests            # as root, on Linux
//	go test ./netns-tests -run 'TestMatrix/eim-apdf_x_carrier' -v
//
// It knows the command only by its contract, docs/CLI.md, and imports nothing else
// of this module, so that it is the independent witness for everything the
// in-memory laboratory claims. It needs no external program: links and routes
// are made over rtnetlink, NAT over nfnetlink, and the 20 ms of delay on each
// site's uplink by a small wire of two TUN devices inside the test process.
//
// What it guarantees: a namespace here has no name, no mount and no route to the
// machine's own network. It is held by one locked thread of the test, and each
// command started in it is told to die with that thread. Nothing is left behind,
// not even by a test that is killed.
//
// What it does not do: without root, or on another system, every test skips and
// says so. Each home has exactly one inside host, because the cone NATs translate
// ports by a fixed bijection. Times are printed and never asserted.
package netnstests
