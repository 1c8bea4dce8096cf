package sshd

import (
	"bufio"
	"cmp"
	"encoding/json"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"banger/internal/guest/agent/layout"
	"banger/internal/guest/wire"
)

// variables is an environment.
type variables map[string]string

// list returns the environment as a program gets it.
func (v variables) list() []string {
	list := make([]string, 0, len(v))
	for _, name := range slices.Sorted(maps.Keys(v)) {
		list = append(list, name+"="+v[name])
	}
	return list
}

// login sets what belongs to an account, what an image of a container sets for its
// programs, and what the administrator sets for everyone: the first as login(1) does, the
// last as PAM does for sshd on Debian.
func (v variables) login(a account, etc string) {
	defs := readLoginDefs(etc + "/login.defs")
	path := cmp.Or(defs["ENV_PATH"], layout.DefaultPath)
	if a.uid == 0 {
		path = cmp.Or(defs["ENV_SUPATH"], layout.DefaultPath)
	}
	v["PATH"] = strings.TrimPrefix(path, "PATH=")
	v.readImage(etc + "/banger/" + filepath.Base(wire.ImageFile))
	v["HOME"], v["SHELL"] = a.home, a.shell
	v["USER"], v["LOGNAME"] = a.name, a.name
	v["MAIL"] = cmp.Or(defs["MAIL_DIR"], "/var/mail") + "/" + a.name
	v.readPAMConf(etc+"/security/pam_env.conf", a)
	for _, file := range []string{"/locale.conf", "/environment", "/default/locale"} {
		v.readAssignments(etc + file)
	}
}

// readImage reads what an image of a container says about its programs. It may be missing.
func (v variables) readImage(file string) {
	f, err := os.Open(file)
	if err != nil {
		return
	}
	defer f.Close()
	var image wire.Image
	if json.NewDecoder(io.LimitReader(f, maxSettings)).Decode(&image) != nil {
		return
	}
	for _, variable := range image.Env {
		if name, value, _ := strings.Cut(variable, "="); isName(name) && !strings.ContainsAny(value, "\x00\n") {
			v[name] = value
		}
	}
}

// maxSettings bounds how much of a file of settings is read.
const maxSettings = 256 << 10

// eachLine calls do with the lines of a file, without the space around them, comments
// and empty ones. A line that ends in a backslash continues in the next. A file that
// cannot be read has no lines.
func eachLine(file string, do func(string)) {
	f, err := os.Open(file)
	if err != nil {
		return
	}
	defer f.Close()
	in := bufio.NewScanner(io.LimitReader(f, maxSettings))
	in.Buffer(nil, maxSettings)
	before := ""
	for in.Scan() {
		line, goesOn := strings.CutSuffix(before+strings.TrimSpace(in.Text()), "\\")
		if before = ""; goesOn {
			before = line
			continue
		}
		if line != "" && line[0] != '#' {
			do(line)
		}
	}
}

// readLoginDefs reads login.defs(5).
func readLoginDefs(file string) map[string]string {
	defs := map[string]string{}
	eachLine(file, func(line string) {
		if words := strings.Fields(line); len(words) > 1 && !strings.Contains(line, "\x00") {
			defs[words[0]] = words[1]
		}
	})
	return defs
}

// readAssignments reads a file such as /etc/environment as pam_env does: NAME=value,
// perhaps in quotes; a name alone removes the variable.
func (v variables) readAssignments(file string) {
	eachLine(file, func(line string) {
		line, _, _ = strings.Cut(strings.TrimPrefix(line, "export "), "#")
		name, value, given := strings.Cut(strings.TrimSpace(line), "=")
		switch {
		case !isName(name) || strings.Contains(value, "\x00"):
		case !given:
			delete(v, name)
		default:
			v[name] = unquote(value)
		}
	})
}

func isName(name string) bool {
	for i, r := range name {
		if r != '_' && (r < 'A' || r > 'Z') && (r < 'a' || r > 'z') && (i == 0 || r < '0' || r > '9') {
			return false
		}
	}
	return name != ""
}

func unquote(value string) string {
	if len(value) > 0 && (value[0] == '"' || value[0] == '\'') {
		return strings.TrimSuffix(value[1:], value[:1])
	}
	return value
}

// readPAMConf reads pam_env.conf(5): NAME DEFAULT=value OVERRIDE=value.
func (v variables) readPAMConf(file string, a account) {
	eachLine(file, func(line string) {
		name, rest, _ := strings.Cut(strings.ReplaceAll(line, "\t", " "), " ")
		var ordinary, override string
		for rest = strings.TrimSpace(rest); rest != ""; rest = strings.TrimSpace(rest) {
			key, value, ok := strings.Cut(rest, "=")
			if !ok {
				return
			}
			value, rest = cutValue(value)
			switch value = v.expand(value, a); key {
			case "DEFAULT":
				ordinary = value
			case "OVERRIDE":
				override = value
			default:
				return
			}
		}
		switch value := cmp.Or(override, ordinary); {
		case !isName(name) || strings.Contains(value, "\x00"):
		case value == "":
			delete(v, name)
		default:
			v[name] = value
		}
	})
}

// cutValue returns the value at the beginning of text, perhaps in quotes, and the rest.
func cutValue(text string) (value, rest string) {
	if quoted, ok := strings.CutPrefix(text, `"`); ok {
		value, rest, _ = strings.Cut(quoted, `"`)
		return value, rest
	}
	value, rest, _ = strings.Cut(text, " ")
	return value, rest
}

// expand replaces ${NAME} by a variable, and @{ITEM} by what PAM knows of the login.
func (v variables) expand(text string, a account) string {
	var out strings.Builder
	items := map[string]string{"PAM_USER": a.name, "HOME": a.home, "SHELL": a.shell, "PAM_SERVICE": "sshd"}
	for text != "" {
		begin := strings.IndexAny(text, `$@\`)
		if begin < 0 || begin+1 == len(text) {
			break
		}
		out.WriteString(text[:begin])
		kind, after := text[begin], text[begin+1:]
		name, rest, closed := strings.Cut(after[1:], "}")
		switch {
		case kind == '\\':
			out.WriteByte(after[0])
			text = after[1:]
		case after[0] != '{' || !closed:
			out.WriteByte(kind)
			text = after
		case kind == '$':
			out.WriteString(v[name])
			text = rest
		default:
			out.WriteString(items[name])
			text = rest
		}
	}
	return out.String() + text
}
