package firecracker

import (
	_ "embed"
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"reflect"
	"slices"
	"strings"
	"testing"
)

// The facts about Firecracker's API are in testdata/api.json, taken from the
// description in its repository: of the oldest release that is supported and of
// the newest one that was looked at.
//
//go:embed testdata/api.json
var apiJSON []byte

type apiFacts struct {
	Releases []releaseFacts
}

type releaseFacts struct {
	Version, Commit, SHA256 string
	Error                   []string
	Operations              map[string]struct {
		Body, Answer map[string]fieldFacts
	}
}

type fieldFacts struct {
	Type     string
	Required bool
	Enum     []any
}

func readFacts(t testing.TB) apiFacts {
	t.Helper()
	var facts apiFacts
	if err := json.Unmarshal(apiJSON, &facts); err != nil {
		t.Fatal(err)
	}
	return facts
}

// used is all that we send, and all that we read.
var used = []struct {
	call   call
	since  release
	body   any
	answer any
	values map[string]string // of fields that have few
}{
	{call: describe, answer: instance{}, values: map[string]string{"state": stateNotStarted}},
	{call: describeConfig, answer: vmConfig{}},
	{call: putMachine, body: machineConfig{}},
	{call: putBootSource, body: bootSource{}},
	{call: putDrive, body: drive{}, values: map[string]string{"cache_type": writeback}},
	{call: patchDrive, body: driveUpdate{}},
	{call: putInterface, body: networkInterface{}},
	{call: putInterface, body: sizedInterface{}, since: tellsMTU},
	{call: putVsock, body: vsock{}},
	{call: putEntropy, body: entropy{}},
	{call: putBalloon, body: balloon{}},
	{call: putBalloon, body: reportingBalloon{}, since: reportsFreePages},
	{call: patchBalloon, body: balloonUpdate{}},
	{call: getBalloon, answer: balloonStats{}},
	{call: putSerial, body: serial{}, since: limitsSerial},
	{call: putAction, body: action{}, values: map[string]string{"action_type": instanceStart}},
}

func TestConformance(t *testing.T) {
	facts := readFacts(t)
	var first release
	for i, r := range facts.Releases {
		t.Run(r.Version, func(t *testing.T) {
			_, version, err := parseVersion("Firecracker v" + r.Version)
			if err != nil || len(r.Commit) != 40 || len(r.SHA256) != 64 || !slices.Equal(r.Error, []string{"fault_message"}) {
				t.Fatalf("%v, %+v", err, r)
			}
			if i == 0 {
				first = version
			}
			for _, use := range used {
				if !version.atLeast(use.since) {
					continue
				}
				operation, known := r.Operations[use.call.String()]
				if !known {
					t.Errorf("%s is not there", use.call)
					continue
				}
				assertFields(t, use.call.String()+" body", use.body, operation.Body, use.values, true)
				assertFields(t, use.call.String()+" answer", use.answer, operation.Answer, use.values, false)
			}
		})
	}
	if first != oldest {
		t.Errorf("the oldest description is of %v, the oldest supported is %v", first, oldest)
	}
}

// assertFields compares the JSON of a type with the description. What is sent
// has to have all that is required.
func assertFields(t *testing.T, what string, v any, facts map[string]fieldFacts, values map[string]string, sent bool) {
	t.Helper()
	if v == nil {
		return
	}
	ours := jsonFields(reflect.TypeOf(v), "")
	for name, kind := range ours {
		fact, known := facts[name]
		if !known {
			t.Errorf("%s has no field %s", what, name)
			continue
		}
		if fact.Type != kind {
			t.Errorf("%s: %s is %s, ours is %s", what, name, fact.Type, kind)
		}
		value, constant := values[name]
		if constant != (len(fact.Enum) > 0) || constant && !slices.Contains(fact.Enum, any(value)) {
			t.Errorf("%s: %s is one of %v, ours is %q", what, name, fact.Enum, value)
		}
	}
	if !sent {
		return
	}
	for name, fact := range facts {
		parent := ""
		if dot := strings.LastIndex(name, "."); dot > 0 {
			parent = name[:dot]
		}
		if _, has := ours[name]; fact.Required && !has && (parent == "" || ours[parent] != "") {
			t.Errorf("%s lacks %s, which is required", what, name)
		}
	}
}

// jsonFields are the fields that a type's JSON always has, with the API's names of their types.
func jsonFields(t reflect.Type, prefix string) map[string]string {
	fields := map[string]string{}
	for i := range t.NumField() {
		f := t.Field(i)
		if f.Anonymous {
			maps.Copy(fields, jsonFields(f.Type, prefix))
			continue
		}
		name := prefix + f.Tag.Get("json")
		inner := f.Type
		switch f.Type.Kind() {
		case reflect.String:
			fields[name] = "string"
		case reflect.Bool:
			fields[name] = "boolean"
		case reflect.Int, reflect.Int64, reflect.Uint32:
			fields[name] = "integer"
		case reflect.Slice:
			fields[name], inner, name = "array", f.Type.Elem(), name+"[]"
		case reflect.Struct:
			fields[name] = "object"
		default:
			panic(fmt.Sprintf("%s is a %s", name, f.Type))
		}
		if inner.Kind() == reflect.Struct {
			for k, v := range jsonFields(inner, name+".") {
				fields[k] = v
			}
		}
	}
	return fields
}

// Nothing is sent that is not in the table above.
func TestConformanceCoversAll(t *testing.T) {
	source, err := os.ReadFile("resources.go")
	if err != nil {
		t.Fatal(err)
	}
	for _, use := range used {
		for _, v := range []any{use.body, use.answer} {
			if v != nil {
				source = []byte(strings.Replace(string(source), "type "+reflect.TypeOf(v).Name()+" struct", "", 1))
			}
		}
	}
	left := strings.Split(string(source), "\ntype ")[1:]
	if len(left) != 1 || !strings.HasPrefix(left[0], "tokenBucket ") { // a part of serial
		t.Errorf("types without a call: %q", left)
	}
}
