package boot

import (
	"errors"
	"strings"
	"testing"
)

func TestBootStepsOrder(t *testing.T) {
	at := map[string]int{}
	for i, s := range bootSteps {
		if _, twice := at[s.name]; twice || s.name == "" || s.run == nil || s.fix == "" {
			t.Errorf("step %d %q is not complete or not the only one of its name", i, s.name)
		}
		at[s.name] = i
	}
	for _, chain := range [][]string{
		{"mount kernel file systems", "read configuration", "load modules", "find disks", "mount base", "mount root"},
		{"find disks", "mount overlay disk", "mount root", "mount modules disk", "register modprobe"},
		{"mount root", "mount direct directories", "become root"},
		{"mount root", "mount work disk", "become root"},
		{"mount root", "mount run", "keep agent", "register modprobe", "become root"},
		{"keep agent", "find init", "prepare init", "become root", "start server"},
		{"mount root", "find init", "mount temporary directory", "become root", "start server"},
		{"mount terminals and control groups", "become root", "start server"},
		{"mount run", "keep agent", "apply identity", "become root"},
		{"load modules", "mount run", "set up network", "become root", "start server"},
	} {
		for i := 1; i < len(chain); i++ {
			before, ok1 := at[chain[i-1]]
			after, ok2 := at[chain[i]]
			if !ok1 || !ok2 || before >= after {
				t.Errorf("%q must come before %q", chain[i-1], chain[i])
			}
		}
	}
}

func TestFailingStepIsNamed(t *testing.T) {
	ran := 0
	ok := func(*boot) error { ran++; return nil }
	for name, bad := range map[string]func(*boot) error{
		"error": func(*boot) error { return errors.New("out of luck") },
		"panic": func(*boot) error { panic("out of luck") },
	} {
		t.Run(name, func(t *testing.T) {
			ran = 0
			f := (&boot{}).runSteps([]step{{"first", ok, "x"}, {"second", bad, "do this"}, {"third", ok, "x"}})
			if f == nil || f.Step != "second" || f.Fix != "do this" || !strings.Contains(f.Why, "out of luck") || ran != 1 {
				t.Errorf("got %+v after %d steps", f, ran)
			}
		})
	}
	if f := (&boot{}).runSteps([]step{{"first", ok, "x"}}); f != nil {
		t.Errorf("got %+v", f)
	}
}
