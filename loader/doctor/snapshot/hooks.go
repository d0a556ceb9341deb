package snapshot

// Hooked are the programs and filters in the TC hooks of the managed interfaces, in the order in which they run.
type Hooked struct {
	Hooks []Hook
	TCX   bool // the kernel has it, so that ours runs before all filters
}

// Hook is a program or a filter in the TC hooks of an interface.
type Hook struct {
	Interface int
	Egress    bool
	TCX       bool // else a filter of a clsact qdisc, which runs after those
	Name      string
	Ours      bool
}
