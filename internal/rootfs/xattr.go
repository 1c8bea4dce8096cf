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

	// All attributes of a file have to fit into one block, and the writer sorts
	// more than a dozen of them in an order that the kernel does not search.
	maxXattrs     = 12
	maxXattrBytes = 4096 - 32 - 4
)

// cleanXattrs returns the extended attributes of an entry as PAX records.
// Attributes that no ext4 file can have are left out, and so are those of
// overlayfs: in a lower layer they would be orders to it.
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
			return nil, refuse(h.Name, "the name of an attribute is longer than %d bytes", maxName)
		}
		room -= (len(name)+3)&^3 + 16 + (len(value)+3)&^3
		records[key] = value
	}
	if room < 0 || len(records) > maxXattrs {
		return nil, refuse(h.Name, "its attributes do not fit into one block")
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

// diskACL turns an access list from the form in which the kernel hands it out
// into the one ext4 stores: version 1, and an id only where it means
// something. The former in the place of the latter makes each use of the file
// fail with EINVAL. A list without entries is none.
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
