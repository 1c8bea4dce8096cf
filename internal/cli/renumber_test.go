package cli

import "testing"

func TestRenumber(t *testing.T) {
	f := newFake()
	f.run(t, setup{}, "network", "renumber").want(t, 0, "the VMs' subnet is 10.201.0.0/20, was 10.200.0.0/20\n", "")
	f.run(t, setup{}, "network", "renumber", "--subnet", "10.200.0.0/20").want(t, 0,
		"the VMs' subnet is 10.200.0.0/20 already\nget their new address when they start again: otter, wombat\n", "")
	if r := f.run(t, setup{}, "network", "renumber", "x"); r.code != 2 {
		t.Errorf("%+v", r)
	}
}
