package cli

import (
	"encoding/json"
	"slices"
	"strings"
	"testing"

	"github.com/spf13/cobra"

	"banger"
)

func TestEveryKindHasAnExitCode(t *testing.T) {
	for _, kind := range banger.Kinds {
		if exitCodes[kind] == 0 {
			t.Errorf("%s has none", kind)
		}
	}
}

func TestDaemonCommandsStartNone(t *testing.T) {
	f := newFake()
	r := f.run(t, setup{}, "daemon", "status")
	if r.code != 0 || !strings.Contains(r.out, "pid          42\n") || !strings.Contains(r.out, "socket       /run/b.sock\n") || !strings.Contains(r.out, "/state/bangerd.log") {
		t.Errorf("%+v", r)
	}
	f.run(t, setup{}, "daemon", "socket").want(t, 0, "/run/b.sock\n", "")
	f.run(t, setup{}, "daemon", "stop").want(t, 0, "daemon: stopped\n", "")
	f.run(t, setup{}, "daemon", "stop").want(t, 0, "daemon: stopped\n", "")
	f.run(t, setup{}, "daemon", "status").want(t, 3, "", "banger: find the daemon: none is running\nfix: banger vm list\n")
	if r := f.run(t, setup{}, "daemon", "socket"); r.code != 0 || !strings.HasSuffix(r.out, "/banger/bangerd.sock\n") {
		t.Errorf("%+v", r)
	}
}

func TestImagesAndKernels(t *testing.T) {
	f := newFake()
	f.run(t, setup{}, "image", "list").want(t, 0, "NAME    DIGEST        SIZE  AGE  USED BY  ORIGIN\ndocker  0123456789ab  429M  0s   2        debian trixie\n", "")
	f.run(t, setup{}, "kernel", "ls", "--json").want(t, 0, "[]\n", "")
}

func TestDoctorPrintsATable(t *testing.T) {
	r := newFake().run(t, setup{}, "doctor", "--json")
	var got struct {
		Ready  *bool
		Checks []struct{ Name, State, Detail string }
	}
	if err := json.Unmarshal([]byte(r.out), &got); err != nil || got.Ready == nil || len(got.Checks) < 7 {
		t.Fatalf("%v, %+v", err, r)
	}
	if want := map[bool]int{true: 0, false: 5}[*got.Ready]; r.code != want {
		t.Errorf("exit code %d, want %d", r.code, want)
	}
	if r := newFake().run(t, setup{}, "doctor", "--preflight"); !strings.Contains(r.out, "mmdebstrap") || strings.Contains(r.out, "daemon") {
		t.Errorf("%+v", r)
	}
}

func TestUsageErrors(t *testing.T) {
	for _, args := range [][]string{{"bogus"}, {"vm", "bogus"}, {"vm", "show"}, {"vm", "create", "extra"}, {"vm", "create", "--memory", "1x"}, {"vm", "create", "--name", "9lives"}, {"vm", "create", "--vcpu", "-1"}, {"doctor", "--bogus"}} {
		if r := newFake().run(t, setup{}, args...); r.code != 2 || r.out != "" || !strings.Contains(r.errOut, "\nfix: ") {
			t.Errorf("%q: %+v", args, r)
		}
	}
	if r := newFake().run(t, setup{}, "vm", "strat"); !strings.Contains(r.errOut, "fix: banger vm start\n") {
		t.Errorf("%+v", r)
	}
	if r := newFake().run(t, setup{}, "vm"); r.code != 0 || !strings.Contains(r.out, "Available Commands") {
		t.Errorf("%+v", r)
	}
}

// TestCompletion offers what is there, and nothing twice.
func TestCompletion(t *testing.T) {
	f := newFake(aVM("otter", banger.Running), aVM("wombat", banger.Stopped))
	f.kernels = []banger.Kernel{{Name: "6.12"}, {Name: "6.13"}}
	for args, want := range map[string]string{
		"vm stop otter":       "wombat\tstopped\n",
		"image show":          "docker\n",
		"image show docker":   "",
		"image delete docker": "",
		"kernel show":         "6.12\n6.13\n",
		"kernel show 6.12":    "6.13\n",
	} {
		f.run(t, setup{}, append(append([]string{"__complete"}, strings.Fields(args)...), "")...).want(t, 0, want+":4\n", "Completion ended with directive: ShellCompDirectiveNoFileComp\n")
	}
}

// TestEveryCommandExplainsItself parses each example as a shell would hand it over.
func TestEveryCommandExplainsItself(t *testing.T) {
	root := newRoot(&app{})
	var walk func(*cobra.Command)
	walk = func(cmd *cobra.Command) {
		for _, child := range cmd.Commands() {
			if child.Name() != "help" && child.Name() != "completion" {
				walk(child)
			}
		}
		if cmd.Short == "" || cmd.Example == "" {
			t.Errorf("%s has no Short or no Example", cmd.CommandPath())
		}
		for _, line := range strings.Split(cmd.Example, "\n") {
			words := words(t, line)
			if words[0] != "banger" {
				t.Errorf("%q does not begin with banger", line)
			}
			fresh := newRoot(&app{})
			found, rest, err := fresh.Find(words[1:])
			if err != nil || cmd.HasParent() && cmd.Parent().HasParent() && found.Name() != cmd.Name() {
				t.Errorf("%q: found %s, %v", line, found.CommandPath(), err)
				continue
			}
			if err := found.ParseFlags(rest); err != nil {
				t.Errorf("%q: %v", line, err)
			}
			if err := found.ValidateArgs(found.Flags().Args()); err != nil {
				t.Errorf("%q: %v", line, err)
			}
		}
	}
	walk(root)
}

// words splits a line at blanks outside of single quotes.
func words(t *testing.T, line string) []string {
	t.Helper()
	parts := strings.Split(line, "'")
	if len(parts)%2 == 0 {
		t.Fatalf("unbalanced quotes in %q", line)
	}
	var list []string
	for i, part := range parts {
		if i%2 == 1 {
			list = append(list, part)
			continue
		}
		list = append(list, strings.Fields(part)...)
	}
	return slices.DeleteFunc(list, func(s string) bool { return s == "" })
}
