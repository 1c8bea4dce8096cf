package guest

import (
	"bytes"
	"fmt"
	"strings"
)

// IncludeLine returns the line of an ssh configuration that includes file. There are
// paths that ssh's versions read differently; for those it returns an error.
func IncludeLine(file string) (string, error) {
	if strings.ContainsAny(file, "\n\r\"%$*?[]{}\\") {
		return "", fmt.Errorf("ssh cannot include a file whose path has special characters: %q", file)
	}
	return `Include "` + file + `"`, nil
}

// Include returns an ssh configuration with line at its top, where it counts for all
// hosts. It changes nothing else, and nothing at all if line is in effect already.
func Include(config []byte, line string) []byte {
	if inEffect(config, line) {
		return config
	}
	end := "\n"
	if first, _, found := bytes.Cut(config, []byte("\n")); found && bytes.HasSuffix(first, []byte("\r")) {
		end = "\r\n"
	}
	return append([]byte(line+end), Exclude(config, line)...)
}

// Exclude returns an ssh configuration without the lines that are equal to line.
func Exclude(config []byte, line string) []byte {
	var rest []byte
	for text := range bytes.Lines(config) {
		if string(bytes.TrimSpace(text)) != line {
			rest = append(rest, text...)
		}
	}
	return rest
}

// inEffect reports whether line stands before the first block, which would limit it to
// some hosts.
func inEffect(config []byte, line string) bool {
	for text := range bytes.Lines(config) {
		text := strings.TrimSpace(string(text))
		if text == line {
			return true
		}
		keyword, _, _ := strings.Cut(strings.Replace(text, "=", " ", 1), " ")
		keyword, _, _ = strings.Cut(keyword, "\t")
		if strings.EqualFold(keyword, "host") || strings.EqualFold(keyword, "match") {
			return false
		}
	}
	return false
}
