// Package e2e runs whole nodes and hosts in one process, on the in-memory
// internet of package natlab and under virtual time. It has no code of its own
// outside tests: see lab_test.go for how a lab is built and matrix_test.go for
// what is promised of every pair of networks.
package e2e
