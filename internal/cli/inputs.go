package cli

import (
	"errors"
	"io"
	"os"
	"strings"

	"banger"
)

// maxInputs bounds the script and the secrets of a build together.
const maxInputs = 512 << 10

// readInputs reads what the flags name: files, standard input and variables.
func (a *app) readInputs(spec *banger.BuildImage, opts buildOptions) error {
	var err error
	if spec.Packages, err = readPackages(opts.packages); err != nil {
		return err
	}
	if spec.Script, err = a.readScript(opts.script); err != nil {
		return err
	}
	for _, arg := range opts.args {
		if name, _, given := strings.Cut(arg, "="); !given {
			value, set := a.std.LookupEnv(name)
			if !set {
				return banger.Invalidf("write --build-arg "+name+"=value", "the variable %s is not set", name)
			}
			arg += "=" + value
		}
		spec.Args = append(spec.Args, arg)
	}
	total := len(spec.Script)
	for _, text := range opts.secrets {
		name, value, err := a.readSecret(text)
		if err != nil {
			return err
		}
		if spec.Secrets == nil {
			spec.Secrets = map[string]string{}
		}
		spec.Secrets[name] = value
		total += len(value)
	}
	if total > maxInputs {
		return banger.Invalidf("have the script fetch what is large", "the script and the secrets have more than %v", banger.Size(maxInputs))
	}
	return nil
}

// readPackages returns the packages in a file, without comments, or in a list.
func readPackages(text string) ([]string, error) {
	if text == "" {
		return nil, nil
	}
	list := text
	switch content, err := readInput(text); {
	case err == nil:
		list = content
	case strings.ContainsRune(text, '/') || !errors.Is(err, os.ErrNotExist):
		return nil, unreadableInput(err)
	}
	var names []string
	for line := range strings.Lines(list) {
		line, _, _ = strings.Cut(line, "#")
		names = append(names, strings.FieldsFunc(line, func(r rune) bool { return r == ' ' || r == '\t' || r == ',' || r == '\n' || r == '\r' })...)
	}
	if len(names) == 0 {
		return nil, banger.Invalidf("write one package a line", "%.80s names no package", text)
	}
	return names, nil
}

func (a *app) readScript(file string) (string, error) {
	switch file {
	case "":
		return "", nil
	case "-":
		if a.std.InTTY {
			return "", banger.Invalidf("banger image build NAME --script - <setup.sh", "standard input is a terminal, not a script")
		}
		text, err := io.ReadAll(io.LimitReader(a.std.In, maxInputs+1))
		return string(text), err
	}
	text, err := readInput(file)
	if err != nil {
		return "", unreadableInput(err)
	}
	if strings.TrimSpace(text) == "" {
		return "", banger.Invalidf("write a program into it", "%s is empty", file)
	}
	return text, nil
}

// readInput reads a file of at most a little more than maxInputs.
func readInput(file string) (string, error) {
	f, err := os.Open(file)
	if err != nil {
		return "", err
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, maxInputs+1))
	return string(text), err
}

func unreadableInput(err error) error {
	e := &banger.Error{Kind: banger.Invalid, Why: err, Fix: "name a file that you can read"}
	if errors.Is(err, os.ErrNotExist) {
		e.Kind = banger.NotFound
	}
	return e
}

// readSecret reads id=NAME,src=FILE or id=NAME,env=VARIABLE. Without either, the variable
// has the name of the secret.
func (a *app) readSecret(text string) (name, value string, err error) {
	const fix = "write --secret id=NAME,src=FILE or --secret id=NAME,env=VARIABLE"
	fields := map[string]string{}
	for field := range strings.SplitSeq(text, ",") {
		key, value, given := strings.Cut(field, "=")
		if key == "source" {
			key = "src"
		}
		if !given || key != "id" && key != "src" && key != "env" {
			return "", "", banger.Invalidf(fix, "a secret has no field %q", field)
		}
		fields[key] = value
	}
	name = fields["id"]
	if name == "" {
		return "", "", banger.Invalidf(fix, "a secret has no id")
	}
	if file := fields["src"]; file != "" {
		value, err := readInput(file)
		if err != nil {
			return "", "", unreadableInput(err)
		}
		return name, value, nil
	}
	variable := fields["env"]
	if variable == "" {
		variable = name
	}
	value, set := a.std.LookupEnv(variable)
	if !set {
		return "", "", banger.Invalidf(fix, "the variable %s of the secret %s is not set", variable, name)
	}
	return name, value, nil
}
