package cli

import (
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
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

// TestREADMEHasTheExitCodes compares the table with the sentence in the README.
func TestREADMEHasTheExitCodes(t *testing.T) {
	readme, err := os.ReadFile("../../README.md")
	if err != nil {
		t.Fatal(err)
	}
	_, sentence, _ := strings.Cut(string(readme), "Exit codes: ")
	sentence, _, _ = strings.Cut(sentence, ".")
	told := map[int]bool{}
	for _, number := range regexp.MustCompile(`\d+`).FindAllString(sentence, -1) {
		code, _ := strconv.Atoi(number)
		told[code] = true
	}
	want := map[int]bool{0: true}
	for _, code := range exitCodes {
		want[code] = true
	}
	if !maps.Equal(told, want) || !strings.Contains(string(readme), fmt.Sprintf("; %d means that banger", exitOwnFailure)) {
		t.Errorf("the README has %v, want %v: %s", told, want, sentence)
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
	f.run(t, setup{}, "daemon", "stop").want(t, 0, "daemon: not running\n", "")
	f.run(t, setup{}, "daemon", "status").want(t, 3, "", "banger: the daemon is not running\nfix: banger vm list, which starts it\n")
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

// TestFlagErrors: errors of flags do not show the words of Go's parsers.
func TestFlagErrors(t *testing.T) {
	for args, want := range map[string]string{
		"vm start otter --timeout 5":    "--timeout \"5\" has no unit\nfix: --timeout 5s",
		"vm start otter --timeout -1s":  "--timeout must be more than 0s, not -1s\nfix: leave out --timeout, or give a time such as 30s",
		"vm stop otter --grace 0s":      "--grace must be more than 0s, not 0s\nfix: leave out --grace, or give a time such as 30s",
		"vm start otter --timeout soon": "--timeout \"soon\" is not a duration\nfix: write a duration with its unit, such as 5s, 2m or 1h",
		"vm stats --interval=1.5 otter": "--interval \"1.5\" has no unit\nfix: --interval 1.5s",
		"vm create --vcpu 0":            "--vcpu must be at least 1\nfix: give a number of at least 1",
		"vm set otter --vcpu many":      "--vcpu \"many\" is not a number\nfix: give a number of at least 1",
		"vm create --memory lots":       "--memory \"lots\" is not a size\nfix: write a size such as 512M, 16G or 1.5T",
		"vm start otter --wait lunch":   "--wait \"lunch\" is not a milestone\nfix: use --wait agent or --wait boot",
		"vm start --all=maybe":          "--all \"maybe\" is not a bool\nfix: banger vm start --help",
		"vm create otter":               "the name of the VM is not an argument\nfix: banger vm create --name otter",
		"vm exec":                       "usage: banger vm exec [flags] NAME -- PROGRAM [ARGUMENT...]\nfix: banger vm exec --help",
		"vm stop":                       "which VM?\nfix: banger vm stop NAME, or banger vm stop --all",
		"vm delete":                     "which VM?\nfix: banger vm delete NAME",
		"vm delete --yes --force":       "which VM?\nfix: banger vm delete NAME",
		"frobnicate":                    "banger has no command \"frobnicate\"\nfix: banger --help",
		"vm strat --memory 5":           "unknown flag: --memory\nfix: banger vm --help",
		"vm stats --interval 1ms otter": "--interval must be at least 100ms\nfix: --interval 1s",
	} {
		if r := newFake().run(t, setup{}, strings.Fields(args)...); r.out != "" || r.errOut != "banger: "+want+"\n" || r.code < 2 {
			t.Errorf("%s: %+v", args, r)
		}
	}
}

// TestWrongVerbsGetJSON: --json works even if the command does not exist.
func TestWrongVerbsGetJSON(t *testing.T) {
	for _, args := range []string{"frobnicate --json", "vm strat --json", "image --json lits", "daemon strat --json otter"} {
		r := newFake().run(t, setup{}, strings.Fields(args)...)
		var got struct{ Error errorJSON }
		if err := json.Unmarshal([]byte(r.out), &got); err != nil || r.code != 2 || r.errOut != "" || !strings.Contains(got.Error.Why, "has no command") {
			t.Errorf("%s: %v, %+v", args, err, r)
		}
	}
	if r := newFake().run(t, setup{}, "vm", "--help"); strings.Contains(r.out, "--json ") {
		t.Errorf("%+v", r)
	}
}

// TestHelpTellsTheConfiguredDefaults: config.toml decides what the help of create and run
// says; a broken one does not break the help.
func TestHelpTellsTheConfiguredDefaults(t *testing.T) {
	f := newFake()
	for _, verb := range []string{"create", "run"} {
		if r := f.run(t, setup{}, "vm", verb, "--help"); !strings.Contains(r.out, "size of /root, not of packages and Docker (--overlay-size); a bare number is GiB (default 16G)\n") {
			t.Errorf("%+v", r)
		}
		dir := t.TempDir()
		config := filepath.Join(dir, "banger", "config.toml")
		if err := os.Mkdir(filepath.Dir(config), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(config, []byte("disk_size = \"5G\"\nvcpus = 3\n"), 0o600); err != nil {
			t.Fatal(err)
		}
		r := f.run(t, setup{config: dir}, "vm", verb, "--help")
		if !strings.Contains(r.out, "; a bare number is GiB (default 5G)\n") || !strings.Contains(r.out, "virtual CPUs (default 3)\n") {
			t.Errorf("%+v", r)
		}
		os.WriteFile(config, []byte("disk_size = 5"), 0o600)
		if r := f.run(t, setup{config: dir}, "vm", verb, "--help"); r.code != 0 || strings.Contains(r.out, "(--overlay-size); a bare number is GiB (") {
			t.Errorf("%+v", r)
		}
	}
}

// TestCompletion: what is already on the command line is not offered again.
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

// TestEveryCommandExplainsItself parses each example as a shell would.
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

// words splits a line at blanks outside of single quotes. It leaves out redirections.
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
	return slices.DeleteFunc(list, func(s string) bool { return s == "" || s[0] == '>' })
}
