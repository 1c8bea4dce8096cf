package daemon

import (
	"context"
	"encoding/json"
	"os"

	"banger/internal/network"
	"banger/internal/network/apply"
	"banger/internal/network/helper"
	"banger/internal/network/instance"
	"banger/internal/network/namespace"
)

// RunRole runs bangerd as one of the processes that the daemon starts, if args ask for
// that, and reports whether they did. A test whose binary is a daemon calls it first of
// all: otherwise its children would be the test again.
func RunRole(args []string) (code int, ran bool) {
	if len(args) == 0 || roles[args[0]] == nil {
		return 0, false
	}
	return roles[args[0]](args[1:]), true
}

// offer prints which network the VMs of a state directory can have on this host.
func offer(args []string) int {
	if len(args) != 1 {
		return 2
	}
	if json.NewEncoder(os.Stdout).Encode(instance.OfferOf(context.Background(), args[0], os.Geteuid() == 0)) != nil {
		return 1
	}
	return 0
}

// roles are what bangerd is instead of a daemon, by its first argument. Only bangerd
// itself starts them.
var roles = map[string]func(args []string) int{
	helper.Role:       helper.Main,
	network.OfferRole: offer,
	namespace.Role: func([]string) int {
		namespace.RunRole(namespace.Work{
			Lock:     apply.Lock,
			Apply:    func(ctx context.Context, w network.Wanted) (any, error) { return apply.Apply(ctx, w) },
			Counters: func(i network.Instance) (any, error) { return apply.Counters(i) },
			Uplink:   apply.OpenUplink,
		})
		return 2 // with other arguments
	},
}
