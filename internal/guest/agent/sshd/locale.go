package sshd

import (
	"bytes"
	"encoding/binary"
	"io"
	"os"
	"strings"
)

// defaultLocale is part of the C library.
const defaultLocale = "C.UTF-8"

// isLocale reports whether a variable names a locale.
func isLocale(variable string) bool {
	return variable == "LANG" || strings.HasPrefix(variable, "LC_")
}

// hasLocale reports whether the C library finds a locale in dir. One that it does not
// find makes bash and perl complain at each start.
func hasLocale(dir, locale string) bool {
	switch usual := normalLocale(locale); {
	case locale == "", usual == "C", usual == "POSIX", usual == "C.utf8":
		return true
	case strings.Contains(locale, "/") || locale[0] == '.' || dir == "":
		return false
	default:
		for _, name := range []string{locale, usual} {
			if info, err := os.Stat(dir + "/" + name); err == nil && info.IsDir() {
				return true
			}
		}
		return archiveHas(dir+"/locale-archive", usual)
	}
}

// normalLocale writes the name of a locale as localedef does: the character set in small
// letters and digits.
func normalLocale(locale string) string {
	name, modifier, modified := strings.Cut(locale, "@")
	name, set, ok := strings.Cut(name, ".")
	if ok {
		name += "." + strings.Map(func(r rune) rune {
			switch {
			case r >= 'A' && r <= 'Z':
				return r + 'a' - 'A'
			case r >= 'a' && r <= 'z', r >= '0' && r <= '9':
				return r
			}
			return -1
		}, set)
	}
	if modified {
		name += "@" + modifier
	}
	return name
}

const (
	archiveMagic = 0xde020109
	maxNames     = 1 << 20 // bounds the names that are read
)

// archiveHas reports whether glibc's archive of locales has one of this name. Its header
// tells where the names are.
func archiveHas(file, name string) bool {
	f, err := os.Open(file)
	if err != nil {
		return false
	}
	defer f.Close()
	var header struct{ Magic, Serial, HashAt, HashUsed, HashSize, NamesAt, NamesUsed, NamesSize uint32 }
	if binary.Read(f, binary.NativeEndian, &header) != nil || header.Magic != archiveMagic {
		return false
	}
	names, err := io.ReadAll(io.NewSectionReader(f, int64(header.NamesAt), int64(min(header.NamesUsed, maxNames))))
	return err == nil && bytes.Contains(append([]byte{0}, names...), []byte("\x00"+name+"\x00"))
}
