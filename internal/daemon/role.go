package daemon

import "banger/internal/network/helper"

// roles are what bangerd is instead of a daemon, by its first argument. Only bangerd
// itself starts them.
var roles = map[string]func(args []string) int{
	helper.Role: helper.Main,
}
