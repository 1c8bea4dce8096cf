package boot

import (
	"slices"
	"strings"
	"testing"
)

func TestLean(t *testing.T) {
	for nested, cpu := range map[bool]bool{true: false, false: true} {
		units := map[string]string{}
		for _, s := range lean(nested) {
			if units[s.unit] != "" {
				t.Errorf("two settings for %s", s.unit)
			}
			units[s.unit] = s.settings
			if !strings.HasPrefix(s.settings, "[") || !strings.HasSuffix(s.settings, "\n") {
				t.Errorf("%s: %q", s.unit, s.settings)
			}
		}
		trigger := units["systemd-udev-trigger.service"]
		if got := strings.Contains(trigger, "--subsystem-nomatch=cpu\n"); got != cpu {
			t.Errorf("nested %t: it skips processors: %t", nested, got)
		}
		// What has rules, modules or names that programs wait for.
		for _, needed := range []string{"block", "net", "virtio", "input", "misc", "mem", "platform", "acpi", "pnp", "module"} {
			if slices.Contains(strings.Fields(trigger), "--subsystem-nomatch="+needed) {
				t.Errorf("it skips %s", needed)
			}
		}
		for _, unit := range []string{"modprobe@configfs.service", "modprobe@fuse.service", "modprobe@drm.service"} {
			if units[unit] != never {
				t.Errorf("%s: %q", unit, units[unit])
			}
		}
	}
}
