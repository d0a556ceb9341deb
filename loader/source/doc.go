// Package source gives what wildcard UDP sockets answer the source address that
// they were asked on: it finds such sockets, and attaches the programs that do it
// to the cgroup that all processes are in.
package source
