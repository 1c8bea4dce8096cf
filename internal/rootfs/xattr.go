package rootfs

import (
	"archive/tar"
	"encoding/binary"
	"errors"
	"strings"
)

const (
	xattrPrefix = "SCHILY.xattr."

	aclAccess  = "system.posix_acl_access"
	aclDefault = "system.posix_acl_default"

	// All attributes of a file have to fit into one block. tar2ext4 sorts more than
	// a dozen of them in an order in which the kernel does not find them.
	maxXattrs     = 12
	maxXattrBytes = 4096 - 32 - 4
)

// cleanXattrs returns the extended attributes of an entry as PAX records. It leaves
// out attributes that ext4 cannot store, and those of overlayfs, which would take
// them for its own.
func cleanXattrs(h *tar.Header) (map[string]string, error) {
	records := map[string]string{}
	room := maxXattrBytes
	for key, value := range h.PAXRecords {
		name, ok := strings.CutPrefix(key, xattrPrefix)
		if !ok || !storable(name) {
			continue
		}
		if name == aclAccess || name == aclDefault {
			acl, err := diskACL(value)
			if err != nil {
				return nil, refuse(h.Name, "its access list %s %w", name, err)
			}
			if acl == "" {
				continue
			}
			value = acl
		}
		if len(name) > maxName {
			return nil, refuse(h.Name, "an attribute's name is longer than %d bytes", maxName)
		}
		room -= (len(name)+3)&^3 + 16 + (len(value)+3)&^3
		records[key] = value
	}
	if room < 0 || len(records) > maxXattrs {
		return nil, refuse(h.Name, "its attributes do not fit into one block of 4 KiB")
	}
	return records, nil
}

func storable(name string) bool {
	switch {
	case name == aclAccess, name == aclDefault:
		return true
	case strings.HasPrefix(name, "trusted.overlay."):
		return false
	}
	for _, space := range []string{"security.", "trusted.", "user."} {
		if len(name) > len(space) && strings.HasPrefix(name, space) {
			return true
		}
	}
	return false
}

var errACL = errors.New("is not in the kernel's form")

// diskACL converts an access list from the kernel's form into ext4's: version 1, with
// ids only for named users and groups. If ext4 stored the kernel's form, every use of
// the file would fail with EINVAL. diskACL returns "" for a list without entries.
func diskACL(value string) (string, error) {
	const (
		kernelVersion, diskVersion = 2, 1
		entrySize                  = 8
		tagUser, tagGroup          = 2, 8
		knownTags                  = 0x01 | tagUser | 0x04 | tagGroup | 0x10 | 0x20
	)
	le := binary.LittleEndian
	b := []byte(value)
	if len(b) < 4 || le.Uint32(b) != kernelVersion || (len(b)-4)%entrySize != 0 {
		return "", errACL
	}
	if len(b) == 4 {
		return "", nil
	}
	out := le.AppendUint32(nil, diskVersion)
	for b = b[4:]; len(b) > 0; b = b[entrySize:] {
		tag, perm := le.Uint16(b), le.Uint16(b[2:])
		if tag&(tag-1) != 0 || tag&knownTags == 0 || perm > 7 {
			return "", errACL
		}
		out = append(out, b[:4]...)
		if tag == tagUser || tag == tagGroup {
			out = append(out, b[4:entrySize]...)
		}
	}
	return string(out), nil
}
