package config

import (
	"errors"
	"fmt"
	"log/slog"
	"net/url"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"banger"
)

// value is a value as TOML's decoder returns it.
type value struct {
	any
	home string // what ~ stands for
}

// kind names the value's type in a sentence.
func (v value) kind() string {
	switch v.any.(type) {
	case string:
		return "a string"
	case int64:
		return "an integer"
	case float64:
		return "a float"
	case bool:
		return "a bool"
	case []any:
		return "an array"
	case map[string]any:
		return "a table"
	}
	return "a date or time"
}

func (v value) string() (string, error) {
	text, ok := v.any.(string)
	switch {
	case !ok:
		return "", fmt.Errorf("want a string in quotes, found %s", v.kind())
	case strings.ContainsRune(text, 0):
		return "", errors.New("a string cannot hold a zero byte")
	}
	return text, nil
}

func (v value) word(to *string) error {
	text, err := v.string()
	if err == nil && text == "" {
		err = errors.New("must not be empty")
	}
	*to = text
	return err
}

// account reads the name of a user, which every Linux must accept, or "".
func (v value) account(to *string) error {
	text, err := v.string()
	if err != nil {
		return err
	}
	const letters, more, longest = "abcdefghijklmnopqrstuvwxyz_", "0123456789-", 32
	if len(text) > longest || strings.Trim(text, letters+more) != "" || text != "" && !strings.Contains(letters, text[:1]) {
		return fmt.Errorf("%q is not a user's name: it has up to %d of a-z, 0-9, - and _, and begins with a letter", text, longest)
	}
	*to = text
	return nil
}

func (v value) oneOf(to *string, words ...string) error {
	text, err := v.string()
	if err != nil {
		return err
	}
	if !slices.Contains(words, text) {
		return fmt.Errorf("%q is not one of %s", text, strings.Join(words, ", "))
	}
	*to = text
	return nil
}

// flag reads a bool, which the environment and the defaults have as a word.
func (v value) flag(to *bool) error {
	switch v.any {
	case true, "true":
		*to = true
	case false, "false":
		*to = false
	default:
		return fmt.Errorf("want true or false, found %s", v.kind())
	}
	return nil
}

var levels = []string{"debug", "info", "warn", "error"}

func (v value) level(to *slog.Level) error {
	text, err := v.string()
	if err != nil {
		return err
	}
	if !slices.Contains(levels, strings.ToLower(text)) {
		return fmt.Errorf("%q is not one of %s", text, strings.Join(levels, ", "))
	}
	return to.UnmarshalText([]byte(text))
}

// absolute reads a path, which may begin with ~/. An empty one changes nothing.
func (v value) absolute(to *string) error {
	text, err := v.string()
	if err != nil || text == "" {
		return err
	}
	if text == "~" || strings.HasPrefix(text, "~/") {
		if !filepath.IsAbs(v.home) {
			return errors.New("~ stands for HOME, which is not set")
		}
		text = filepath.Join(v.home, text[1:])
	}
	if !filepath.IsAbs(text) {
		return fmt.Errorf("%q is relative; write an absolute path or one that begins with ~/", text)
	}
	*to = filepath.Clean(text)
	return nil
}

// command reads a program: a path, or a name without a slash for PATH.
func (v value) command(to *string) error {
	text, err := v.string()
	if err == nil && text != "" && text != "~" && !strings.Contains(text, "/") {
		*to = text
		return nil
	}
	return v.absolute(to)
}

// mirrors reads pairs of a registry and the URL of a mirror.
func (v value) mirrors(to *map[string][]string) error {
	list, ok := v.any.([]any)
	if !ok && v.any != "" {
		return fmt.Errorf("want an array of strings, found %s", v.kind())
	}
	all := map[string][]string{}
	for _, element := range list {
		text, _ := element.(string)
		registry, address, _ := strings.Cut(text, "=")
		u, err := url.Parse(address)
		if err != nil || registry == "" || u.Host == "" || u.Path != "" || u.User != nil || u.Scheme != "https" && u.Scheme != "http" {
			return fmt.Errorf("%q is not of the form \"docker.io=https://mirror.example\"", fmt.Sprint(element))
		}
		all[registry] = append(all[registry], address)
	}
	if len(all) > 0 {
		*to = all
	}
	return nil
}

func (v value) count(to *int) error {
	n, ok := v.any.(int64)
	if !ok {
		return fmt.Errorf("want a number, found %s", v.kind())
	}
	if n < 1 || n > 1024 {
		return fmt.Errorf("%d is not between 1 and 1024", n)
	}
	*to = int(n)
	return nil
}

// memory reads a size; a bare number counts MiB.
func (v value) memory(to *banger.Size) (err error) {
	var text string
	switch raw := v.any.(type) {
	case string:
		text = raw
	case int64:
		text = strconv.FormatInt(raw, 10)
	default:
		return fmt.Errorf("want a size such as \"2G\" or a number of MiB, found %s", v.kind())
	}
	*to, err = banger.ParseSize(text, banger.MiB)
	return err
}

// size reads a size with its unit: without one it could mean MiB or GiB.
func (v value) size(to *banger.Size) (err error) {
	text, ok := v.any.(string)
	if !ok {
		return fmt.Errorf("want a size with its unit such as \"16G\", found %s", v.kind())
	}
	if strings.Trim(text, " .0123456789") == "" {
		return fmt.Errorf("%q has no unit; write a size such as \"16G\"", text)
	}
	*to, err = banger.ParseSize(text, banger.MiB)
	return err
}
